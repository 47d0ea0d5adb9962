"""Scoring a trained run again: on its own held-out split, another split, or other data with the same classes."""

import contextlib
import inspect
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.data import labels
from mapjax.data.checks import overview
from mapjax.data.source import Record, Records, Source, name_of, truth_of
from mapjax.errors import NoSuchSplit, UserError, near
from mapjax.report import page, views
from mapjax.runs import sources
from mapjax.runtime import workdir
from mapjax.task import Counts, Metric
from mapjax.weights import class_names as published

MOST_CLASSES, FEW = 100, 20  # that a terminal shows, and how many of more
_WIDTH, _NAME = 5, 16  # letters of a figure; of the name of a class that are shown however narrow the terminal


def open_source(
    config: Any,
    classes: Sequence[str],
    *,
    data: str | None = None,
    split: str | None = None,
    learned: Mapping[str, str] = MappingProxyType({}),
) -> Source:
    """Open what is to be scored, with its classes in the order in which the run learned them.

    Args:
      config: of the run.
      classes: that it learned.
      data: other data as on the command line, "voc:DIR", of which nothing is held out; or the run's own at another
        place, as its fingerprint tells.
      split: its name; None is the run's held-out split, or where other data has none of that name its val, test or
        train.
      learned: the fingerprints of the run's data, as its checkpoint has them.

    Raises:
      UserError: no such data or split, or it has a class that the run did not learn.
    """
    if data is None:
        return with_classes(sources.make_source(config, "eval", split), classes)
    given = configs.parse_data(data)
    moved: Any = configs.from_dict({**configs.to_dict(config), "data": configs.merged(config.data.to_dict(), given)})
    if given["name"] == config.data.name and (own := _held_out(moved, learned)) is not None:
        return with_classes(own if split is None else sources.make_source(moved, "eval", split), classes)
    node = moved.data.to_dict()
    if "hold_out" in inspect.signature(parts.find("data.formats", node["name"])).parameters:
        node.setdefault("hold_out", 0)
    config = configs.from_dict({**configs.to_dict(config), "data": node})
    for name in () if split else (str(config.splits.eval), "val", "test", "train"):
        with contextlib.suppress(NoSuchSplit):
            return with_classes(sources.make_source(config, "eval", name), classes)
    return with_classes(sources.make_source(config, "eval", split), classes)


def _held_out(config: Any, learned: Mapping[str, str]) -> Source | None:
    """Open the held-out split of a config where it is the one of the run with these fingerprints; None else."""
    with contextlib.suppress(UserError):
        source = sources.make_source(config, "eval") if "eval" in learned else None
        return source if source is not None and source.fingerprint == learned["eval"] else None
    return None


def seen_before(config: Any, source: Source, learned: Mapping[str, str]) -> str:
    """Say that a run was trained on images that are to be scored, or nothing; by fingerprint, or by their files.

    Args:
      config: of the run, with the place of its data.
      source: what is to be scored.
      learned: as for `open_source`.
    """
    says_nothing = "scores on them say nothing about new images"
    if not learned or source.fingerprint == learned.get("eval"):
        return ""  # what they share was told at the start of the training
    if source.fingerprint in learned.get("fingerprint", "").split("+"):
        return f"the run was trained on these images: {says_nothing}."
    with contextlib.suppress(UserError):  # its data may be gone
        train = sources.make_source(config, "train")
        # Files by their paths; else names, which say something within one data set.
        both = [
            set(overview.files_of(one) or (_names(one) if one.name == source.name else ())) for one in (train, source)
        ]
        if shared := len(both[0] & both[1]):
            return f"the run was trained on {shared} of these {len(source.records)} images: {says_nothing}."
    return ""


def _names(source: Source) -> set[str]:
    return {name_of(source, index) for index in range(len(source.records))}


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """Renumber the classes of a source as a run learned them; a class without any object here keeps its place.

    Where the run's are ImageNet's, COCO's or VOC's, those of the source may be written in several ways
    (weights/class_names.py).

    Raises:
      UserError: the source has a class that the run did not learn.
    """
    if source.classes == tuple(classes):
        return source
    known = published.of(classes)
    if known:
        source = source._replace(classes=published.match(source.classes, known, source.name))
    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        raise UserError(f"{source.name}: the run has not learned its class {unknown[0]!r}.{near(unknown[0], classes)}")
    places = np.array([classes.index(name) for name in source.classes], np.int32)
    records = source.records
    own: Any = getattr(records, "labels", lambda: None)()
    if own is not None:
        kind = "labels" if own.ndim == 2 else "label"
        own = labels.renumber({kind: own}, places, len(classes))[kind]
    files: Any = getattr(records, "files", lambda: None)()
    sizes: Any = getattr(records, "sizes", lambda: None)()
    label_map: Any = getattr(records, "label_map", None)
    ids = dict(zip(source.classes, source.category_ids))
    if known and ids.items() <= (official := _numbers(known)).items():
        ids = official  # of the classes that this source does not have too
    free = iter(n for n in range(1, 2 * len(classes) + len(ids) + 1) if n not in set(source.category_ids))
    return source._replace(
        classes=tuple(classes),
        category_ids=tuple(ids[name] if name in ids else next(free) for name in classes),
        records=Records(
            len(records),
            partial(_renumber, records.__getitem__, places, len(classes)),
            own,
            files,
            truth=partial(_renumber, partial(truth_of, source), places, len(classes)),
            sizes=sizes,
            label_map=None if label_map is None else partial(_label_map, label_map, places, len(classes)),
        ),
    )


