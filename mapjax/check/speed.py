"""Speed judged: train steps beside the chip's peak and its roofline, beside torch, and where their time goes."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax.config import load as configs
from mapjax.engine import step as train
from mapjax.plan import chips, cost, hlo, measured, roofline
from mapjax.plan import step as planning
from mapjax.sharding import mesh as shard

ROUNDS = 10
SLOWEST = 5  # operations that are named
ROOFLINE = 0.7  # the share of it that a step is to reach on an H200
MEMORY = 0.15  # what the memory may differ from the compiler's prediction
GOALS: dict[str, Callable[["Speed"], float | None]] = {
    "images/s": lambda one: one.images,
    "share of the roofline": lambda one: one.roofline,
    "times as fast as torch.compile": lambda one: one.torch / one.seconds if one.torch else None,
}

Peer = Callable[[str, Any], Callable[[], None]]  # (name, config) → the peer's step of that network


class Workload(NamedTuple):
    """A train step to time.

    changes: of the recipe.
    peer: the name of its network among the peers.
    goals: of an H200, by what GOALS measures; each step has that of its roofline too.
    """

    name: str
    recipe: str
    changes: dict[str, str]
    peer: str = ""
    goals: Mapping[str, float] = MappingProxyType({})


class Goal(NamedTuple):
    """What a step is to reach, and what it reached; None where that was not measured."""

    measure: str
    wanted: float
    found: float | None

    @property
    def met(self) -> bool:
        """Say whether it is reached."""
        return self.found is not None and self.found >= self.wanted


class Speed(NamedTuple):
    """How fast a train step is.

    seconds: the median of a step.
    images: a second.
    peak: its FLOPs at the published peak of the chip, as a share of the time; None where nothing is published.
    roofline: the time that it cannot go below, as a share of the time.
    predicted_mb, used_mb: memory by the compiler, and the most that the device has held; None where it does not say.
    torch: the seconds of torch.compile on the same sizes; None without torch.
    slowest: the operations that take longest, with their share.
    goals: of this chip.
    """

    name: str
    seconds: float
    images: float
    peak: float | None
    roofline: float | None
    predicted_mb: float
    used_mb: float | None
    torch: float | None
    slowest: tuple[tuple[str, float], ...]
    goals: tuple[Goal, ...] = ()

    @property
    def unforeseen(self) -> float:
        """The difference of the memory from its prediction, as a share of that; 0 where it is not known."""
        return 0.0 if self.used_mb is None else abs(self.used_mb / self.predicted_mb - 1)


# On an accelerator as they are trained there; on a CPU small ones, to see that everything works.
ACCELERATOR = (
    Workload(
        "ResNet-50, bfloat16, 256 × 224²",
        "classify:imagenet",
        {"batch": "256", "dtype": "bfloat16"},
        "resnet50",
        {"images/s": 3500},
    ),
    Workload(
        "ViT-B/16, bfloat16, 256 × 224²",
        "classify:imagenet",
        {"batch": "256", "dtype": "bfloat16", "model": "{'name': 'vit', 'variant': 'base', 'patch': 16}"},
        "vit_b_16",
        {"images/s": 2000},
    ),
    Workload(
        "Faster R-CNN R50-FPN, bfloat16, 16 × 1024²",
        "detect:coco",
        {"batch": "16", "dtype": "bfloat16", "init_from": ""},
        "faster_rcnn",
        {"times as fast as torch.compile": 1.5},
    ),
    Workload(
        "U-Net, bfloat16, 32 × 512²",
        "segment:camvid",
        {"batch": "32", "dtype": "bfloat16", "image_size": "(512, 512)", "model": "{'name': 'unet'}"},
        "unet",
    ),
)
CPU = (
    Workload(
        "ResNet-18, 8 × 64²",
        "classify:imagenet",
        {"batch": "8", "dtype": "float32", "image_size": "(64, 64)", "model.depth": "18"},
        "resnet18",
    ),
    Workload("Faster R-CNN R18-FPN, 2 × 128²", "detect", {"batch": "2"}, "faster_rcnn"),
    Workload("U-Net, 2 × 96×128", "segment:camvid", {"batch": "2", "image_size": "(96, 128)"}),
)


def workloads() -> tuple[Workload, ...]:
    """Choose those of the device at hand."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


def speeds(chosen: Sequence[Workload], peer: Peer | None = None, *, rounds: int = ROUNDS) -> Iterator[Speed]:
    """Time the train steps one after the other.

    Args:
      peer: makes a peer's step of a network, by torchvision's name and the config; None where there is none.
    """
    for one in chosen:
        yield _speed(one, peer, rounds)


def _speed(one: Workload, peer: Peer | None, rounds: int) -> Speed:
    config: Any = configs.load(one.recipe, one.changes)
    config, source, _ = planning.find_source(config)
    mesh = shard.make_mesh({"data": 1}, devices=jax.devices()[:1])
    made = planning.planned(config, source, source, mesh)
    program, like = made.program, made.batches[-1]
    compiled = program.compile(like)
    before = _held_mb()  # the compiler's own trials do not count
    kept = [train.draw_state(program.init, like, program.places)]
    batch = jax.tree.map(_drawn, like)

    def run() -> None:
        kept[0], scalars = compiled(kept[0], batch)
        jax.block_until_ready(scalars)

    taken = _timed(run, rounds)
    text, chip = compiled.as_text(), chips.of_kind(jax.devices()[0].device_kind)
    bound = roofline.bound(cost.of_module(hlo.parse(text)), [], chip)
    memory = compiled.memory_analysis()
    predicted = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    slowest = tuple((f"{part.where}: {part.kind}", part.share) for part in measured.parts(run, text, runs=1)[:SLOWEST])
    found = Speed(
        one.name,
        taken,
        config.batch / taken,
        None if bound.compute is None else bound.compute / taken,
        None if bound.step is None else bound.step / taken,
        (predicted + memory.temp_size_in_bytes) / 2**20,
        _used_mb(before),
        _peers(one, config, peer, rounds),
        slowest,
    )
    return found._replace(goals=goals(one, found) if chip.name == "h200" else ())


def goals(one: Workload, found: Speed) -> tuple[Goal, ...]:
    """Hold what was found against what a step is to reach on an H200."""
    wanted = {**one.goals, "share of the roofline": ROOFLINE}
    return tuple(Goal(name, least, GOALS[name](found)) for name, least in wanted.items())


def _drawn(like: Any) -> Any:
    """Draw an array: random pixels, zeros else."""
    if like.dtype == np.uint8:
        values = np.random.default_rng(0).integers(0, 256, like.shape, np.uint8)
    else:
        values = np.zeros(like.shape, like.dtype)
    return jax.device_put(values, like.sharding)


def _timed(run: Callable[[], None], rounds: int) -> float:
    """Give the median seconds of some runs, after two that warm up."""
    times = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def _held_mb() -> float | None:
    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None


def _used_mb(before: float | None) -> float | None:
    """Give the most that the device has held, where that was not before."""
    after = _held_mb()
    return after if after is not None and before is not None and after > before else None


def _peers(one: Workload, config: Any, peer: Peer | None, rounds: int) -> float | None:
    """Time the peer on the same sizes; None without one, or where the compiler that it needs is not there."""
    if peer is not None and one.peer:
        with contextlib.suppress(RuntimeError):
            return _timed(peer(one.peer, config), rounds)
    return None
