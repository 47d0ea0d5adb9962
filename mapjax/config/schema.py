"""Every key of a run: its default, what its value may be, its unit and what it means. Defaults stand here alone.

What a config leaves out is the default. Only `data`, `transform`, `model` and `task` have none: each names a part, and
the keywords of a part are listed by keys.py. `mapjax train --config FILE --keys` prints the table.
"""

import copy
import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, NamedTuple

from mapjax.config import writable
from mapjax.errors import UserError, near

DURATION = "steps, epochs, examples or % of the training"
LONGEST = 200  # letters of a value in a message
PARTS = ("data", "transform", "model", "task")  # a run is nothing without them


class Rule(NamedTuple):
    """Which values of a type can be: all that it holds for, in words as after "must be"."""

    words: str
    holds: Callable[[Any], bool]


class Key(NamedTuple):
    """One key: `kind` is the type of its values, `unit` theirs, `help` one line, `rule` which of them can be.

    Example:
      >>> from mapjax.config import schema
      >>> schema.KEYS["eval_size"].unit
      'pixels'
    """

    default: Any
    kind: type | UnionType
    unit: str
    help: str
    rule: Rule | None = None


def _least(number: int) -> Rule:
    return Rule(f"at least {number}", lambda value: value >= number)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_size(value: Any) -> bool:
    return len(value) == 2 and all(type(side) is int and side > 0 for side in value) and math.prod(value) <= 2**28


def _names_metric(value: Any) -> bool:
    return _is_name(value.get("name") if isinstance(value, Mapping) else value)


