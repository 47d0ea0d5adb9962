"""Muon as it is here beside that of optax.contrib: the time of an update, and the loss after some steps.

    python tests/engine/compare_muon.py detect 200

The first word is a config with muon, the second how many steps to train; both train on the same batches.
"""

import sys
import time

import jax
import numpy as np
import optax
from optax.contrib import _muon as theirs  # whose scale_by_shape is not public

from mapjax import paths
from mapjax.config import load as configs
from mapjax.data import pipeline
from mapjax.engine import muon, optimizer, step
from mapjax.runs import setup

OURS = muon.make


def optax_muon(params, momentum, others):
    """The same transform from optax's: kernels as the same matrices, and updates as large."""

    def axes(updates):
        def of(path, leaf):
            batch = muon._matrix(path, leaf).batch
            rows = tuple(axis for axis in range(leaf.ndim - 1) if axis not in batch)
            return optax.contrib.MuonDimensionNumbers(rows, leaf.ndim - 1)

        return paths.map_with_path(of, updates)

    kernels = optax.chain(
        optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes),
        theirs.scale_by_shape(weight_dimension_numbers=axes, consistent_rms=muon.LIKE_ADAM),
    )
    labels = paths.map_with_path(lambda path, leaf: "muon" if muon._is_kernel(path, leaf) else "others", params)
    return optax.partition({"muon": kernels, "others": others}, labels)


def update(node, params):
    """Compile one update of all parameters, and give what runs it."""
    tx = optimizer.make(node, params=params, schedule=optax.constant_schedule(1e-3))
    gradients = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    state = tx.init(params)
    made = jax.jit(lambda g, s, p: tx.update(g, s, p)[0]).lower(gradients, state, params).compile()
    return lambda: jax.block_until_ready(made(gradients, state, params))


def losses(config, steps):
    """Train, and give the loss of each step."""
    run = setup.build(config)
    batches = pipeline.train_batches(
        run.train, run.transforms, batch=config.batch, seed=config.seed, sampler=run.sampler, sharding=run.sharding
    )
    with batches:
        state, found = step.draw_state(run.program.init, run.batches[-1], run.program.places), []
        compiled = run.program.compile(run.batches[-1])
        for _ in range(steps):
            state, scalars = compiled(state, next(batches))
            found.append(float(scalars["loss"]))
    return np.array(found), state.params


def main(name: str, steps: int) -> None:
    """Print both, in turns where time is taken."""
    config = configs.load(name, {"duration": f"{steps} steps"})
    both, trained = {"mapjax": OURS, "optax": optax_muon}, {}
    for word, make in both.items():
        muon.make = make
        found, params = losses(config, steps)
        trained[word] = update(config.optimizer.to_dict(), params)
        print(f"{word}: loss {found[-(steps // 5 or 1) :].mean():.4f} in the last fifth of {steps} steps", flush=True)
    times = {word: [] for word in both}
    for _ in range(15):
        for word, run in trained.items():
            began = time.perf_counter()
            run()
            times[word].append(time.perf_counter() - began)
    for word, taken in times.items():
        print(f"{word}: an update of {paths.count(params):,} parameters in {1e3 * np.median(taken):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