def write(
    out: pathlib.Path,
    metric: Metric,
    source: Source,
    counts: Counts,
    result: Mapping[str, Any],
    config: Any,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write result.json, the metric's own files (predictions.json …) and report.html into a folder, made if need be.

    Returns:
      What the metric's own files hold, by name.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = metric.files(counts)
        for name, content in {**files, "result.json": result}.items():
            workdir.write_json(out / name, content)
        page.write(
            out / "report.html",
            title=title,
            result=result,
            config=configs.to_dict(config),
            history=history,
            source=source,
            counts=counts,
            sections=views.sections,
        )
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); mend that, or name another folder.") from error
    return files


def described(source: Source) -> dict[str, str]:
    """Say which data a result stands for."""
    return {"name": source.name, "split": source.split, "fingerprint": source.fingerprint}


def folder_for(base: pathlib.Path, asked: Mapping[str, Any]) -> pathlib.Path:
    """Give the folder of an evaluation: `base`, or with a number behind it where others were made there before.

    Args:
      base: the folder of the first.
      asked: what is scored and how, as result.json has it; the same again replaces what it gave.
    """

    def is_for_it(folder: pathlib.Path) -> bool:
        if not (folder / "result.json").exists():
            return True
        try:
            held = workdir.read_json(folder / "result.json")
        except UserError:  # damaged: what it was for is not known
            return False
        return isinstance(held, dict) and asked == {key: held.get(key) for key in asked}

    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(filter(is_for_it, itertools.chain([base], numbered)))


def table(metrics: Mapping[str, float]) -> RenderableType:
    """Lay out scores for a terminal: the whole, then a row for each class; – is nothing to measure.

    Where names are wider than their figures, those of the whole are listed one below the other. Of more than
    MOST_CLASSES only the FEW with the lowest score are shown, by the first figure that classes have.
    """
    columns = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    by_class = list(dict.fromkeys(name.partition("/")[0] for name in metrics if "/" in name))
    every = classes = list(dict.fromkeys(name.partition("/")[2] for name in metrics if "/" in name))
    caption = None
    if len(every) > MOST_CLASSES:
        known = [label for label in every if metrics.get(f"{by_class[0]}/{label}", -1.0) >= 0]
        classes = sorted(known, key=lambda label: metrics[f"{by_class[0]}/{label}"])[:FEW]
        caption = f"the {len(classes)} of {len(every):,} classes with the lowest {by_class[0]}; result.json has all"
    if all(len(name) <= _WIDTH for name in columns if name in metrics):
        return _grid(metrics, columns, ["", *classes], caption)
    whole = Table.grid(padding=(0, 2))
    for name in columns:
        if name in metrics:
            whole.add_row(name, _figure(metrics[name]))
    return Group(whole, "", _grid(metrics, by_class, classes, caption)) if classes else whole


def errors(found: Mapping[str, Any]) -> RenderableType:
    """Lay out for a terminal what keeps a detector from a higher AP50, by cause (errors.json)."""
    shown = Table(box=None, pad_edge=False)
    for name in ("errors by cause (TIDE)", "number", "AP50, if mended"):
        shown.add_column(name, justify="left" if name.startswith("errors") else "right", no_wrap=True)
    for kind, number in found["numbers"].items():
        gain = found["gains"][kind]
        shown.add_row(kind, f"{number:,}", "–" if gain < 0 else f"+{gain:.3f}")
    return shown


def _grid(metrics: Mapping[str, float], columns: Sequence[str], rows: Sequence[str], caption: str | None) -> Table:
    shown = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in ("", *columns):
        width = max(_WIDTH, len(name)) if name else min(max(map(len, rows), default=0), _NAME)
        shown.add_column(name, justify="right" if name else "left", no_wrap=True, min_width=width)
    for row in rows:
        shown.add_row(row or "all", *(_figure(metrics.get(f"{name}/{row}" if row else name)) for name in columns))
    return shown


def _figure(value: float | None) -> str:
    return "" if value is None else "–" if value < 0 else f"{value:.3f}"


def _numbers(known: published.Labels) -> dict[str, int]:
    """Give the published category ids of classes by their names; {} where they are no numbers."""
    return {name: int(number) for name, number in zip(known.names, known.ids) if number.isdecimal()}


def _renumber(at: Callable[[int], Record], places: np.ndarray, count: int, index: int) -> Record:
    return labels.renumber(at(index), places, count)


def _label_map(at: Callable[[int], np.ndarray], places: np.ndarray, count: int, index: int) -> np.ndarray:
    return labels.renumber({"label_map": at(index)}, places, count)["label_map"]
