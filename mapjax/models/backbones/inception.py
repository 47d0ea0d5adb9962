"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.errors import UserError
from mapjax.models.backbones.googlenet import Unit, to_symmetric
from mapjax.models.layers import Dense, Dropout, global_pool, model_of
from mapjax.ops import convolution
from mapjax.sharding import tensor
from mapjax.task import Model

LEAST, LEAST_AUX = 75, 299  # smallest sides of an image that leave a pixel at the end and in the auxiliary head
HEADS = ("^fc/", "^AuxLogits/")
RULES = (  # of each branch a 1×1 and what follows it, and of 1×7 and 7×1 the next two
    (r"Mixed_\w+/branch(\w+_1|7x7(dbl|x3)_3)/conv/kernel$", tensor.CONV_OUT),
    (r"Mixed_\w+/branch(\w+_1|7x7(dbl|x3)_3)/bn/", tensor.EACH),
    (r"Mixed_\w+/branch(\w+_2[ab]?|7x7(dbl|x3)_4)/conv/kernel$", tensor.CONV_IN),
)
Map = Float[Array, "b h w c"]
Branches = Callable[..., list[Any]]  # of a map and a maker of units
normal = nn.initializers.normal(0.1)


def factorized_5x5(x: Map, conv: Callable[..., Any], pool: int) -> list[Any]:
    """1×1, 5×5, two 3×3 and a pool side by side (figure 5 of the paper, with one 5×5 kept)."""
    five = conv(conv(x, "branch5x5_1", 48), "branch5x5_2", 64, 5)
    twice = conv(conv(conv(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3), "branch3x3dbl_3", 96, 3)
    return [conv(x, "branch1x1", 64), five, twice, conv(_mean(x), "branch_pool", pool)]


def reduce_to_17(x: Map, conv: Callable[..., Any]) -> list[Any]:
    """Halve the map, by 3×3, two 3×3 and a pool side by side (figure 10)."""
    twice = conv(conv(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3)
    twice = conv(twice, "branch3x3dbl_3", 96, 3, stride=2)
    return [conv(x, "branch3x3", 384, 3, stride=2), twice, _max(x)]


def factorized_7x7(x: Map, conv: Callable[..., Any], hidden: int) -> list[Any]:
    """1×1, 7×7, two 7×7 and a pool side by side, each 7×7 as 1×7 and 7×1 (figure 6)."""
    seven = conv(conv(x, "branch7x7_1", hidden), "branch7x7_2", hidden, (1, 7))
    twice = conv(conv(x, "branch7x7dbl_1", hidden), "branch7x7dbl_2", hidden, (7, 1))
    twice = conv(conv(twice, "branch7x7dbl_3", hidden, (1, 7)), "branch7x7dbl_4", hidden, (7, 1))
    return [
        conv(x, "branch1x1", 192),
        conv(seven, "branch7x7_3", 192, (7, 1)),
        conv(twice, "branch7x7dbl_5", 192, (1, 7)),
        conv(_mean(x), "branch_pool", 192),
    ]


def reduce_to_8(x: Map, conv: Callable[..., Any]) -> list[Any]:
    """Halve the map, by 3×3, 7×7 with 3×3, and a pool side by side."""
    three = conv(conv(x, "branch3x3_1", 192), "branch3x3_2", 320, 3, stride=2)
    seven = conv(conv(x, "branch7x7x3_1", 192), "branch7x7x3_2", 192, (1, 7))
    seven = conv(conv(seven, "branch7x7x3_3", 192, (7, 1)), "branch7x7x3_4", 192, 3, stride=2)
    return [three, seven, _max(x)]


def forked_3x3(x: Map, conv: Callable[..., Any]) -> list[Any]:
    """Wide block of the coarsest map: 3×3 as 1×3 and 3×1 side by side (figure 7)."""
    three = conv(x, "branch3x3_1", 384)
    twice = conv(conv(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
    return [
        conv(x, "branch1x1", 320),
        conv(three, "branch3x3_2a", 384, (1, 3)),
        conv(three, "branch3x3_2b", 384, (3, 1)),
        conv(twice, "branch3x3dbl_3a", 384, (1, 3)),
        conv(twice, "branch3x3dbl_3b", 384, (3, 1)),
        conv(_mean(x), "branch_pool", 192),
    ]


def _mean(x):
    return convolution.avg_pool(x, 3, 1, 1)


def _max(x):
    return convolution.max_pool(x, padding=0)


BLOCKS: dict[str, Branches] = {
    "Mixed_5b": partial(factorized_5x5, pool=32),
    "Mixed_5c": partial(factorized_5x5, pool=64),
    "Mixed_5d": partial(factorized_5x5, pool=64),
    "Mixed_6a": reduce_to_17,
    "Mixed_6b": partial(factorized_7x7, hidden=128),
    "Mixed_6c": partial(factorized_7x7, hidden=160),
    "Mixed_6d": partial(factorized_7x7, hidden=160),
    "Mixed_6e": partial(factorized_7x7, hidden=192),
    "Mixed_7a": reduce_to_8,
    "Mixed_7b": forked_3x3,
    "Mixed_7c": forked_3x3,
}


LEVELS = {
    "Conv2d_2b_3x3": 2,
    "Conv2d_4a_3x3": 4,
    **{name: {"5": 8, "6": 16, "7": 32}[name.removeprefix("Mixed_")[0]] for name in BLOCKS},
}


class Mixed(nn.Module):
    """Branches side by side, their channels one after the other."""

    branches: Branches
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        def conv(x, name, features, kernel=1, stride=1):
            options = {"padding": None if stride == 1 else 0, "init": normal, "dtype": self.dtype}
            return Unit(round(features * self.width), kernel, stride, name=name, **options)(x, train)

        return jnp.concatenate(self.branches(x, conv), -1)


class Auxiliary(nn.Module):
    """A classifier in the middle, which helps training only; it needs a map of 17×17 or more."""

    classes: int
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"init": normal, "dtype": self.dtype}
        x = convolution.avg_pool(x, 5, 3)
        x = Unit(round(128 * self.width), name="conv0", **options)(x, train)
        x = Unit(round(768 * self.width), 5, padding=0, name="conv1", **options)(x, train)
        last = nn.initializers.normal(0.001)
        return Dense(self.classes, init=last, dtype=jnp.float32, name="fc")(global_pool(x))


class InceptionV3(nn.Module):
    """Image → features by name, with classes "logits"; see `make`."""

    width: float = 1.0
    transform_input: bool = False
    aux: bool = True
    classes: int | None = None
    dropout: float = 0.5
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        aux = self.aux and self.classes is not None and (train or self.is_initializing())
        _check_size(x.shape[1], x.shape[2], aux and train)
        outputs = self.stem(to_symmetric(jnp.asarray(x)) if self.transform_input else x, train)
        x = _max(outputs["Conv2d_4a_3x3"])
        block = nn.remat(Mixed, static_argnums=(2,)) if self.remat else Mixed
        for name, branches in BLOCKS.items():
            outputs[name] = x = block(branches, self.width, self.dtype, name=name)(x, train)
            if name == "Mixed_6e" and aux:
                head = Auxiliary(self.classes or 0, self.width, self.dtype, name="AuxLogits")
                # A network has to be made for small images too, and parameters do not depend on their size.
                outputs["aux"] = head(x if train else jnp.zeros((1, 17, 17, x.shape[-1])), train)
        outputs["pool"] = global_pool(x)
        if self.classes is not None:
            x = Dropout(self.dropout)(outputs["pool"], train)
            outputs["logits"] = Dense(self.classes, init=normal, dtype=jnp.float32, name="fc")(x)
        return outputs

    def stem(self, x, train: bool):
        def unit(x, name, features, kernel, stride=1, padding: int | None = 0):
            options = {"init": normal, "dtype": self.dtype}
            return Unit(round(features * self.width), kernel, stride, padding, name=name, **options)(x, train)

        x = unit(x, "Conv2d_1a_3x3", 32, 3, stride=2)
        x = unit(x, "Conv2d_2a_3x3", 32, 3)
        fine = unit(x, "Conv2d_2b_3x3", 64, 3, padding=1)
        x = unit(_max(fine), "Conv2d_3b_1x1", 80, 1)
        return {"Conv2d_2b_3x3": fine, "Conv2d_4a_3x3": unit(x, "Conv2d_4a_3x3", 192, 3)}


def _check_size(height: int, width: int, aux: bool) -> None:
    least = LEAST_AUX if aux else LEAST
    if min(height, width) >= least:
        return
    why = " to train with its auxiliary head" if aux else ""
    mend = "enlarge image_size, or choose aux=False" if aux else "enlarge image_size"
    raise UserError(f"inception needs images of {least}×{least} pixels or more{why}, not {height}×{width}: {mend}.")


def make(
    *,
    width: float = 1.0,
    transform_input: bool = True,
    aux: bool = True,
    classes: int | None = None,
    dropout: float = 0.5,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make an Inception-v3: images (b h w 3, normalised, sides of 75 or more) → outputs by name.

    "Conv2d_2b_3x3" (stride 2), "Conv2d_4a_3x3" (4), "Mixed_5b" … "Mixed_5d" (8), "Mixed_6a" … "Mixed_6e" (16) and
    "Mixed_7a" … "Mixed_7c" (32) are maps; several layers pad nothing, so a map is a few pixels smaller than the
    image's side by its stride (299 → 147, 71, 35, 17, 8). "pool" (b 2048, float32) is the mean of the last; with
    classes also "logits" (b classes, float32), and in training "aux", logits after Mixed_6e (torchvision adds their
    loss at a weight of 0.4).

    Args:
      width: factor of all channel counts.
      transform_input: turn images normalised with ImageNet's mean and deviation into values between -1 and 1, as
        torchvision's published weights expect.
      aux: whether there is an auxiliary head; to train with it, sides have to be 299 or more.
      dropout: before the last layer.
      remat: recompute each block in the backward pass to save memory.
      dtype: of the arithmetic; parameters are float32.

    Example:
      >>> from mapjax.models.backbones import inception
      >>> levels = inception.make(classes=10).levels
      >>> len(levels), levels["Mixed_6a"]
      (13, 16)
    """
    arguments = (width, transform_input, aux, classes, dropout, remat)
    return model_of(InceptionV3(*arguments, jnp.dtype(dtype)), levels=LEVELS, heads=HEADS, rules=RULES)
