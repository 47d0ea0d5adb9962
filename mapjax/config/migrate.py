"""What earlier versions wrote otherwise: their keys, the names of their parts, and their defaults."""

from collections.abc import Mapping
from typing import Any

from mapjax.errors import UserError

RENAMED = {  # keys of 0.1
    "sizes": "progressive_sizes",
    "shift": "corruption",
    "optimizer.factors": "optimizer.lr_multipliers",
}
PARTS = {("task", "detect"): "two_stage", ("transform", "transforms"): "boxes"}  # of 0.1, by their new names
# What a run of 0.1 left out meant this.
LEFT_OUT = {"optimizer.weight_decay": 0.0, "optimizer.clip": 0.0, "schedule.warmup": "0 steps"}
DEFAULTS_NOW = (
    "what it leaves out has today's defaults (optimizer.weight_decay 0.05, optimizer.clip 10, schedule.warmup 5 %), "
    "where in 0.1 it was off: write these three if it should be off again."
)
# Without these nothing ran in 0.1, so that its runs wrote them all; those of today write `streams` as well.
WRITTEN = {"seed", "dtype", "splits", "input", "accumulate", "ema", "mesh", "eval_batch", "every", "keep"}


def migrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config under the names of today, where an earlier version wrote it."""
    found = dict(values)
    for old, new in RENAMED.items():
        group, _, last = old.rpartition(".")
        node = found.get(group) if group else found
        if isinstance(node, Mapping) and last in node:
            kept = {key: value for key, value in node.items() if key != last}
            kept.setdefault(new.rpartition(".")[2], node[last])
            found = found | {group: kept} if group else kept
    for (key, old), new in PARTS.items():
        if isinstance(found.get(key), Mapping) and found[key].get("name") == old:
            found[key] = {**found[key], "name": new}
    if isinstance(task := found.get("task"), Mapping) and task.get("name") == "segment" and "tolerance" in task:
        found.setdefault("metrics", [{"name": "iou", "tolerance": task["tolerance"]}])
        found["task"] = {key: value for key, value in task.items() if key != "tolerance"}
    return found


def saved(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config of a run that an earlier version may have written, under today's names and meaning the same.

    What a person wrote has today's defaults instead.
    """
    found = migrated(values)
    if not values.keys() >= WRITTEN or "streams" in values:
        return found
    for key, before in LEFT_OUT.items():
        group, _, last = key.rpartition(".")
        if isinstance(found.get(group), Mapping):
            found[group] = {last: before} | dict(found[group])
    return found


def overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give overrides under the names of today: dotted key → value; where both names of a key are given, the new counts.

    Example:
      >>> from mapjax.config import migrate
      >>> migrate.overrides({"shift.rotate": 25, "task.name": "detect"})
      {'corruption.rotate': 25, 'task.name': 'two_stage'}
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        for new, one in _override(key, value).items():
            if new == key or new not in given:
                found[new] = one
    return found


def _override(key: str, value: Any) -> dict[str, Any]:
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return {new + key[len(old) :]: value}
    if key == "task.tolerance":
        return {"metrics": ({"name": "iou", "tolerance": value},)}
    part, dot, last = key.rpartition(".")
    if dot and last == "name" and isinstance(value, str):
        return {key: PARTS.get((part, value), value)}
    return migrated({key: value})


def require_new(key: str, value: Any = None) -> None:
    """Refuse the name that an earlier version had for a key, or for the part that a key names.

    Raises:
      UserError: it is such a name; the new one is told.
    """
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            raise UserError(f"--config.{key}: this key is now called {new!r}; write --config.{new}{key[len(old) :]}=….")
    if key == "task.tolerance":
        new = f"({{'name': 'iou', 'tolerance': {value}}},)"
        raise UserError(f'--config.{key}: this is now said to the metric; write --config.metrics="{new}".')
    part = PARTS.get((key.removesuffix(".name"), str(value)))
    if part is not None and key.endswith(".name"):
        raise UserError(f"--config.{key}={value}: this part is now called {part!r}; write --config.{key}={part}.")
