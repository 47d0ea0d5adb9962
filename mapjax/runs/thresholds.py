"""From which score on an answer counts: the one that is asked for, or the best for F1 of each class, as a run found it.

An evaluation writes them among its scores, "threshold/CLASS" (metrics/best_f1.py): of a training into metrics.jsonl,
step by step, and of `mapjax evaluate` into its result.json.
"""

import contextlib
import numbers
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mapjax.errors import UserError
from mapjax.metrics import best_f1
from mapjax.runtime import log, workdir

DEFAULT, BEST = 0.5, "f1"
METRIC = "precision"  # that finds thresholds
FORMS = f"a number from 0 to 1, {BEST}, or the result.json of an evaluation"


class Threshold(NamedTuple):
    """A threshold, or one for each class.

    said: what it is, in a few words.
    told: a sentence for a user who should know why it is not another; "" for none.
    """

    value: float | Float[np.ndarray, " c"]
    said: str
    told: str = ""


def require_form(asked: Any, key: str = "--score ") -> None:
    """Refuse what is no threshold, before anything slow.

    Raises:
      UserError: another word, a number outside 0 to 1, or a file that is not there.
    """
    if asked is None or asked == BEST:
        return
    number = _number(asked)
    if number is not None:
        if not 0 <= number <= 1:
            raise UserError(f"{key}{asked} must be from 0 to 1.")
    elif not isinstance(asked, str | os.PathLike) or not pathlib.Path(asked).is_file():
        raise UserError(f"{key}{asked!r} is no threshold; give {FORMS}.")


def choose(asked: Any, run: Any, folder: pathlib.Path | None, key: str = "--score ") -> Threshold:
    """Choose the threshold to answer by.

    Args:
      asked: one of FORMS; None is what the run has found, or where it has nothing DEFAULT.
      run: the loaded run: its step, classes, task, learned and config.
      folder: of the run; None for published weights.
      key: what stands before it where the user wrote it.

    Raises:
      UserError: no such threshold, none is stored, or those that are belong to other classes.
    """
    require_form(asked, key)
    number = _number(asked)
    if number is not None:
        return Threshold(number, f"a score of {number:g}")
    if asked is not None and asked != BEST:
        return _by_class(_in_file(pathlib.Path(asked), run.classes), run.classes)
    detects = METRIC in _metrics(run)
    found = stored(folder, run) if folder is not None and detects else {}
    if found:
        return _by_class(found, run.classes)
    where = "weights have" if folder is None else f"{folder} has"
    if asked == BEST:
        mend = "--weights … --data FORMAT:PATH" if folder is None else f"--workdir {folder} --checkpoint {run.step}"
        raise UserError(
            f"{key}{BEST}: {where} no score thresholds for this checkpoint; find them with mapjax evaluate {mend}, or "
            f"give {FORMS}."
        )
    told = ""
    if folder is not None and detects:
        told = (
            f"{where} no score thresholds for the checkpoint of step {run.step} (mapjax evaluate --workdir {folder} "
            f"--checkpoint {run.step} finds them): {DEFAULT} is taken for every class."
        )
    return Threshold(DEFAULT, f"a score of {DEFAULT:g}", told)


def _metrics(run: Any) -> list[str]:
    """Name the metrics of a run."""
    asked = run.config.metrics or run.task.metrics
    return [node if isinstance(node, str) else str(node["name"]) for node in asked]


def stored(folder: pathlib.Path, run: Any) -> dict[str, float]:
    """Find the thresholds of a run's checkpoint on its held-out split, by class; {} where it was not scored so.

    -1 is of a class without any right answer.

    Raises:
      UserError: they are of other classes than the run's.
    """
    for file, metrics in _scores(folder, run):
        if found := _of(metrics):
            return _fitting(found, run.classes, file)
    return {}


def _scores(folder: pathlib.Path, run: Any) -> Iterator[tuple[pathlib.Path, Mapping[str, Any]]]:
    """Yield the scores of the checkpoint, with the file that they are from."""
    logged = folder / "metrics.jsonl"
    lines = [line for line in log.read(logged) if line["kind"] == "eval" and line["step"] == run.step]
    yield from ((logged, line) for line in reversed(lines))
    for file in sorted(folder.glob("evaluation-*/result.json")):
        with contextlib.suppress(UserError, AttributeError, TypeError):  # of a damaged one nothing is taken
            result = workdir.read_json(file)
            data = result["data"] if {"data", "checkpoint", "metrics"} <= result.keys() else {}
            known = run.learned.get("eval")  # 0.1 did not save it
            own = data.get("fingerprint") == known if known else data.get("split") == str(run.config.splits.eval)
            if own and result["checkpoint"] == run.step and not result.get("overrides"):
                yield file, dict(result["metrics"])


def _in_file(file: pathlib.Path, classes: Sequence[str]) -> dict[str, float]:
    result = workdir.read_json(file)
    metrics = result.get("metrics") if isinstance(result, dict) else None
    found = _of(metrics) if isinstance(metrics, dict) else {}
    if not found:
        raise UserError(f"{file} has no score thresholds; give the result.json of mapjax evaluate of a detector.")
    return _fitting(found, classes, file)


def _of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Take the thresholds by class out of the scores of an evaluation."""
    start = f"{best_f1.FIGURE}/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def _fitting(found: Mapping[str, Any], classes: Sequence[str], file: pathlib.Path) -> dict[str, float]:
    if other := sorted(found.keys() ^ set(classes)):
        raise UserError(
            f"{file} has score thresholds of other classes than the run ({', '.join(other[:4])}); score the run again "
            "with mapjax evaluate, or give --score a number."
        )
    for name, value in found.items():
        number = _number(value)
        if number is None or not (0 <= number <= 1 or number == -1):
            raise UserError(
                f"{file}: {best_f1.FIGURE}/{name} is {value!r}, not from 0 to 1 (or -1 for none); score the run again "
                "with mapjax evaluate."
            )
    return {name: float(found[name]) for name in classes}


def _by_class(found: Mapping[str, float], classes: Sequence[str]) -> Threshold:
    values = np.array([found[name] if found[name] >= 0 else DEFAULT for name in classes])
    low, high = values.min(), values.max()
    span = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return Threshold(values, f"the score that is best for F1 of each class ({span})")


def _number(value: Any) -> float | None:
    """Give the number that a value or a text is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
