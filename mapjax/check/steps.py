"""Training judged: two steps of each task against the CPU's, the same seed twice, and a state that was saved."""

import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mapjax.config import load as configs
from mapjax.data import pipeline
from mapjax.engine import step
from mapjax.runs import setup
from mapjax.runtime import checkpoint
from mapjax.sharding import mesh as shard
from mapjax.task import State

COUNT = 2  # steps
TOLERANCE = 2e-3  # of the losses and the norm of the gradient, relative, with full products
TASKS: dict[str, Mapping[str, str]] = {  # of the embedded data, small: what is compared is arithmetic, not learning
    "classify": {"batch": "32"},
    "detect": {"batch": "4", "image_size": "(64, 64)", "transform.max_boxes": "8"},
    "segment": {"batch": "4", "image_size": "(64, 64)"},
}


class Verdict(NamedTuple):
    """How two steps of a task went.

    difference: the largest of any loss and of the gradient's norm from the CPU's, relative.
    repeats: the same seed gave the same bits again.
    resumes: a state that was saved after the first step went on to the same bits.
    """

    task: str
    difference: float
    tolerance: float
    repeats: bool
    resumes: bool

    @property
    def right(self) -> bool:
        """Say whether it learns as on a CPU, and goes on as it was saved; NaN does not."""
        return self.difference <= self.tolerance and self.resumes


def verdicts(names: Sequence[str] = tuple(TASKS)) -> Iterator[Verdict]:
    """Judge the tasks one after the other, on all devices of this process against one CPU."""
    host = shard.make_mesh({"data": 1}, devices=jax.devices("cpu")[:1])
    for name in names:
        config: Any = configs.load(name, dict(TASKS[name]))
        mesh = shard.make_mesh({"data": 1}, devices=jax.devices()[:1])
        with jax.default_matmul_precision("highest"):
            first, states = _run(config, mesh)
            second, again = _run(config, mesh)
            truth, _ = _run(config, host)
            resumed = _resume(config, mesh, states[0])
        difference = max(
            abs(one[key] - other[key]) / max(abs(other[key]), 1e-6) for one, other in zip(first, truth) for key in other
        )
        repeats = first == second and _same(states[-1], again[-1])
        yield Verdict(name, difference, TOLERANCE, repeats, _same(states[-1], resumed))


def _run(config: Any, mesh: Mesh) -> tuple[list[dict[str, float]], list[State]]:
    """Run the first steps; give the scalars of each, and the states after them, on the host."""
    made, compiled, batches = _made(config, mesh)
    state = step.draw_state(made.program.init, made.batches[-1], made.program.places)
    scalars, states = [], []
    for batch in batches:
        state, found = compiled(state, batch)
        scalars.append({name: float(value) for name, value in found.items()})
        states.append(jax.device_get(state))
    return scalars, states


def _resume(config: Any, mesh: Mesh, saved: State) -> State:
    """Save a state, restore it, and run the steps that are left."""
    made, compiled, batches = _made(config, mesh)
    with tempfile.TemporaryDirectory(prefix="mapjax-check") as folder:
        keeper = checkpoint.Checkpoints(pathlib.Path(folder) / "checkpoints")
        keeper.save(jax.device_put(saved, made.program.places), meta={})
        keeper.wait()
        restored = keeper.restore(made.program.like)
        keeper.close()
    assert restored is not None, "it was saved here"
    state = restored[0]
    for batch in batches[int(state.step) :]:
        state, _ = compiled(state, batch)
    return jax.device_get(state)


def _made(config: Any, mesh: Mesh) -> tuple[setup.Setup, Any, list[Any]]:
    made = setup.build(config, mesh=mesh)
    options = {"batch": config.batch, "seed": config.seed, "sampler": made.sampler, "sharding": made.sharding}
    with pipeline.train_batches(made.train, made.transforms[-1][1], **options) as stream:
        batches = [next(stream) for _ in range(COUNT)]
    return made, made.program.compile(made.batches[-1]), batches


def _same(one: State, other: State) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
