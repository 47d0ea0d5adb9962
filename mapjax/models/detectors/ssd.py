"""SSD (Liu et al. 2016, arXiv 1512.02325): on VGG-16, laid out as torchvision's, or on any backbone.

It says a score of each class and background, and box offsets, for every default box of maps of falling resolution.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mapjax.errors import UserError, near
from mapjax.models.compose import by_stride, heads_below, make_backbone
from mapjax.models.heads.boxes_of_maps import MapsHead
from mapjax.models.layers import model_of, module_of
from mapjax.models.necks.falling import BodyMaps, VGGMaps
from mapjax.ops import anchors as anchor_ops
from mapjax.sharding import tensor
from mapjax.task import Model

NORMS = ("none", "batch", "group")
VGG_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
VGG_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
VGG_STEPS = (8, 16, 32, 64, 100, 300)


class SSD(nn.Module):
    """The maps, "backbone", and a "head" for each of them."""

    backbone: nn.Module
    head: MapsHead

    def __call__(self, images, train: bool = False) -> dict[str, Any]:
        require_maps("ssd", self.backbone.grids(*images.shape[1:3]), images.shape[1:3])
        maps = self.backbone(images, train)
        return {"features": {f"map{i}": x for i, x in enumerate(maps)}, **self.head(maps, train)}


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] | None = None,
    levels: Sequence[str | int] = (8, 16, 32),
    extras: Sequence[int] = (256, 256),
    norm: str = "batch",
    ratios: Sequence[Sequence[int | float]] | None = None,
    scales: Sequence[int | float] | None = None,
    steps: Sequence[int] | None = None,
    width: float = 1.0,
    dtype: str = "float32",
) -> Model:
    """Make an SSD; the defaults are those of torchvision's `ssd300_vgg16`, for images of 300×300.

    Of images (b h w 3, normalised) it gives "features" ("map0" …: b i j d), "site_logits" (b r c+1, background first)
    and "site_deltas" (b r 4) of r default boxes. Its call sites(height, width) gives one array (r_l 4) of them a map.

    Args:
      classes: without background.
      backbone: a node of the config that names a network with levels; None: VGG-16 as SSD has it, with six maps.
      levels: of a backbone, by name or by stride, finest first.
      extras: channels of the maps made on top of a backbone's last, each of half the size.
      norm: "none", "batch" or "group", of these.
      ratios: for each map the default boxes' longer over shorter sides, besides two squares; None: SSD's, or (2, 3).
      scales: for each map, and one more, the boxes' sides as shares of the image's; None: SSD's, or from 0.15 to 0.9.
      steps: for each map the pixels from place to place; None: SSD's, or those of the grid.
      width: factor of VGG's channel counts.
      dtype: of the arithmetic; parameters and what is said of sites are float32.

    Raises:
      UserError: a backbone without such maps, lists of wrong lengths, or options out of range.

    Example:
      >>> from mapjax.models.detectors import ssd
      >>> model = ssd.make(classes=20)
      >>> [len(level) for level in model.calls["sites"](300, 300)]
      [5776, 2166, 600, 150, 36, 4]
    """
    kind = jnp.dtype(dtype)
    if backbone is None:
        maps, count, own = VGGMaps(width, kind), len(VGG_STEPS), {"map0": 8, "map1": 16}
        ratios, scales, steps = ratios or VGG_RATIOS, scales or VGG_SCALES, steps or VGG_STEPS
        heads, rules = ("^head/",), ()
    else:
        maps, own, heads, rules = _on(backbone, levels, extras, norm, dtype)
        count = len(levels) + len(extras)
        ratios = ratios or ((2, 3),) * count
        scales = scales or (*np.linspace(0.15, 0.9, count).tolist(), 1.0)
    require_lengths("ssd", count, ratios=(ratios, 0), scales=(scales, 1), steps=(steps, 0))
    head = MapsHead(classes, tuple(2 + 2 * len(one) for one in ratios), dtype=kind)
    model = model_of(SSD(maps, head), levels=own, heads=heads, rules=rules)
    return model._replace(calls={"sites": sites_of("ssd", maps.grids, ratios, scales, steps)})


def _on(backbone: Any, levels: Any, extras: Any, norm: str, dtype: str) -> tuple[Any, dict[str, int], Any, Any]:
    """The maps of a backbone with others on top: their module, levels, heads and rules."""
    if not isinstance(backbone, Mapping):
        raise UserError(f"ssd: backbone={backbone!r} must be a node, as in dict(name='resnet', depth=18).")
    if norm not in NORMS:
        raise UserError(f"ssd has no norm={norm!r}.{near(norm, NORMS)}")
    node = {"name": "resnet", **backbone}
    body = make_backbone("ssd", node, dtype)
    last = by_stride(body.levels)
    reads = tuple(last.get(one, "") if isinstance(one, int) else one for one in levels)
    known = ", ".join(f"{name} ({stride})" for name, stride in body.levels.items())
    strides = tuple(body.levels.get(name, 0) for name in reads)
    if not reads or 0 in strides or list(strides) != sorted(strides):
        raise UserError(
            f"ssd: levels={tuple(levels)} must be maps of the backbone {node['name']!r}, from fine to coarse; it has "
            f"{known or 'none'}."
        )
    maps = BodyMaps(module_of(body), reads, strides, tuple(extras), norm, jnp.dtype(dtype))
    own = {f"map{i}": stride for i, stride in enumerate(strides)}
    heads = (*heads_below("backbone/body", body), "^backbone/extra/", "^head/")
    return maps, own, heads, tensor.below("backbone/body", body.rules)


def require_lengths(network: str, count: int, **lists: tuple[Any, int]) -> None:
    """Refuse lists, by name, that have not one value a map, or so many more.

    Raises:
      UserError: which one.
    """
    for name, (values, more) in lists.items():
        if values is not None and len(values) != count + more:
            each = f"one for each of {count} maps" + (" and one more" if more else "")
            raise UserError(f"{network}: {name} needs {count + more} values, {each}; found {values}.")


def require_maps(network: str, grids: Sequence[tuple[int, int]], size: Sequence[int]) -> None:
    """Refuse images of which a map has nothing.

    Raises:
      UserError: the images are too small.
    """
    if min(min(grid) for grid in grids) < 1:
        raise UserError(
            f"{network}: images of {size[0]}×{size[1]} leave nothing for the last of {len(grids)} maps; enlarge "
            "image_size, or take fewer extras on a backbone."
        )


def sites_of(network: str, grids: Any, ratios: Any, scales: Any, steps: Any) -> Any:
    """Make the call (height, width) → default boxes (r_l 4) of each map."""

    def sites(height: int, width: int):
        found = grids(height, width)
        require_maps(network, found, (height, width))
        each = steps or (None,) * len(found)
        return [
            anchor_ops.default_boxes((height, width), grid, (scales[i], scales[i + 1]), ratios[i], each[i])
            for i, grid in enumerate(found)
        ]

    return sites
