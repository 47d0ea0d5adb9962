"""Path aggregation (Liu et al. 2018, PANet, arXiv 1803.01534) as YOLOX has it (Ge et al. 2021, arXiv 2107.08430): maps
of three strides, informed first from coarse to fine and then from fine to coarse, with cross-stage partial blocks.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.backbones.csp_darknet import CSP, Unit, spatial
from mapjax.models.necks.fpn import upsample


class PAN(nn.Module):
    """A network "backbone" and the neck over three of its maps: images → the maps of both by name.

    What the neck gives is "p3", "p4" and "p5", of the strides 8, 16 and 32. The names of its modules are YOLOX'.

    reads: the backbone's maps of these strides.
    channels: of the three that are given.
    blocks: of each cross-stage block.
    """

    backbone: nn.Module
    reads: tuple[str, str, str]
    channels: tuple[int, int, int]
    blocks: int
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train: bool) -> dict[str, Any]:
        features = self.backbone(images, train)
        fine, middle, coarse = (features[name] for name in self.reads)
        first, second, third = self.channels
        options = {"norm": self.norm, "dtype": self.dtype}
        inner = {"blocks": self.blocks, "shortcut": False, "depthwise": self.depthwise, **options}

        def joined(features: int, maps: Any, name: str):
            return CSP(features, name=name, **inner)(jnp.concatenate(maps, -1), train)

        def down(features: int, x: Any, name: str):
            return spatial(features, 2, self.depthwise, self.norm, self.dtype, name)(x, train)

        top = Unit(second, name="lateral_conv0", **options)(coarse, train)
        x = joined(second, [upsample(top, middle.shape[1:3]), middle], "C3_p4")
        between = Unit(first, name="reduce_conv1", **options)(x, train)
        p3 = joined(first, [upsample(between, fine.shape[1:3]), fine], "C3_p3")
        p4 = joined(second, [down(first, p3, "bu_conv2"), between], "C3_n3")
        p5 = joined(third, [down(second, p4, "bu_conv1"), top], "C3_n4")
        return {**features, "p3": p3, "p4": p4, "p5": p5}
