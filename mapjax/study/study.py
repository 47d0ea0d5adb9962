"""A whole study: run what is missing, say how it goes, and leave its tables."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.errors import UserError
from mapjax.runtime import workdir
from mapjax.runtime.log import console
from mapjax.runtime.names import ESCAPED
from mapjax.study import bundle, clusters, page, results, runs, search, sweep, tables


def run_and_write(
    study: sweep.Study,
    listed: Sequence[runs.Job],
    folder: pathlib.Path,
    *,
    devices: Sequence[str] = (),
    bundled: bool = False,
    before: Mapping[str, Any] | None = None,
    cluster: str = "",
) -> int:
    """Run what is not finished and write the tables.

    Args:
      folder: of the study.
      devices: as for runs.run_all.
      bundled: write study.zip as well.
      before: study.json of the bundle whose study this is; reproduced.md then says what came out the same.
      cluster: where to run instead, as for clusters.run_all.

    Returns:
      The exit code, 1 where a run has failed or a figure was not reproduced.
    """
    say_what_changed(folder, study, listed)
    failed, ran, spent = 0, 0, 0.0
    if cluster:
        outcomes = clusters.run_all(study, listed, folder, cluster)
    else:
        outcomes = runs.run_all(study, listed, devices=devices)
    for done, outcome in enumerate(outcomes, 1):
        if not outcome.seconds:
            continue
        ran, spent = ran + 1, spent + outcome.seconds
        left = (len(listed) - done) * spent / ran / max(1, len(devices)) / 60
        how = f"{'FAILED' if outcome.failure else 'finished'} in {outcome.seconds / 60:.1f} min"
        console.print(f"{done}/{len(listed)}  {outcome.job.name}: {how}  eta {left:.1f} min")
        if outcome.failure:
            failed += 1
            console.print(outcome.failure)
        elif ran - failed == 1:  # a name that is misspelt is told now, not at the end
            for sentence in results.unreported(study, outcome.job):
                console.print(sentence)
    rows, about = write(folder, study, listed)
    wrong = sum(bool(row.unreported) for row in rows)
    if failed:
        console.print(f"{failed} of {len(listed)} runs failed; the same command runs them again")
    if bundled:
        bundle.write(folder / "study.zip", study, listed, about)
        console.print(f"{folder / 'study.zip'} holds all that is needed to run the study again")
    if before is not None:
        for line in bundle.say_what_differs(before, about):
            console.print(line)
        compared = bundle.compare(before, study, rows, about)
        (folder / "reproduced.md").write_text(bundle.report(compared), encoding="utf-8", errors=ESCAPED)
        console.print(f"\n{bundle.report(compared)}")
        failed += sum(one.verdict.startswith("NOT") for one in compared)
    return 1 if failed or wrong else 0


def write(
    folder: pathlib.Path, study: sweep.Study, listed: Sequence[runs.Job], tried: Sequence[search.Trial] = ()
) -> tuple[list[results.Row], dict[str, Any]]:
    """Compare what is finished; write table.md, table.csv, table.tex, study.html and study.json.

    Returns:
      The rows of the table, and what study.json holds.
    """
    rows = results.collect(study, listed)
    table = tables.markdown(study, rows)
    made = {"code": listed[0].code or sweep.code(), "revision": listed[0].revision or workdir.revision()}
    made_by = {**made, "environment": results.environment(rows, listed)}
    about = {**made_by, **results.as_dict(study, rows), "search": [one._asdict() for one in tried]}
    try:
        for name, text in {
            "table.md": table,
            "table.csv": tables.comma_separated(study, rows),
            "table.tex": tables.latex(study, rows),
            "study.html": page.render(study, rows, folder, about),
        }.items():
            (folder / name).write_text(text, encoding="utf-8", errors=ESCAPED)
        workdir.write_json(folder / "study.json", about)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); mend that, or name another folder.") from error
    console.print(f"\n{table}")
    console.print(f"look at {folder / 'study.html'}; the figures are in {folder / 'study.json'}")
    return rows, about


def search_and_write(study: sweep.Study, folder: pathlib.Path, number: int) -> int:
    """Search over the ranges of a study by so many trials, and write the tables; give the exit code."""
    say_what_changed(folder, study, runs.jobs(study, folder))
    whole, listed, tried = search.run(study, folder, number)
    write(folder, whole, listed, tried)
    first, direction = next(iter(study.metrics.items()))
    finished = [one for one in tried if one.state == "finished" and one.value is not None]
    if not finished:
        console.print("no trial was finished")
        return 1
    best = (max if direction == "max" else min)(finished, key=lambda one: one.value or 0.0)
    options = " ".join(f"--config.{key}={value}" for key, value in sweep.as_text(best.values).items())
    console.print(f"the best is {best.name}, {first} {best.value:.4f} with seed {study.seeds[0]} alone: {options}")
    return 0


def say_what_changed(folder: pathlib.Path, study: sweep.Study, listed: Sequence[runs.Job]) -> None:
    """Tell of results in the folder that this study does not use: those of other code, configs or data."""
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):  # none, or a damaged one: it is replaced
        before: Any = workdir.read_json(folder / "study.json")
        cells, seeds = len(before["cells"]), len(before["seeds"])
        if not before.get("search") and (cells > len(study.cells) or seeds > len(study.seeds)):
            console.print(
                f"the tables in {folder} are of {cells} cells and {seeds} seeds, and become those of "
                f"{len(study.cells)} and {len(study.seeds)}; to keep them, name another --workdir"
            )
        if before["code"] != sweep.code():
            console.print(
                f"{folder} holds results of other code (revision {before['revision']}, and this is "
                f"{workdir.revision()}): its cells are run again; to keep them, name another --workdir"
            )
    ours = {job.folder for job in listed}
    names = {cell.name for cell in study.cells}
    others = [path for path in folder.glob("cells/*/seed-*") if path not in ours and path.parent.name in names]
    stale = [path for path in others if int(path.name.split("-")[1]) in study.seeds]
    if stale:
        console.print(f"{len(stale)} runs in {folder} are of another config, code or data, and are left as they are")
