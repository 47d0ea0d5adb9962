"""A dense CRF behind any network of segmentation, trained with it (Zheng et al. 2015, "CRF as RNN").

A composition of models rather than a module: the network gives unary logits, and mean field refines them by the
image that it was given. Parameters are "unary", those of the network, and "crf".
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.compose import heads_below
from mapjax.ops import mean_field
from mapjax.ops.mean_field import Energy, Kernels
from mapjax.ops.resize import bilinear
from mapjax.sharding import tensor
from mapjax.task import Model

BILATERAL, SPATIAL = 1.0, 0.5  # weights at the start: a tie is turned by neighbours, a certain pixel is not


def make(
    *,
    unary: Mapping[str, Any],
    iterations: int = 5,
    position: float = 20.0,
    colour: float = 0.25,
    smoothness: float = 3.0,
    stride: int = 4,
    tile: int = 2,
    reach: int = 3,
    classes: int,
    dtype: str = "float32",
    image_size: tuple[int, int] | None = None,
) -> Model:
    """Make a network that refines another one's answer: images (b h w 3, normalised) → "map_logits" (b h w c).

    "map_logits" are at the size of the image, and their softmax is the CRF's belief; "unary_map_logits" are the
    network's own, at its stride; its features and its auxiliary answers have their names.

    Args:
      unary: a model of the config that gives "map_logits", as {"name": "unet"}; classes, dtype and image_size are
        offered to it.
      iterations: of mean field, in training and after it.
      position: reach of the bilateral kernel, a standard deviation in pixels of the input.
      smoothness: reach of the spatial kernel, likewise.
      colour: that of the bilateral kernel in units of the normalised image (0.25 is 14 of 256 levels of an image
        normalised as ImageNet's are).
      stride, tile, reach: how finely and how far messages go (mapjax.ops.mean_field.Kernels).
      dtype: of the network's arithmetic; the CRF's, its parameters and all logits are float32.

    Raises:
      UserError: an option is out of range, or the network gives no "map_logits" (when it is first applied).

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import crf_rnn
      >>> model = crf_rnn.make(unary={"name": "unet", "depth": 2, "width": 4}, classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 32, 32, 3)
    """
    if "classes" in unary:
        raise UserError("crf_rnn: its unary takes no 'classes'; the data set has them.")
    kernels = Kernels(position, colour, smoothness, stride, tile, reach)
    least = {"iterations": (iterations, 0), "stride": (stride, 1), "tile": (tile, 1), "reach": (reach, 0)}
    for name, (value, low) in least.items():
        if value < low:
            raise UserError(f"crf_rnn: {name}={value} must be {low} or more.")
    for name in ("position", "colour", "smoothness"):
        if not getattr(kernels, name) > 0:
            raise UserError(f"crf_rnn: {name}={getattr(kernels, name)} is a standard deviation; it must be above 0.")
    network = parts.make("models", unary, classes=classes, dtype=dtype, image_size=image_size)
    return refined(network, kernels, iterations=iterations, classes=classes, name=unary["name"])


def refined(unary: Model, kernels: Kernels, *, iterations: int, classes: int, name: str = "unary") -> Model:
    """Compose a model that gives "map_logits" of `classes` classes with mean field; `name` is for messages."""

    def init(key, images):
        variables = unary.init(key, images)
        crf = {
            "log_bilateral": jnp.full(classes, math.log(BILATERAL), jnp.float32),
            "log_spatial": jnp.full(classes, math.log(SPATIAL), jnp.float32),
            "compatibility": 1 - jnp.eye(classes),
        }
        return {"params": {"unary": variables["params"], "crf": crf}, "stats": {"unary": variables["stats"]}}

    def apply(variables, images, *, train=False, key=None):
        params, stats = variables["params"], variables["stats"]
        inner = {"params": params["unary"], "stats": stats["unary"]}
        outputs, changed = unary.apply(inner, images, train=train, key=key)
        if "map_logits" not in outputs:
            raise UserError(
                f"crf_rnn: {name!r} gives no 'map_logits' to refine; choose a network of segmentation for model.unary."
            )
        logits = bilinear(outputs["map_logits"].astype(jnp.float32), images.shape[1:3])
        crf = params["crf"]
        energy = Energy(jnp.exp(crf["log_bilateral"]), jnp.exp(crf["log_spatial"]), crf["compatibility"])
        better = mean_field.infer(logits, images.astype(jnp.float32), energy, kernels, iterations=iterations)
        own = {"unary_map_logits": outputs["map_logits"], "map_logits": better}
        return {**outputs, **own}, {"unary": changed}

    heads = (*heads_below("unary", unary), "^crf/")
    return Model(jax.jit(init), apply, levels=unary.levels, heads=heads, rules=tensor.below("unary", unary.rules))
