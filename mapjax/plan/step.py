"""The train step that a config describes, compiled for a mesh and not run."""

import contextlib
import math
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from mapjax.data import labels
from mapjax.data.source import Record, Records, Source
from mapjax.engine import evaluate
from mapjax.errors import UserError
from mapjax.runs import evaluation, sources
from mapjax.runs import setup as setups
from mapjax.task import Batch, State

Config = Any  # a ConfigDict; ml_collections gives its values no types

# Classes and training images of the data sets that an experiment names but that are not here.
KNOWN = {"coco": (80, 118_287), "voc": (20, 16_551)}
IMAGENET = (1000, 1_281_167)


class TooLarge(Exception):
    """The compiler finds that the step does not fit; `needed` and `limit` in bytes, 0 where it does not say."""

    def __init__(self, needed: int, limit: int):
        super().__init__(f"the step needs {needed} bytes of {limit}")
        self.needed, self.limit = needed, limit


class Shares(NamedTuple):
    """Bytes on one device of what a step takes, by the shapes (without the compiler's padding)."""

    parameters: int
    optimizer: int
    average: int
    statistics: int
    batch: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


class Compiled(NamedTuple):
    """A compiled step, as the compiler describes it for one device; sizes in bytes.

    text: the program.
    shares: what goes in, by the shapes.
    arguments: what goes in, as laid out.
    outputs: what comes out.
    aliased: what of the outputs takes the place of arguments.
    temporaries: activations, gradients and whatever else lives only within the step.
    code: the program itself.
    flops, bytes: the compiler's own counts, bodies of loops once.
    parameters: their number.
    steps: of an epoch.
    seconds: that compiling took.
    """

    text: str
    shares: Shares
    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    flops: float
    bytes: float
    parameters: int
    steps: float
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that the step needs at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def blank_source(config: Config, classes: int, examples: int) -> Source:
    """Make a source of blank images, for its shapes: where a config's data is not here."""
    height, width = config.image_size
    blank = {
        "id": 0,
        "file": "blank",
        "image": np.zeros((height, width, 3), np.uint8),
        "size": np.array((height, width), np.int32),
        **labels.blank((height, width), "boxes", "masks", "label", "label_map"),
    }
    points = int(config.model.get("keypoints", 0))
    if points:
        blank |= {"keypoints": np.zeros((0, points, 3), np.float32), "mirrored": np.arange(points, dtype=np.int32)}

    def at(_: int) -> Record:
        return blank

    names = tuple(f"class {number}" for number in range(classes))
    known = np.arange(examples, dtype=np.int32) % classes
    joints = tuple(f"keypoint {number}" for number in range(points))
    records = Records(examples, at, known)
    return Source("blank", "train", names, tuple(range(classes)), records, {}, "", keypoints=joints)


def find_source(config: Config, classes: int | None = None, examples: int | None = None) -> tuple[Config, Source, str]:
    """Open the training split, or stand in for it where its files are not here.

    Args:
      config: of the run.
      classes, examples: of the data that is not here; either of them alone leaves the other at what is known of it.

    Returns:
      The config with its splits chosen, the source, and a sentence on what stands in ("" where the data is read).

    Raises:
      UserError: counts that are not positive; data that is here but cannot be read.
    """
    if any(count is not None and count < 1 for count in (classes, examples)):
        raise UserError(f"--classes {classes} and --examples {examples} must be positive.")
    missing = missing_path(config.data)
    if not missing and classes is None and examples is None:
        config, source, _ = sources.open_sources(config)
        away = [
            f"{path} (streams.{name})" for name, node in config.streams.items() if (path := missing_path(node.data))
        ]
        return (
            config,
            source,
            f"{' and '.join(away)} is not here: planned with the main data in its place" if away else "",
        )
    known = KNOWN.get(str(config.data.name), IMAGENET)
    kinds, count = classes or known[0], examples or known[1]
    why = f"{missing} is not here" if missing else "the data is not read"
    note = f"{why}: planned for {kinds} classes and {count:,} training images (--classes, --examples)"
    return config, blank_source(config, kinds, count), note


def missing_path(data: Any) -> str:
    """Name the file or folder of some data, a node of a config, that does not exist; "" where all do."""
    for key in ("path", "annotations", "images"):
        value: Any = data.get(key)
        for path in value.values() if hasattr(value, "values") else [value]:
            if isinstance(path, str) and path and not pathlib.Path(path).exists():
                return path
    return ""


def compile_step(config: Config, source: Source, mesh: Mesh) -> Compiled:
    """Compile the train step as `fit` does, for the devices of a mesh, which need not be here.

    Raises:
      TooLarge: the compiler finds no room for it.
      UserError: a config that cannot be.
    """
    setup = planned(config, source, source, mesh)
    program, batch = setup.program, setup.batches[-1]
    like = program.like
    began = time.perf_counter()
    with _too_large_told():
        compiled = program.compile(batch)
    taken = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Compiled(
        compiled.as_text(),
        _shares(like, batch),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        cost.get("flops", 0.0),
        cost.get("bytes accessed", 0.0),
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like.params)),
        setup.clock.examples / config.batch,
        taken,
    )


def evaluation_peak(config: Config, seen: Source, held_out: Source, mesh: Mesh) -> int:
    """Give the bytes that a device needs while `held_out` is scored in training, whose state stays where it is.

    Args:
      config: of the run.
      seen: the training split.

    Raises:
      TooLarge: the compiler finds no room for it.
    """
    setup = planned(config, seen, held_out, mesh)
    like = setup.program.like
    variables = evaluation.trained_variables(like)
    size, sharding = evaluation.eval_batch(config, mesh)
    transform = sources.make_transform(config, augment=False, scored=held_out)
    batch = sources.abstract_batch(held_out, transform, size, sharding)
    with _too_large_told(), jax.set_mesh(mesh):
        answer = evaluate.make_answer(setup.task, setup.metric)
        memory = answer.lower(variables, batch).compile().memory_analysis()
    beside = _bytes(like) - _bytes(variables)
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return beside + needed + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


def planned(config: Config, seen: Source, held_out: Source, mesh: Mesh) -> setups.Setup:
    """Make what `fit` makes; how often each class comes is only a constant in the step, and is not counted."""
    return setups.build(
        config,
        mesh=mesh,
        opened=(config, seen, held_out),
        counts=lambda source: np.ones(len(source.classes), np.int64),
        stand_in=lambda data: seen if missing_path(data) else None,
    )


@contextlib.contextmanager
def _too_large_told() -> Iterator[None]:
    """Raise TooLarge for what a compiler says when a program does not fit."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise _too_large(str(error)) or error from error


def _shares(like: State, batch: Batch) -> Shares:
    return Shares(*map(_bytes, (like.params, like.opt, like.ema, (like.stats, like.step), batch)))


def _bytes(values: PyTree) -> int:
    """Bytes of the part of a tree that lies on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(values)
    )


def _too_large(message: str) -> TooLarge | None:
    """Read what a compiler says when a step does not fit: "Used 18.86G of 15.75G hbm"."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) hbm", message)
    if not found:
        return TooLarge(0, 0)
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    return TooLarge(int(float(found[1]) * scale[found[2]]), int(float(found[3]) * scale[found[4]]))