_DTYPES = ("float32", "bfloat16", "float16")
_SEED = Rule("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)  # jax takes others for one of these
_DTYPE = Rule(" or ".join(_DTYPES), lambda value: value in _DTYPES)
_SIZE = Rule("height and width in pixels, as in (480, 640), of at most 2**28 together", _is_size)
_TILE = Rule("height and width in pixels, as in (640, 640), or ()", lambda value: not value or _is_size(value))
_OVER = Rule("union or smaller", lambda value: value in ("union", "smaller"))
_SPLIT = Rule("a name, or several", lambda value: len(value) > 0 and all(map(_is_name, value)))
_METRICS = Rule("names, or dicts with a name, as in ('iou',)", lambda value: all(map(_names_metric, value)))
_TEXTS = Rule("regular expressions, as in ('backbone',)", lambda value: all(map(_is_name, value)))
_SHARES = Rule(
    "shares between 0 and 1, as in (0.667, 0.917)", lambda value: all(fits(float, one) and 0 < one < 1 for one in value)
)
_DECAY = Rule("at least 0 and less than 1", lambda value: 0 <= value < 1)
_SHARE = Rule("from 0 to 1", lambda value: 0 <= value <= 1)
_FINITE = Rule("at least 0, and finite", lambda value: 0 <= value < math.inf)


KEYS: dict[str, Key] = {
    "seed": Key(0, int, "", "seed of the first parameters, the order of the data and every augmentation", _SEED),
    "dtype": Key(
        "float32", str, "", "of the network's arithmetic: float32, bfloat16, float16; parameters are float32", _DTYPE
    ),
    "data": Key({}, dict, "", "where images come from: a part of data/formats, which --data writes"),
    "streams": Key({}, dict, "", "further sources of a batch, by name, each with data, transform, batch or share"),
    "proposals": Key(
        "", str, "", "boxes from outside for two_stage: beside (the data), a folder, or a COCO results file"
    ),
    "splits.train": Key(
        "train", str | tuple, "", "split to learn from; of several, the first that the data has", _SPLIT
    ),
    "splits.eval": Key(
        "val",
        str | tuple,
        "",
        "held-out split to score; of several, the one in the place of splits.train's",
        _SPLIT,
    ),
    "image_size": Key((224, 224), tuple, "pixels", "height and width of the images in training", _SIZE),
    "eval_size": Key(None, tuple | None, "pixels", "height and width in evaluation; None: image_size", _SIZE),
    "progressive_sizes": Key((), tuple, "share, pixels", "images that grow: ((0.0, (128, 128)), (0.6, (192, 192)))"),
    "multi_scale": Key(
        (), tuple, "pixels", "sizes that take turns in training, 10 steps each: ((256, 256), (320, 320), (384, 384))"
    ),
    "calm_last": Key(
        0.0,
        float,
        "share of the training",
        "at its end without mosaic, MixUp, copy-paste, jitter, iou_crop and multi_scale",
        _DECAY,
    ),
    "transform": Key({}, dict, "", "how a record becomes an example, and augmentation: a part of data/transforms"),
    "input.threads": Key(
        0, int, "threads", "how many decode and augment, in each worker; 0: one for each core", _least(0)
    ),
    "input.workers": Key(
        0, int, "processes", "how many decode and augment; 0: threads of the training process do", _least(0)
    ),
    "input.prefetch": Key(2, int, "batches", "how many are kept ready on the devices", _least(0)),
    "batch": Key(32, int, "examples", "size of a training step, over all devices", _least(1)),
    "accumulate": Key(
        1, int, "parts", "how many a batch is computed in, one after the other, to save memory", _least(1)
    ),
    "duration": Key("10 epochs", str | int, "steps, epochs or examples", "length of the training"),
    "sampling": Key(
        "uniform", str, "", "order of the data: uniform, or with the classes evened out: over, under, sqrt"
    ),
    "init_from": Key("", str, "", "weights to start from: a file, a name or the folder of a run; empty: random ones"),
    "model": Key({}, dict, "", "the network: a part of models"),
    "task": Key({}, dict, "", "what is learned, and how it answers: a part of tasks"),
    "metrics": Key((), tuple, "", "what is scored: names, or parts with options; (): what the task has", _METRICS),
    "optimizer.name": Key("adamw", str, "", "adamw, sgd, or muon, which is adamw but for kernels (engine/muon.py)"),
    "optimizer.learning_rate": Key(1e-3, float, "", "learning rate at its peak, after the warm-up", _FINITE),
    "optimizer.momentum": Key(0.9, float, "", "momentum of sgd, and of muon's kernels", _DECAY),
    "optimizer.nesterov": Key(False, bool, "", "Nesterov's momentum, in sgd"),
    "optimizer.b1": Key(0.9, float, "", "decay of the mean of the gradients, in adamw and muon", _DECAY),
    "optimizer.b2": Key(0.999, float, "", "decay of the mean of their squares, in adamw and muon", _DECAY),
    "optimizer.eps": Key(1e-8, float, "", "added to the root of that mean, in adamw and muon", _least(0)),
    "optimizer.weight_decay": Key(
        0.05, float, "", "decay for a learning rate of 1; sgd adds it to the gradient", _least(0)
    ),
    "optimizer.decay": Key("kernel$", str, "regex", "path of the parameters that decay"),
    "optimizer.clip": Key(10.0, float, "", "largest norm of the whole gradient; 0: it is not clipped", _least(0)),
    "optimizer.lr_multipliers": Key((), tuple, "regex, factor", "of the learning rate by path; the first match holds"),
    "optimizer.freeze": Key((), tuple, "regex", "paths of the parameters that training leaves alone", _TEXTS),
    "schedule.name": Key("cosine", str, "", "how the learning rate falls: cosine, linear, steps, polynomial, constant"),
    "schedule.warmup": Key("5 %", str | int, DURATION, "time in which the learning rate first rises from 0"),
    "schedule.final": Key(0.0, float, "share of the peak", "end of cosine, linear and polynomial", _least(0)),
    "schedule.at": Key(
        (0.667, 0.917), tuple, "share of the training", "when the learning rate of steps falls", _SHARES
    ),
    "schedule.factor": Key(0.1, float, "", "by which the learning rate of steps is multiplied there", _least(0)),
    "schedule.power": Key(0.9, float, "", "power of polynomial", _least(0)),
    "ema": Key(0.0, float, "", "decay of the average of the parameters, which then answers; 0: there is none", _SHARE),
    "mesh.data": Key(-1, int, "devices", "how many share a batch; -1, here or at another axis: all that are left"),
    "mesh.fsdp": Key(1, int, "devices", "how many share a batch, and each large parameter too"),
    "mesh.model": Key(1, int, "devices", "how many share channels and heads"),
    "mesh.pipe": Key(1, int, "devices", "how many share the blocks of a stacked network"),
    "rules": Key((), tuple, "regex, axes", "where parameters are placed, instead of the network's own rules"),
    "eval_batch": Key(32, int, "images", "size of a step of evaluation, over all devices", _least(1)),
    "slices.size": Key(
        (), tuple, "pixels", "height and width of tiles that a detector answers one by one; (): images whole", _TILE
    ),
    "slices.overlap": Key(0.2, float, "share of a tile", "by which neighbouring tiles overlap, at least", _DECAY),
    "slices.whole": Key(True, bool, "", "the whole image is answered as one more tile"),
    "slices.cut": Key(False, bool, "", "boxes that end at a border of their tile, where the image goes on, are kept"),
    "slices.iou": Key(
        0.5,
        float,
        "",
        "overlap of two boxes of a class above which the weaker is dropped, of all tiles",
        _SHARE,
    ),
    "slices.over": Key("union", str, "", "what that overlap is a share of: union, or the smaller of the boxes", _OVER),
    "every.log": Key("50 steps", str | int, DURATION, "how often losses and speed are written"),
    "every.evaluate": Key("10 %", str | int, DURATION, "how often the held-out split is scored; 0 steps: at the end"),
    "every.save": Key("500 steps", str | int, DURATION, "how often a checkpoint is written"),
    "keep": Key(2, int, "checkpoints", "how many of the last stay on the disk, beside the best", _least(1)),
    "skip_non_finite": Key(
        0, int, "steps", "how many may be left out because their loss or gradient is not finite", _least(0)
    ),
    "corruption": Key({}, dict, "", "change of the held-out images: keys of transform.augment"),
}
STREAM: dict[str, Key] = {  # of each of `streams`
    "data": Key({}, dict, "", "where its images come from: a part of data/formats"),
    "split": Key("train", str, "", "split of it"),
    "transform": Key({}, dict, "", "how its records become examples; {}: as those of the main data do"),
    "batch": Key(0, int, "examples", "size of its part of a batch; 0: by share", _least(0)),
    "share": Key(1.0, float, "share of batch", "size of its part, as a share of the main data's", _least(0)),
    "needs": Key("", str, "", "labels to learn from, with the classes of the main data; empty: none"),
}
GROUPS = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS if "." in key))
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
_WORDS |= {tuple: "a tuple", dict: "a dict", NoneType: "None"}


