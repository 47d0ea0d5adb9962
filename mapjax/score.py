"""Scoring a trained run again: on its own held-out split, another split, or other data with the same classes."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from mapjax import config as configs
from mapjax import run, workdir
from mapjax.data.source import Record, Records, Source
from mapjax.errors import UserError, near
from mapjax.report import page
from mapjax.task import Counts, Task


def open_source(
    config: ConfigDict, classes: Sequence[str], *, data: str | None = None, split: str | None = None
) -> Source:
    """Open what is to be scored, with its classes in the order in which the run learned them.

    Args:
      config: of the run. classes: that it learned.
      data: other data as on the command line, "voc:DIR". split: its name; None is the run's held-out split.

    Raises:
      UserError: no such data or split, or it has a class that the run did not learn.
    """
    if data is not None:
        node = configs.parse_data(data)
        if isinstance(node.get("annotations"), str):
            node.setdefault("hold_out", 0)  # a file that is named is scored whole
        config = configs.from_dict({**configs.to_dict(config), "data": node})
    return with_classes(run.make_source(config, "eval", split), classes)


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """Renumber the classes of a source as a run learned them; a class without any object here keeps its place.

    Raises:
      UserError: the source has a class that the run did not learn.
    """
    if source.classes == tuple(classes):
        return source
    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        raise UserError(f"{source.name}: the run has not learned its class {unknown[0]!r}.{near(unknown[0], classes)}")
    places = np.array([classes.index(name) for name in source.classes], np.int32)
    ids = dict(zip(source.classes, source.category_ids))
    free = iter(n for n in range(1, 2 * len(classes) + len(ids) + 1) if n not in set(source.category_ids))
    return source._replace(
        classes=tuple(classes),
        category_ids=tuple(ids[name] if name in ids else next(free) for name in classes),
        records=Records(len(source.records), partial(_renumber, source.records, places)),
    )


def write(
    out: pathlib.Path,
    task: Task,
    source: Source,
    counts: Counts,
    result: Mapping[str, Any],
    config: ConfigDict,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write result.json, the task's own files (predictions.json …) and report.html into a folder, made if need be.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in {**task.metric(source).files(counts), "result.json": result}.items():
            workdir.write_json(out / name, content)
        page.write(
            out / "report.html",
            title=title,
            result=result,
            config=configs.to_dict(config),
            history=history,
            source=source,
            counts=counts,
            sections=task.sections,
        )
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another folder.") from error


def described(source: Source) -> dict[str, str]:
    """Say which data a result stands for."""
    return {"name": source.name, "split": source.split, "fingerprint": source.fingerprint}


def table(metrics: Mapping[str, float]) -> Table:
    """Lay out scores for a terminal: the whole, then a row for each class; – is nothing to measure."""
    classes = list(dict.fromkeys(name.partition("/")[2] for name in metrics if "/" in name))
    columns = list(dict.fromkeys(name.partition("/")[0] for name in metrics if "/" in name))
    columns += [name for name in metrics if "/" not in name and name not in columns]
    shown = Table(box=None, pad_edge=False)
    for name in ("", *columns):
        shown.add_column(name, justify="right" if name else "left", no_wrap=True, min_width=5)
    for row in ("", *classes):
        values = (metrics.get(f"{name}/{row}" if row else name) for name in columns)
        shown.add_row(row or "all", *("" if v is None else "–" if v < 0 else f"{v:.3f}" for v in values))
    return shown


def _renumber(records: Sequence[Record], places: np.ndarray, index: int) -> Record:
    """Give a record with its class k called places[k]."""
    record = records[index]
    return {**record, "classes": places[record["classes"]]}
