"""A YOLO of our own, from papers: the class and the distances to the sides of a box for each point of three maps.

CSPDarknet (Wang et al. 2020; Bochkovskiy et al. 2020), path aggregation (Liu et al. 2018) and a decoupled head without
anchors (Ge et al. 2021); distances and an IoU loss as FCOS has them (Tian et al. 2019); beside the branch that answers
often for one object a second one that answers once, so that nothing need be suppressed (Wang et al. 2024).
"""

from typing import Any

import flax.linen as nn
import jax

from mapjax.errors import UserError, near
from mapjax.models.detectors.yolox import model_of_detector, with_neck
from mapjax.models.heads import decoupled
from mapjax.task import Model

SIZES = {  # depth and width
    "n": (1 / 3, 0.25),
    "s": (1 / 3, 0.5),
    "m": (2 / 3, 0.75),
    "l": (1.0, 1.0),
    "x": (4 / 3, 1.25),
}


class Detector(nn.Module):
    """A "backbone" with its neck, a "head", and perhaps a "single_head", whose loss reaches nothing below it."""

    backbone: nn.Module
    head: nn.Module
    single_head: nn.Module | None

    def __call__(self, images, train: bool = False) -> dict[str, Any]:
        features = self.backbone(images, train)
        maps = [features[name] for name in decoupled.STRIDES]
        outputs = {"features": features, **self.head(maps, train)}
        if self.single_head is not None:
            single = self.single_head(jax.lax.stop_gradient(maps), train)
            outputs |= {name.replace("site_", "single_"): value for name, value in single.items()}
        return outputs


def make(
    *,
    classes: int,
    size: str = "s",
    backbone: dict[str, Any] | None = None,
    depth: float | None = None,
    width: float | None = None,
    single: bool = True,
    norm: str = "batch",
    dtype: str = "float32",
) -> Model:
    """Make a YOLO.

    Of images (b h w 3, normalised, with sides that 32 divides) it gives "features" (name → b i j d: the backbone's maps
    and the neck's, "p3", "p4" and "p5"), and of r points, by level, row and column, "site_logits" (b r c) and
    "site_deltas" (b r 4; left, top, right, bottom in strides, above 0); with `single` also "single_logits" and
    "single_deltas" of the branch that answers once. Its call `sites(height, width)` gives the cells, one
    (r_l 4) array a level.

    Args:
      size: "n", "s", "m", "l" or "x", which says depth and width.
      backbone: a node of the config that names another network with maps of the strides 8, 16 and 32.
      depth: factor of the blocks.
      width: factor of the channels.
      single: whether there is the branch that answers once.
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      dtype: of the arithmetic; parameters and the answers are float32.

    Raises:
      UserError: a size or norm that does not exist, or a backbone without maps of these strides.

    Example:
      >>> from mapjax.models.detectors import yolo
      >>> model = yolo.make(size="n", classes=3)
      >>> [len(level) for level in model.calls["sites"](256, 320)]
      [1280, 320, 80]
    """
    if size not in SIZES:
        raise UserError(f"yolo has no size={size!r}.{near(size, SIZES)}")
    depth, width = SIZES[size][0] if depth is None else depth, SIZES[size][1] if width is None else width
    node = backbone or {"name": "csp_darknet", "depth": depth, "width": width, "norm": norm}
    body, neck = with_neck("yolo", node, depth, width, False, norm, dtype)
    features = (neck.channels[0], max(neck.channels[0] // 2, 16))
    heads = [decoupled.YoloHead(classes, features, norm, neck.dtype) for _ in range(1 + single)]
    return model_of_detector(body, Detector(neck, heads[0], heads[1] if single else None), shift=0.5)
