"""SSDLite on MobileNet-V3-large (Sandler et al. 2018, arXiv 1801.04381; Howard et al. 2019, arXiv 1905.02244), as
torchvision lays it out.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mapjax.models.backbones.inverted_residual import convolution_of
from mapjax.models.detectors.ssd import SSD, require_lengths, sites_of
from mapjax.models.heads.boxes_of_maps import MapsHead
from mapjax.models.layers import model_of
from mapjax.models.necks.mobile_maps import EXTRAS, MobileMaps
from mapjax.task import Model

MAPS = 2 + len(EXTRAS)


def make(
    *,
    classes: int,
    width: float = 1.0,
    reduced: bool = True,
    ratios: Sequence[Sequence[int | float]] = ((2, 3),) * MAPS,
    scales: Sequence[int | float] | None = None,
    norm: str = "batch",
    epsilon: float = 1e-3,
    momentum: float = 0.03,
    dtype: str = "float32",
) -> Model:
    """Make an SSDLite; the defaults are those of torchvision's `ssdlite320_mobilenet_v3_large`, for images of 320×320.

    Its outputs and its call are those of `ssd.make`.

    Args:
      classes: without background.
      width: factor of all channel counts.
      reduced: the last blocks have half the channels.
      ratios, scales: as for `ssd.make`; None: scales from 0.2 to 0.95.
      norm, epsilon, momentum: of all normalization: "batch", "frozen" or "group".
      dtype: of the arithmetic; parameters and what is said of sites are float32.

    Raises:
      UserError: lists of wrong lengths, or a norm that does not exist.

    Example:
      >>> from mapjax.models.detectors import ssdlite
      >>> model = ssdlite.make(classes=20)
      >>> sum(len(level) for level in model.calls["sites"](320, 320))
      3234
    """
    scales = scales or (*np.linspace(0.2, 0.95, MAPS).tolist(), 1.0)
    require_lengths("ssdlite", MAPS, ratios=(ratios, 0), scales=(scales, 1))
    convolution = convolution_of(norm, epsilon, momentum, "torch", dtype)
    maps = MobileMaps(width, reduced, convolution)
    head = MapsHead(classes, tuple(2 + 2 * len(one) for one in ratios), convolution, jnp.dtype(dtype))
    model = model_of(SSD(maps, head), levels={"map0": 16, "map1": 32}, heads=("^head/",))
    return model._replace(calls={"sites": sites_of("ssdlite", maps.grids, ratios, scales, None)})
