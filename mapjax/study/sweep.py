"""The cells of a study: what an experiment file's `sweep()` gives, checked and made into whole configs.

    def sweep():
        return Sweep(
            cells={"none": {}, "flips": {"transform.augment.flip_horizontal": 0.5}},
            baseline="none",
            metrics={"top1": "max"},
        )

`cells` may as well be a generator that yields (name, overrides): grids, ranges and conditions are plain Python.
"""

import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mapjax.config import keys
from mapjax.config import load as configs
from mapjax.data.transforms import augment
from mapjax.errors import UserError, near
from mapjax.runtime import workdir

Overrides = Mapping[str, Any]
DIRECTIONS = ("max", "min")
RANGES = ("uniform", "log", "int", "choice")
# What makes tables of runs: another version of it gives the same runs.
OF_STUDIES = ("mapjax/study/", "mapjax/cli/ablate.py")
_NAME = re.compile(r"[\w.+=-]+")


class Sweep(NamedTuple):
    """A study as its experiment file declares it.

    cells: names with what they change in `get_config()`, by dotted keys; a mapping, or pairs.
    baseline: the cell that the others are compared with.
    metrics: names of figures in result.json, the most telling first, each "max" or "min" as is better; "top1@turned" is
      top1 in the test "turned".
    seeds: of every cell.
    tests: names with what they change when a trained run is scored once more, such as {"turned": {"corruption":
      {"rotate": 30.0}}}.
    by_class: the figure whose classes the page compares, such as "recall" for "recall/CLASS".
    ranges: keys of the config that a search may choose: ("uniform", low, high), ("log", low, high), ("int", low, high)
      or ("choice", one, other, …).
    """

    cells: Mapping[str, Overrides] | Iterable[tuple[str, Overrides]]
    baseline: str
    metrics: Mapping[str, str]
    seeds: Sequence[int] = (0, 1, 2)
    tests: Mapping[str, Overrides] = {}
    by_class: str = ""
    ranges: Mapping[str, tuple] = {}


class Cell(NamedTuple):
    """One row of the table: its name, what it changes, and the config that makes (but for the seed)."""

    name: str
    overrides: Overrides
    config: ConfigDict


class Study(NamedTuple):
    """A sweep of which all is known to exist; `experiment`, `data` and `more` are as on the command line.

    program: what runs a cell; "train" or "evaluate" and their arguments follow it.
    trust: its runs may start from what names modules that are not mapjax's own.
    """

    experiment: str
    data: str | None
    more: Mapping[str, str]
    cells: tuple[Cell, ...]
    baseline: str
    metrics: Mapping[str, str]
    seeds: tuple[int, ...]
    tests: Mapping[str, Overrides]
    by_class: str
    ranges: Mapping[str, tuple]
    program: tuple[str, ...] = (sys.executable, "-m", "mapjax")
    trust: bool = False


def load(experiment: str, *, data: str | None = None, more: Mapping[str, str] | None = None) -> Study:
    """Read the sweep of an experiment file.

    Args:
      experiment: FILE[:VARIANT].
      data: other data for all cells, "voc:DIR".
      more: overrides of all cells, as text.

    Raises:
      UserError: no sweep there, a cell twice, a key that does not exist, or a baseline, metric or seed that cannot be.
    """
    sweep = configs.call(experiment, "sweep")
    if not isinstance(sweep, Sweep):
        raise UserError(f"--config {experiment}: sweep() must give a mapjax.study.sweep.Sweep, not {sweep!r}.")
    pairs: list[Any] = list(sweep.cells.items() if isinstance(sweep.cells, Mapping) else sweep.cells)
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(
            f"--config {experiment}: sweep() gives no cell, or cells that are no pairs of a name and a dict."
        )
    more = dict(more or {})
    if "seed" in more:
        raise UserError("--config.seed: each cell has every seed; give them by --seeds.")
    cells = tuple(make_cell(experiment, data, more, name, overrides) for name, overrides in pairs)
    rest = sweep.tests, sweep.by_class, _ranges(sweep.ranges)
    found = require_sound(
        Study(experiment, data, more, cells, sweep.baseline, sweep.metrics, tuple(sweep.seeds), *rest)
    )
    for name, (kind, *values) in found.ranges.items():
        # Also within, as a key of whole numbers takes 1.0 for one, and nothing between.
        if kind in ("uniform", "log"):
            values.append(values[0] + 0.37 * (values[1] - values[0]))
        for value in map(int, values) if kind == "int" else values:
            make_cell(experiment, data, more, "ranges", {name: value})
    return found


def require_sound(study: Study) -> Study:
    """Give a study as it is, where its names, baseline, metrics, tests and seeds go together.

    Raises:
      UserError: they do not, or a name is no folder's: files are written under it.
    """
    for cell in study.cells:
        _require_name(cell.name)
    _require_distinct(study.cells)
    names = [cell.name for cell in study.cells]
    if study.baseline not in names:
        raise UserError(f"sweep(): the baseline {study.baseline!r} is no cell.{near(str(study.baseline), names)}")
    _require_metrics(study)
    _require_tests(study, study.cells[names.index(study.baseline)])
    return study._replace(seeds=_seeds(study.seeds))


