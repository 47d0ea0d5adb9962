"""A study in one file, from which anyone runs it again and learns whether the figures come out the same.

study.zip holds JSON only: study.json, the config of each cell, and of each run the result and the log of its scalars.
"""

import json
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mapjax import config as configs
from mapjax.errors import UserError
from mapjax.study import runs, statistics, sweep
from mapjax.study.results import Row

ONE_SEED = 0.02  # how far figures may be apart where there is no spread over seeds to go by
LEAST = 0.002  # and where there is, at least


class Reproduced(NamedTuple):
    """One figure of one run, before and now: how far apart they may be, and whether they are the same bits."""

    run: str
    metric: str
    before: float
    now: float
    tolerance: float
    alike: bool

    @property
    def verdict(self) -> str:
        """In words; `alike` is whether device and versions are those of before."""
        if self.before == self.now:
            return "the same bits"
        if abs(self.before - self.now) > self.tolerance:
            return "NOT reproduced"
        return "reproduced" + (", but not bit for bit on the same device and versions" if self.alike else "")


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


def read(path: pathlib.Path) -> tuple[sweep.Study, dict[str, Any]]:
    """Read the study of a bundle, and what study.json says.

    Raises:
      UserError: no such file, or it is no bundle.
    """
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read("study.json"))
            cells = tuple(
                sweep.Cell(
                    one["name"],
                    one["overrides"],
                    configs.from_dict(json.loads(file.read(f"cells/{one['name']}.json"))),
                )
                for one in about["cells"]
            )
        seeds = tuple(about["seeds"])
        names = ("experiment", "data", "baseline", "metrics", "tests", "by_class")
        known = {name: about[name] for name in names}
        return sweep.Study(**known, more={}, cells=cells, seeds=seeds, ranges={}), about
    except OSError as error:
        raise UserError(f"--from {path} cannot be read ({error.strerror}).") from error
    except (zipfile.BadZipFile, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"--from {path} is no bundle of a study ({error}); make one with --bundle.") from error


def say_what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what is other than it was for a bundle: code, versions, devices, data; by study.json of both."""
    said = []
    if before.get("code") != now["code"]:
        said.append(f"the code is other: revision {before.get('revision')} then, {now['revision']} now")
    for name, value in now["environment"].items():
        if before.get("environment", {}).get(name) != value:
            said.append(f"{name} is other: {before.get('environment', {}).get(name)} then, {value} now")
    return said


def compare(before: Mapping[str, Any], rows: Sequence[Row], environment: Mapping[str, Any]) -> list[Reproduced]:
    """Hold the figures of a study against those of its bundle, run by run.

    Two figures are within tolerance where they differ by no more than the interval over seeds in the bundle.

    Args:
      before: study.json of the bundle. environment: of the study now, as in its study.json.
    """
    alike = before.get("environment") == environment
    known = {one["name"]: one["metrics"] for one in before["cells"]}
    found = []
    for row in rows:
        for metric, now in row.metrics.items():
            old = known.get(row.name, {}).get(metric, {})
            half = statistics.mean(list(old["by_seed"].values())).half if old else math.nan
            tolerance = ONE_SEED if math.isnan(half) else max(half, LEAST)
            for seed, value in now.by_seed.items():
                if str(seed) in old.get("by_seed", {}):
                    name = f"{row.name}, seed {seed}"
                    found.append(Reproduced(name, metric, old["by_seed"][str(seed)], value, tolerance, alike))
    return found


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
