"""A study in one file, from which anyone runs it again and learns whether the figures come out the same.

study.zip holds JSON only: study.json, the config of each cell, and of each run the result and the log of its scalars.
"""

import json
import math
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from mapjax import regular
from mapjax.config import foreign, migrate
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.study import runs, statistics, sweep
from mapjax.study.results import Row

ONE_SEED = 0.02  # how far figures near 1 may be apart where there is no spread over seeds to go by
MOST_BYTES = 64 << 20  # of a file in a bundle, unpacked
LEAST = 0.002  # and where there is, at least


class Reproduced(NamedTuple):
    """One figure of one run, before and now (NaN: it was not run, or has none), and how far apart they may be."""

    run: str
    metric: str
    before: float
    now: float
    tolerance: float
    alike: bool

    @property
    def verdict(self) -> str:
        """In words; `alike` is whether code, device and versions are those of before."""
        if math.isnan(self.now):
            return "NOT there: the run has failed, or has not reported it"
        if self.before == self.now:
            return "the same bits"
        if abs(self.before - self.now) > self.tolerance:
            return "NOT reproduced"
        return "reproduced" + (", but not bit for bit with the same code, device and versions" if self.alike else "")


def write(path: pathlib.Path, study: sweep.Study, listed: Sequence[runs.Job], about: Mapping[str, Any]) -> None:
    """Write the bundle of a study; runs that are not finished are left out.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("study.json", json.dumps(about, indent=1))
            for cell in study.cells:
                file.writestr(f"cells/{cell.name}.json", json.dumps(configs.to_dict(cell.config), indent=1))
            for job in listed:
                if runs.is_finished(job, study):
                    where = {"": job.folder, **{f"{name}/": at for name, at in runs.tests(job, study).items()}}
                    for test, folder in where.items():
                        place = f"runs/{job.cell.name}/seed-{job.seed}/{test}"
                        file.write(folder / "result.json", f"{place}result.json")
                    file.write(job.folder / "metrics.jsonl", f"runs/{job.cell.name}/seed-{job.seed}/metrics.jsonl")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); mend that, or name another --workdir."
        ) from error


def read(path: pathlib.Path, data: str | None = None, trust: bool = False) -> tuple[sweep.Study, dict[str, Any]]:
    """Read the study of a bundle, and what study.json says.

    Args:
      data: where its data is on this machine, "voc:DIR"; what differs from the bundle's is told, by its fingerprint.
      trust: its configs may name modules that are not mapjax's own; their code is run.

    Raises:
      UserError: no such file, or it is no bundle, or none that may be run.
    """
    try:
        with regular.open_file(path) as stream, zipfile.ZipFile(stream) as file:
            about = _json(file, "study.json")
            cells = tuple(
                sweep.Cell(
                    one["name"],
                    migrate.overrides(one["overrides"]),
                    _config(f"cells/{one['name']}.json", file, data, trust),
                )
                for one in about["cells"]
            )
        names = ("experiment", "baseline", "metrics", "tests", "by_class")
        known = {name: about[name] for name in names}
        known["tests"] = {name: migrate.overrides(changes) for name, changes in known["tests"].items()}
        made = sweep.Study(
            **known, data=data or about["data"], more={}, cells=cells, seeds=tuple(about["seeds"]), ranges={}
        )
        _require_sound(about)
        made = sweep.require_sound(made)
        for name, changes in made.tests.items():
            tested = sweep.changed(made.cells[0].config, changes)
            foreign.refuse(configs.to_dict(tested), f"study.json: test {name!r}", trust)
        return made, about
    except OSError as error:
        raise UserError(f"--from {path} cannot be read ({error.strerror}).") from error
    except UserError as error:
        raise UserError(f"--from {path}: {error}") from error
    except _DAMAGE as error:
        raise UserError(f"--from {path} is no bundle of a study ({error}); make one with --bundle.") from error


# What zipfile, zlib, json and a look into what they give make of a file that is damaged or of another kind.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, TypeError, AttributeError, ValueError, IndexError,
)  # fmt: skip


# Values of study.json that are only told, or looked up when the study has been run.
_TOLD = {"experiment": str, "data": str | None, "by_class": str, "environment": dict | None}


def _json(file: zipfile.ZipFile, name: str) -> Any:
    """Read a member, of which a small file may claim any length."""
    with file.open(name) as member:
        data = member.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"{name} unpacks to more than {MOST_BYTES >> 20} MiB.")
    return json.loads(data)


def _require_sound(about: Mapping[str, Any]) -> None:
    """Refuse a study.json of which something would fail only when its study has been run again."""
    for key, kind in _TOLD.items():
        if not isinstance(about.get(key), kind):
            raise UserError(f"study.json: {key}={about.get(key)!r} must be of another type; make it with --bundle.")
    for cell in about["cells"]:
        for metric, found in cell.get("metrics", {}).items():
            for seed, figure in found["by_seed"].items():
                if not isinstance(figure, int | float | None) or not abs(figure or 0) <= sys.float_info.max:
                    raise UserError(
                        f"study.json: {metric} of {cell['name']}, seed {seed} is no number but {figure!r:.40}."
                    )


def _config(name: str, file: zipfile.ZipFile, data: str | None, trust: bool) -> ConfigDict:
    config: Any = configs.saved(_json(file, name), name, trust)
    given = configs.parse_data(data) if data else None
    if given is None or config.data.name != given["name"]:
        return configs.with_data(config, data) if data else config
    # The same data at another place: what else the cell says of it holds.
    return configs.from_dict(configs.to_dict(config) | {"data": {**config.data.to_dict(), **given}})


def require_seeds(before: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Refuse seeds that a bundle has no figures of.

    Raises:
      UserError: one that it has not.
    """
    for seed in seeds:
        if seed not in before["seeds"]:
            raise UserError(f"--seeds {seed}: the bundle has the seeds {', '.join(map(str, before['seeds']))} only.")