def narrowed(study: Study, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
    """Keep the cells of some names, and the baseline that they are compared with; and other seeds.

    Raises:
      UserError: no such cell, or no seeds that can be.
    """
    names = [cell.name for cell in study.cells]
    for name in only:
        if name not in names:
            raise UserError(f"--only {name}: the study has no such cell.{near(name, names)}")
    kept = tuple(cell for cell in study.cells if not only or cell.name in (*only, study.baseline))
    return study._replace(cells=kept, seeds=_seeds(seeds) if seeds else study.seeds)


def key(config: ConfigDict, data: Sequence[str], code: str) -> str:
    """Give what a run is known by: a checksum of its config, its data's fingerprints and the code.

    The fingerprints stand for the places of its data, which may be moved.
    """
    plain = configs.to_dict(config)
    for node in (plain["data"], *(stream["data"] for stream in plain["streams"].values())):
        for name in [name for name, value in node.items() if name != "name" and _is_place(value)]:
            del node[name]
    whole = {"config": plain, "data": list(data), "code": code}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:10]


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and pathlib.Path(value).exists()


def code() -> str:
    """Give one checksum of the code that a run's figures depend on."""
    files = workdir.sources()
    return workdir.code({name: sum_ for name, sum_ in files.items() if not name.startswith(OF_STUDIES)})


def as_text(overrides: Overrides) -> dict[str, str]:
    """Write overrides as a command line has them."""
    return {key: value if isinstance(value, str) else repr(value) for key, value in overrides.items()}


def make_cell(experiment: str, data: str | None, more: Mapping[str, str], name: str, overrides: Overrides) -> Cell:
    """Make a cell of an experiment; `more` are overrides of all cells, before which its own give way.

    Raises:
      UserError: a name that is no folder's, a key that does not exist, or a value that cannot be.
    """
    _require_name(name)
    if "seed" in overrides:
        raise UserError(f"sweep(), cell {name!r}: each cell has every seed; give them as Sweep(seeds=…).")
    try:
        return Cell(name, overrides, configs.load(experiment, {**as_text(overrides), **more}, data=data))
    except UserError as error:
        raise UserError(f"sweep(), cell {name!r}: {error}") from error


def _require_distinct(cells: Sequence[Cell]) -> None:
    """Refuse two cells of one name, or that are one and the same config."""
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.name in seen.values():
            raise UserError(f"sweep() gives two cells the name {cell.name!r}; name one of them otherwise.")
        whole = json.dumps(keys.filled(configs.to_dict(cell.config)), sort_keys=True)
        if whole in seen:
            raise UserError(f"sweep(): the cells {seen[whole]!r} and {cell.name!r} are the same run; leave one out.")
        seen[whole] = cell.name


def _require_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.strip("."):
        raise UserError(f"sweep(): a name is that of a folder: letters, digits and ._+=- only, not {name!r}.")


def changed(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """Give a copy of a config with other values at some keys.

    Raises:
      UserError: a key that does not exist, or a value that cannot be.
    """
    config = configs.from_dict(configs.to_dict(config))
    configs.override_all(config, as_text(overrides))
    return config


def _require_tests(study: Study, base: Cell) -> None:
    """Refuse tests whose keys are not there, before anything is trained."""
    for name, overrides in study.tests.items():
        _require_name(name)
        try:
            config: Any = changed(base.config, overrides)
            augment.complete(config.corruption.to_dict())
        except UserError as error:
            raise UserError(f"sweep(), test {name!r}: {error}") from error


def _require_metrics(study: Study) -> None:
    if not study.metrics:
        raise UserError("sweep() names no metrics; give for example metrics={'top1': 'max'}.")
    for name, direction in study.metrics.items():
        if direction not in DIRECTIONS:
            raise UserError(f"sweep(): metrics[{name!r}]={direction!r} must be 'max' or 'min', as is better.")
        test = name.partition("@")[2]
        if test and test not in study.tests:
            raise UserError(f"sweep(): the metric {name!r} is of a test that there is not.{near(test, study.tests)}")


def _ranges(ranges: Mapping[str, tuple]) -> Mapping[str, tuple]:
    for name, (kind, *values) in ranges.items():
        numbers = len(values) == 2 and all(isinstance(value, int | float) for value in values) and values[0] < values[1]
        if kind not in RANGES or not (values if kind == "choice" else numbers) or (kind == "log" and values[0] <= 0):
            raise UserError(
                f"sweep(): ranges[{name!r}]={(kind, *values)} must be one of {', '.join(RANGES)} with low and high, or "
                "with the choices."
            )
    return ranges


def _seeds(seeds: Sequence[Any]) -> tuple[int, ...]:
    found = tuple(seeds)
    if not found or len(set(found)) < len(found) or any(not isinstance(s, int) or s < 0 for s in found):
        raise UserError(f"the seeds {found} must be whole numbers, 0 or more, each once.")
    return found
