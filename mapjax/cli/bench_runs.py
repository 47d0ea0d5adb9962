"""What bench.py times of a whole config: its train step on a real batch, a batch of evaluation, and an answer."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mapjax.cli.bench_parts import Timed
from mapjax.data import labels, pipeline
from mapjax.engine import evaluate, step
from mapjax.runs import evaluation, predict, setup, sources
from mapjax.runs.trained import Loaded

PHOTO = (480, 640)  # height and width of what is answered


def train_step(config: Any) -> Timed:
    """Make our step of a config: loss, gradients and update of a real batch."""
    made = setup.build(config)
    like, program, transform = made.batches[-1], made.program, made.transforms[-1][1]
    options = {"batch": config.batch, "seed": 0, "sampler": made.sampler, "sharding": made.sharding}
    options |= {"further": made.streams}
    with pipeline.train_batches(made.train, transform, **options) as batches:
        batch = next(batches)
    compiled = program.compile(like)
    kept = [step.draw_state(program.init, like, program.places)]

    def once() -> None:
        kept[0], scalars = compiled(kept[0], batch)
        jax.block_until_ready(scalars)

    boxes = (
        zip(np.asarray(batch["boxes"]), np.asarray(batch["valid"]), strict=True) if labels.has(batch, "boxes") else []
    )
    return Timed(once, compiled.as_text, [some[valid] for some, valid in boxes])


def has_masks(config: Any) -> bool:
    """Tell whether a detector of a config draws masks too."""
    return {"masks"} <= set(config.task.get("beside", ()))


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


def answers(loaded: Loaded) -> tuple[Callable[[], None], Callable[[], None]]:
    """Make the forward pass of a batch of images, as their transform gives them, and it with decoding."""
    config, task, key = loaded.config, loaded.task, jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 256, (config.eval_batch, *PHOTO, 3), np.uint8)
    batch = predict.batch_of(list(images), sources.make_transform(config, augment=False))
    variables, batch = jax.device_put((loaded.variables, batch))
    forward = jax.jit(lambda variables, batch: {**task.predict(variables, batch, key), "features": None})
    answer = evaluate.make_answer(task)

    def whole() -> None:
        jax.block_until_ready(answer(variables, batch))

    def only_forward() -> None:
        jax.block_until_ready(forward(variables, batch))

    return only_forward, whole