def defaults() -> dict[str, Any]:
    """Give the config of which nothing is said: nested, and with parts that have no name yet.

    Example:
      >>> from mapjax.config import schema
      >>> schema.defaults()["image_size"]
      (224, 224)
    """
    whole: dict[str, Any] = {}
    for key, one in KEYS.items():
        node, last = _place(whole, key)
        node[last] = copy.deepcopy(one.default)
    return whole


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config with every key of a run: where it says nothing, the default.

    Example:
      >>> from mapjax.config import schema
      >>> schema.complete({"batch": 8, "optimizer": {"name": "sgd"}})["optimizer"]["momentum"]
      0.9
    """
    whole = defaults()
    for key, value in values.items():
        whole[key] = whole[key] | dict(value or {}) if key in GROUPS else value
    for key, one in KEYS.items():
        node, last = _place(whole, key)
        if one.kind is float and type(node[last]) is int:
            node[last] = float(node[last])
    whole["streams"] = {name: stream(node) for name, node in whole["streams"].items()}
    return whole


def stream(node: Any) -> Any:
    """Give a node of `streams` with all its keys; what is no node is left to whoever opens it."""
    return {key: copy.deepcopy(one.default) for key, one in STREAM.items()} | node if isinstance(node, dict) else node


def _place(whole: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Give the node that a key is in, and its name there."""
    name, _, last = key.rpartition(".")
    return whole.setdefault(name, {}) if name else whole, last


