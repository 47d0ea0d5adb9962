"""Instance masks in one stage (Tian et al. 2020, CondInst, arXiv 2003.05664): a dense detector with a mask head beside.

`mapjax.tasks.detection.dense` with beside=("masks",) trains and reads it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones.csp_darknet import NORMS
from mapjax.models.compose import make_backbone, on_backbone
from mapjax.models.heads.site_masks import SiteMasks
from mapjax.ops import dynamic_masks
from mapjax.sharding import mesh
from mapjax.task import Model

STRIDES = (8, 4, 2)


def make(
    *,
    classes: int,
    detector: Mapping[str, Any] = {"name": "yolo", "size": "s"},
    stride: int = 4,
    prototypes: int = 8,
    hidden: Sequence[int] = (8, 8),
    width: int = 64,
    filter_width: int = 64,
    norm: str = "batch",
    dtype: str = "float32",
) -> Model:
    """Make a dense detector with masks.

    Its outputs and its call "sites" are the detector's, and besides "prototypes" (b i j p), a map of every image, and
    "site_filters" (b r v), the weights of each site's own convolutions. Its call masks(prototypes (b i j p), filters
    (b n v), boxes (b n 4), size) gives the logits (b n size size) of masks on grids over these boxes.

    Args:
      classes: without background.
      detector: a node that names a dense detector on a pyramid: yolo, yolox, fcos or retinanet.
      stride: pixels per cell of the prototypes: 8, 4 or 2; thin and small objects need a fine one.
      prototypes: channels of that map.
      hidden: channels of each site's convolutions but the last; () is one sum of the prototypes (YOLACT).
      width: channels on the way to the prototypes.
      filter_width: of the two convolutions before the filters.
      norm: of this head: "batch", "frozen" or "group".
      dtype: of the arithmetic; parameters, prototypes and filters are float32.

    Raises:
      UserError: options out of range, or a detector that is none of these.

    Example:
      >>> from mapjax.models.detectors import condinst
      >>> model = condinst.make(detector={"name": "yolo", "size": "n"}, classes=3)
      >>> sorted(model.calls), model.levels
      (['masks', 'sites'], {'p3': 8, 'p4': 16, 'p5': 32})
    """
    if stride not in STRIDES:
        raise UserError(f"condinst: stride={stride} must be 8, 4 or 2.")
    if norm not in NORMS:
        raise UserError(f"condinst has no norm={norm!r}.{near(norm, NORMS)}")
    for name, value in {"prototypes": prototypes, "width": width, "filter_width": filter_width}.items():
        if value < 1:
            raise UserError(f"condinst: {name}={value} must be 1 or more.")
    if not all(channels >= 1 for channels in hidden):
        raise UserError(f"condinst: hidden={tuple(hidden)} must be numbers of channels, 1 or more each.")
    below = make_backbone("condinst", detector, dtype, classes=classes)
    if "sites" not in below.calls:
        raise UserError(
            f"condinst: {detector.get('name')!r} is no dense detector; choose yolo, yolox, fcos or retinanet."
        )
    head = SiteMasks(stride, prototypes, tuple(hidden), width, filter_width, norm, jnp.dtype(dtype))
    made = on_backbone(below, head, heads=(r"^filters/", r"^prototypes/last/"))
    masks = partial(_masks, stride=stride, hidden=tuple(hidden))
    return made._replace(calls={"sites": below.calls["sites"], "masks": masks})


def _masks(prototypes, filters, boxes, size: int, *, stride: int, hidden: tuple[int, ...]):
    draw = partial(dynamic_masks.draw, stride=stride, hidden=hidden, size=size)
    return mesh.per_example(jax.vmap(draw))(prototypes, filters, boxes)
