"""What bench.py times of single parts: networks, what segmentation does beside them, and batches of a stream."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, UInt8

from mapjax.config import parts
from mapjax.ops import label_maps, losses, mean_field

CLASSES, SIZE = 11, (360, 480)  # of label maps, as CamVid has them
CONTOUR = 0.0075  # of the diagonal, within which a contour is found


class Timed(NamedTuple):
    """What is timed: `run` waits for the end; `text` gives the compiled program; `boxes` are each image's objects."""

    run: Callable[[], None]
    text: Callable[[], str]
    boxes: Sequence[Any] = ()


def network(node: dict[str, Any], batch: int, side: int, *, train: bool) -> Timed:
    """Make our forward pass, or a step of SGD with momentum: of a classifier of 1,000 classes, or of a U-Net."""
    dense = node["name"] == "unet"
    key, classes = ("map_logits", CLASSES) if dense else ("logits", 1000)
    model = parts.make("models", node, classes=classes, image_size=(side, side))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((batch, side, side, 3), np.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.02, s.shape), jnp.float32), shapes)
    variables["stats"] = jax.tree.map(jnp.abs, variables["stats"])
    if train:
        labels = jnp.asarray(rng.integers(0, classes, (batch, side, side) if dense else (batch,)))
        return _sgd_step(model, variables, images, key, labels)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0][key])

    def once() -> None:
        jax.block_until_ready(forward(variables, images))

    return Timed(once, lambda: forward.lower(variables, images).compile().as_text() or "")


def _sgd_step(model: Any, variables: Any, images: Any, scored: str, labels: Any) -> Timed:
    tx = optax.sgd(1e-4, momentum=0.9)

    def loss(params: Any, stats: Any, key: Any) -> Any:
        outputs, new = model.apply({"params": params, "stats": stats}, images, train=True, key=key)
        return losses.cross_entropy(outputs[scored], labels).mean(), new

    def step(state: Any) -> Any:
        params, stats, opt, key = state
        key, now = jax.random.split(key)
        grads, stats = jax.grad(loss, has_aux=True)(params, stats, now)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), stats, opt, key

    jitted = jax.jit(step, donate_argnums=0)
    kept = [(variables["params"], variables["stats"], tx.init(variables["params"]), jax.random.key(0))]

    def once() -> None:
        kept[0] = jax.block_until_ready(jitted(kept[0]))

    return Timed(once, lambda: jitted.lower(kept[0]).compile().as_text() or "")


def counts_of_label_maps(batch: int, *, maps: int) -> dict[str, Callable[[], None]]:
    """Make the counting of confusions and of contours in `maps` pairs of random label maps."""
    rng = np.random.default_rng(0)
    truth, found = _patches(rng, batch), _patches(rng, batch)
    radius = CONTOUR * float(np.hypot(*SIZE))
    counts = {
        "confusion": jax.jit(lambda one, other: label_maps.confusion(one, other, CLASSES)),
        "contours": jax.jit(lambda one, other: label_maps.contours(one, other, CLASSES, radius)),
    }

    def all_of(count: Callable[..., Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(-(-maps // batch)):
                jax.block_until_ready(count(truth, found))

        return run

    return {name: all_of(count) for name, count in counts.items()}


def mean_field_of(batch: int, *, iterations: int) -> Callable[[], None]:
    """Make a CRF's inference on a batch of random label maps and images."""
    rng = np.random.default_rng(0)
    logits = jax.nn.one_hot(_patches(rng, batch), CLASSES) * 2
    images = jnp.asarray(rng.normal(size=(batch, *SIZE, 3)).astype(np.float32))
    energy = mean_field.Energy(jnp.ones(CLASSES), jnp.ones(CLASSES), 1 - jnp.eye(CLASSES))
    infer = jax.jit(lambda x, seen: mean_field.infer(x, seen, energy, mean_field.Kernels(), iterations=iterations))

    def run() -> None:
        jax.block_until_ready(infer(logits, images))

    return run


def _patches(rng: np.random.Generator, batch: int) -> UInt8[Array, "b h w"]:
    """Draw label maps of squares of 20 pixels."""
    small = rng.integers(0, CLASSES, (batch, SIZE[0] // 20, SIZE[1] // 20)).astype(np.uint8)
    return jnp.asarray(small.repeat(20, 1).repeat(20, 2))


def several(stream: Iterator[Any], number: int) -> Callable[[], None]:
    """Make a call that takes so many batches of a stream."""
    return lambda: deque(itertools.islice(stream, number), maxlen=0).clear()