def say_what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what is other than it was for a bundle: code, versions, devices, data; by study.json of both."""
    said = []
    if before.get("code") != now["code"]:
        said.append(f"the code is other: revision {before.get('revision')} then, {now['revision']} now")
    for name, value in now["environment"].items():
        if before.get("environment", {}).get(name) != value:
            said.append(f"{name} is other: {before.get('environment', {}).get(name)} then, {value} now")
    return said


def compare(
    before: Mapping[str, Any], study: sweep.Study, rows: Sequence[Row], about: Mapping[str, Any]
) -> list[Reproduced]:
    """Hold the figures of a bundle against those of its study now, run by run.

    Two figures of a run are within tolerance where they differ by no more than two trainings with other seeds would, 95
    times of 100, by the spread over seeds of all cells of the bundle together.

    Args:
      before: study.json of the bundle.
      study: what was run of it.
      about: study.json now.
    """
    alike = all(before.get(name) == about[name] for name in ("environment", "code"))
    known = {one["name"]: one.get("metrics", {}) for one in before["cells"]}
    now = {row.name: row.metrics for row in rows}
    found = []
    for metric in study.metrics:
        old = {name: _figures(metrics, metric) for name, metrics in known.items()}
        spread = _spread([list(by_seed.values()) for by_seed in old.values()])
        for cell in study.cells:
            here = now[cell.name][metric].by_seed if metric in now[cell.name] else {}
            for seed in (seed for seed in study.seeds if str(seed) in old[cell.name]):
                value = old[cell.name][str(seed)]
                scale = max(1.0, abs(value))
                tolerance = ONE_SEED * scale if math.isnan(spread) else max(spread, LEAST * scale)
                name = f"{cell.name}, seed {seed}"
                found.append(Reproduced(name, metric, value, here.get(seed, math.nan), tolerance, alike))
    return found


def _figures(metrics: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Give the figures of a metric by seed, without those that were not numbers."""
    by_seed = metrics.get(metric, {}).get("by_seed", {})
    return {seed: figure for seed, figure in by_seed.items() if figure is not None}


def _spread(groups: Sequence[Sequence[float]]) -> float:
    """Give how far two figures of one cell are apart at most, 95 times of 100; NaN where no cell has two."""
    freedom = sum(len(group) - 1 for group in groups if group)
    if not freedom:
        return math.nan
    squares = sum(float(np.square(np.asarray(group) - np.mean(group)).sum()) for group in groups if group)
    return float(stats.t.ppf((1 + statistics.LEVEL) / 2, freedom)) * math.sqrt(2 * squares / freedom)


def report(compared: Sequence[Reproduced]) -> str:
    """Write what came out the same as a table in Markdown."""
    lines = ["| run | metric | before | now | tolerance | |", "|---|---|---:|---:|---:|---|"]
    for one in compared:
        lines.append(
            f"| {one.run} | {one.metric} | {one.before:.4f} | {one.now:.4f} | {one.tolerance:.4f} | {one.verdict} |"
        )
    bad = sum(one.verdict.startswith("NOT") for one in compared)
    same = sum(one.before == one.now for one in compared)
    return "\n".join([*lines, "", f"Of {len(compared)} figures {same} are the same bits and {bad} not reproduced.", ""])
