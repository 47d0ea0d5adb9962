"""A network with a pyramid on it, which detectors stand on; modules are named as torchvision's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.compose import heads_below, make_backbone
from mapjax.models.layers import module_of
from mapjax.models.necks import pyramid
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules


class Backbone(nn.Module):
    """A network "body", then a pyramid "fpn" over some of its maps: images → the maps of both by name.

    shown: the body's maps that are given.
    reads: those that the pyramid is built on.
    strides: theirs.
    names: of the pyramid's maps.
    """

    body: nn.Module
    fpn: nn.Module
    shown: tuple[str, ...]
    reads: tuple[str, ...]
    strides: tuple[int, ...]
    names: tuple[str, ...]

    def __call__(self, images, train: bool) -> dict[str, Any]:
        features = self.body(images, train)
        grids = [[-(-side // stride) for side in images.shape[1:3]] for stride in self.strides]
        maps = [centred(features[name], grid) for name, grid in zip(self.reads, grids, strict=True)]
        pyramid = self.fpn(maps, train)
        return {name: features[name] for name in self.shown} | dict(zip(self.names, pyramid, strict=True))


def centred(x, grid: Sequence[int]):
    """Fill a map (b h w c) up to a grid with zeros around it, or cut it: that of layers that pad nothing is smaller."""
    around = [(0, 0, 0), *((n // 2, n - n // 2, 0) for n in (grid[0] - x.shape[1], grid[1] - x.shape[2])), (0, 0, 0)]
    return x if x.shape[1:3] == tuple(grid) else jax.lax.pad(x, jnp.zeros((), x.dtype), around)


class Built(NamedTuple):
    """A backbone, and what a Model on it has to say.

    strides: of the pyramid's maps.
    levels: the strides of those of its maps that a decoder may stand on.
    heads, rules: of the parameters below "backbone/".
    """

    module: Backbone
    strides: tuple[int, ...]
    levels: dict[str, int]
    heads: tuple[str, ...]
    rules: Rules


def build(
    network: str,
    backbone: Mapping[str, Any],
    levels: Sequence[str | int] | None,
    *,
    channels: int,
    top: str,
    dtype: str,
) -> Built:
    """Build the pyramid of a dense detector, from stride 8 on, with two coarser maps on top.

    Args:
      network: whose backbone it is, for messages.
      backbone: a node of the config.
      levels: the backbone's maps that the pyramid is built on; None: those of strides 8, 16 and 32.
      channels: of the pyramid.
      top: what the coarser maps are made of: the "pyramid" or the "backbone".

    Raises:
      UserError: a backbone without maps to build on, or levels that do not follow each other.
    """
    if not isinstance(backbone, Mapping):
        raise UserError(f"{network}: backbone={backbone!r} must be a node, as in dict(name='resnet', depth=50).")
    if levels is not None and not isinstance(levels, tuple | list):
        raise UserError(f"{network}: levels={levels!r} must be names or strides of maps, as in (8, 16, 32).")
    if channels < 1:
        raise UserError(f"{network}: channels={channels} must be 1 or more.")
    if top not in pyramid.TOPS[1:]:
        raise UserError(f"{network}: top={top!r} must be 'pyramid' or 'backbone'.")
    node = {"name": "resnet", **backbone}
    body = make_backbone(network, node, dtype)
    options = {"channels": channels, "norm": "none", "dtype": jnp.dtype(dtype), "finest": 8, "top": top}
    built = pyramid.over(node, body.levels, levels, **options)
    strides = tuple(body.levels[name] for name in built.reads)
    module = Backbone(module_of(body), built.neck, tuple(body.levels), built.reads, strides, built.names)
    own = dict(zip(built.names[:-2], built.strides))
    rules = tensor.below("backbone/body", body.rules)
    return Built(module, built.strides, own, heads_below("backbone/body", body), rules)