def find(key: str) -> Key | None:
    """Give what is known of a dotted key; None of those under a part."""
    top, _, rest = key.partition(".")
    return STREAM.get(rest.partition(".")[2]) if top == "streams" and rest else KEYS.get(key)


def group(name: str) -> dict[str, Any]:
    """Give the defaults of the keys under one name: "optimizer", "schedule", …"""
    return defaults()[name]


def require_known(values: Mapping[str, Any], origin: str) -> None:
    """Check the keys of a plain config, and that each value can be one of its key.

    Args:
      origin: the file or option that says it, for the message.

    Raises:
      UserError: a key that no run has (the near ones are named), or a value that cannot be.
    """
    for name, value in values.items():
        if name in GROUPS and not isinstance(value, Mapping):
            raise UserError(f"{origin}: {name}={value!r} must be a dict.")
        for key, one in {f"{name}.{k}": v for k, v in value.items()}.items() if name in GROUPS else [(name, value)]:
            if key not in KEYS:
                raise UserError(f"{origin}: there is no key {key!r}.{near(key, KEYS)}")
            _require(KEYS[key], key, one, origin)
    for name, node in values.get("streams", {}).items():
        _require_stream(name, node, origin)


def _require_stream(name: Any, node: Any, origin: str) -> None:
    where = f"{origin}: streams.{name}"
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{origin}: streams has the name {name!r}; choose a word, as in {{'unlabelled': …}}.")
    if not isinstance(node, Mapping) or not node.get("data"):
        raise UserError(f"{where} must name its data, as in {{'data': {_EXAMPLES['data']}}}.")
    for key, value in node.items():
        if key not in STREAM:
            raise UserError(f"{where} has no key {key!r}.{near(key, STREAM)}")
        _require(STREAM[key], f"streams.{name}.{key}", value, origin)


def _require(key: Key, name: str, value: Any, origin: str) -> None:
    if found := fault(key, value):
        raise UserError(f"{origin}: {name}={shortened(value)} must be {found}.")


def shortened(value: Any) -> str:
    """Write a value for a message, of a long one its beginning."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def fault(key: Key, value: Any) -> str:
    """Say what a value must be that cannot be one of a key; "" for one that can."""
    if not fits(key.kind, value):
        return words(key.kind)
    if key.rule is None or value is None or key.rule.holds(value):
        return writable.fault(value)
    return key.rule.words


def require_parts(config: Any, origin: str) -> None:
    """Check that a config names the parts without which nothing is a run.

    Raises:
      UserError: one has no name, or one that is no text.
    """
    for key in PARTS:
        if not _is_name(config[key].get("name")):
            raise UserError(f"{origin}: the config names no {key}; write for example {key}={_EXAMPLES[key]}.")


_EXAMPLES = {
    "data": "{'name': 'folder', 'path': 'DIR'}",
    "transform": "{'name': 'crops'}",
    "model": "{'name': 'resnet', 'depth': 50}",
    "task": "{'name': 'classify'}",
}


def fits(kind: type | UnionType, value: Any) -> bool:
    """Say whether a value is of the kind of a key; a whole number is a number too, and a list a tuple."""
    kinds = set(getattr(kind, "__args__", (kind,)))
    if isinstance(value, bool):
        return bool in kinds
    more = {float: int, tuple: list, dict: Mapping}
    return isinstance(value, (*kinds, *(more[kind] for kind in kinds if kind in more)))


def words(kind: type | UnionType) -> str:
    """Write a kind of values for a person: "a tuple or None"."""
    return " or ".join(_WORDS[one] for one in getattr(kind, "__args__", (kind,)))
