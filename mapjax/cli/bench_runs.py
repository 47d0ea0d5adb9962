"""What bench.py times of a whole config: its train step on a real batch, and a batch of evaluation."""

from collections.abc import Callable
from typing import Any

import jax

from mapjax.cli.bench_parts import Timed
from mapjax.data import pipeline
from mapjax.engine import evaluate, step
from mapjax.runs import evaluation, setup, sources


def train_step(config: Any) -> Timed:
    """Make our step of a config: loss, gradients and update of a real batch."""
    made = setup.build(config)
    like, program, transform = made.batches[-1], made.program, made.transforms[-1][1]
    options = {"batch": config.batch, "seed": 0, "sampler": made.sampler, "sharding": made.sharding}
    with pipeline.train_batches(made.train, transform, **options) as batches:
        batch = next(batches)
    compiled = program.compile(like)
    kept = [step.draw_state(program.init, like, program.places)]

    def once() -> None:
        kept[0], scalars = compiled(kept[0], batch)
        jax.block_until_ready(scalars)

    return Timed(once, compiled.as_text)


def evaluation_batch(config: Any) -> dict[str, Callable[[], None]]:
    """Make the forward pass of an evaluation batch, and it with decoding and measuring as `evaluate` does them."""
    made = setup.build(config)
    task, metric = made.task, made.metric
    size, sharding = evaluation.eval_batch(config, made.mesh)
    transform = sources.make_transform(config, augment=False, scored=made.held_out)
    with pipeline.eval_batches(made.held_out, transform, batch=size, sharding=sharding) as batches:
        batch = next(batches)
    key = jax.random.key(0)
    variables = jax.jit(task.init)(key, batch)
    forward = jax.jit(lambda variables, batch: {**task.predict(variables, batch, key), "features": None})
    answer = evaluate.make_answer(task, metric)

    def whole() -> None:
        metric.measure(evaluate.local(answer(variables, batch)), evaluate.local(batch))

    def only_forward() -> None:
        jax.block_until_ready(forward(variables, batch))

    return {"forward": only_forward, "whole": whole}
