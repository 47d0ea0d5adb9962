"""YOLOX (Ge et al. 2021, arXiv 2107.08430): a CSPDarknet, path aggregation and a decoupled head, with the names of the
published weights. A mapping from images to a class, a box and an objectness for each point; no truth in it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones.csp_darknet import NORMS, SIZES, scaled_blocks
from mapjax.models.compose import by_stride, heads_below, make_backbone
from mapjax.models.heads import decoupled
from mapjax.models.layers import model_of, module_of
from mapjax.models.necks.pan import PAN
from mapjax.sharding import tensor
from mapjax.task import Model


class Detector(nn.Module):
    """A "backbone" with its neck, and the "head" over the maps of the neck.

    reversed: give the network blue first.
    """

    backbone: nn.Module
    head: nn.Module
    reversed: bool

    def __call__(self, images, train: bool = False) -> dict[str, Any]:
        features = self.backbone(images[..., ::-1] if self.reversed else images, train)
        return {"features": features, **self.head([features[name] for name in decoupled.STRIDES], train)}


def make(
    *,
    classes: int,
    size: str = "s",
    backbone: Mapping[str, Any] | None = None,
    depthwise: bool | None = None,
    norm: str = "batch",
    bgr: bool = True,
    dtype: str = "float32",
) -> Model:
    """Make a YOLOX.

    Of images (b h w 3, normalised, with sides that 32 divides) it gives "features" (name → b i j d: the backbone's maps
    and the neck's, "p3", "p4" and "p5"), and of r points, by level, row and column, "site_logits" (b r c),
    "site_deltas" (b r 4) and "site_quality" (b r; objectness). Its call `sites(height, width)` gives the squares around
    the points, which are at the upper left corners of the cells, one (r_l 4) array a level.

    Args:
      size: "nano", "tiny", "s", "m", "l" or "x".
      backbone: a node of the config that names another network with maps of the strides 8, 16 and 32.
      depthwise: 3×3 convolutions are depthwise with a 1×1 one behind each; None: those of "nano".
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      bgr: the network sees blue first, as the published weights were trained (they see 0 to 255: mean 0 and standard
        deviation 1/255 in the task).
      dtype: of the arithmetic; parameters and the three answers are float32.

    Raises:
      UserError: a size or norm that does not exist, or a backbone without maps of these strides.

    Example:
      >>> from mapjax.models.detectors import yolox
      >>> model = yolox.make(size="nano", classes=80)
      >>> model.levels, [len(level) for level in model.calls["sites"](416, 416)]
      ({'p3': 8, 'p4': 16, 'p5': 32}, [2704, 676, 169])
    """
    if size not in SIZES:
        raise UserError(f"yolox has no size={size!r}.{near(size, SIZES)}")
    (depth, width), depthwise = SIZES[size], size == "nano" if depthwise is None else depthwise
    node = backbone or {"name": "csp_darknet", "size": size, "depthwise": depthwise, "norm": norm}
    body, neck = with_neck("yolox", node, depth, width, depthwise, norm, dtype)
    head = decoupled.YoloxHead(classes, neck.channels[0], depthwise, norm, neck.dtype)
    return model_of_detector(body, Detector(neck, head, bgr), shift=0.0)


def with_neck(
    network: str, node: Mapping[str, Any], depth: float, width: float, depthwise: bool, norm: str, dtype: str
) -> tuple[Model, PAN]:
    """Make a backbone, and path aggregation over its maps of the strides 8, 16 and 32.

    Args:
      network: whose they are, for messages.
      node: of the backbone.
      depth, width: factors of the neck's 3 blocks and of its 256, 512 and 1024 channels.

    Raises:
      UserError: no such norm, or a backbone without such maps.
    """
    if norm not in NORMS:
        raise UserError(f"{network} has no norm={norm!r}.{near(norm, NORMS)}")
    body = make_backbone(network, node, dtype)
    maps = by_stride(body.levels)
    if missing := [stride for stride in decoupled.STRIDES.values() if stride not in maps]:
        raise UserError(f"{network}: the backbone {node['name']!r} has no map of stride {missing[0]}; choose another.")
    first, second, third = (2 * round(width * channels / 2) for channels in (256, 512, 1024))
    reads = (maps[8], maps[16], maps[32])
    options = (scaled_blocks(3, depth), depthwise, norm, jnp.dtype(dtype))
    return body, PAN(module_of(body), reads, (first, second, third), *options)


def model_of_detector(body: Model, module: nn.Module, shift: float) -> Model:
    """Make the Model of a module with a "backbone", in which `body` is one, and whose other parts are heads.

    Args:
      shift: where in its cell a point is, in strides.
    """
    heads = (*heads_below("backbone/backbone", body), "^head/", "^single_head/")
    rules = tensor.below("backbone/backbone", body.rules)
    made = model_of(module, levels=decoupled.STRIDES, heads=heads, rules=rules)
    return made._replace(calls={"sites": partial(decoupled.sites, shift=shift)})
