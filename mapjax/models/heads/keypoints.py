"""The keypoint head of two-stage detectors (He et al. 2017, arXiv 1703.06870): pooled features → a map a keypoint."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.heads.boxes import rules_of_convs
from mapjax.models.heads.masks import Doubled
from mapjax.models.layers import Conv
from mapjax.ops import resize
from mapjax.sharding.mesh import Rules


class KeypointHead(nn.Module):
    """Convolutions "0", "2", "4", … with ReLU between, of pooled features (n p p d)."""

    convs: int
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for i in range(self.convs):
            x = nn.relu(Conv(self.channels, bias=True, dtype=self.dtype, name=str(2 * i))(x))
        return x


class KeypointPredictor(nn.Module):
    """Features (n p p d) → logits (n 4p 4p k): where in its box each of k keypoints is."""

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Doubled(self.count, 4, dtype=self.dtype, name="kps_score_lowres")(x).astype(jnp.float32)
        return resize.bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))


def rules_of(convs: int) -> Rules:
    """How the parameters are split: each two convolutions are a pair."""
    return rules_of_convs("keypoint_head", range(0, 2 * convs, 2), "kernel", "bias$")
