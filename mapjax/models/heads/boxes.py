"""The box head of two-stage detectors: pooled features of a box → its class, and a better box for each class.

Two dense layers as in Faster R-CNN with a pyramid (Lin et al. 2017, arXiv 1612.03144), or four convolutions and a dense
layer (Li et al. 2021, arXiv 2111.11429).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import ConvNorm, Dense, MapDense
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules


class RoiHeads(nn.Module):
    """Pooled features (n p p d) → logits (n c+1), background first, and offsets (n c+1 4).

    convs: convolutions of the pooled features' channels in place of the first dense layer.
    norm: after each of them.
    agnostic: all classes have the same offsets.
    mask_head, mask_predictor, keypoint_head, keypoint_predictor: of masks.py and keypoints.py, where there are such.
    """

    classes: int
    representation: int
    convs: int = 0
    norm: str = "none"
    dtype: Any = jnp.float32
    agnostic: bool = False
    mask_head: nn.Module | None = None
    mask_predictor: nn.Module | None = None
    keypoint_head: nn.Module | None = None
    keypoint_predictor: nn.Module | None = None

    @nn.compact
    def __call__(self, pooled, train: bool = False):
        if self.convs:
            head = ConvHead(self.convs, self.representation, self.norm, self.dtype, name="box_head")
            x = head(pooled, train)
        else:
            x = BoxHead(self.representation, self.dtype, name="box_head")(pooled)
        logits, deltas = BoxPredictor(self.classes, self.dtype, self.agnostic, name="box_predictor")(x)
        deltas = deltas.reshape(len(deltas), -1, 4)
        return logits, jnp.broadcast_to(deltas, (len(deltas), self.classes + 1, 4))

    def masks(self, pooled, classes, train: bool):
        """Pooled features (n p p d) → logits (n 2p 2p) of the masks of some classes (n)."""
        assert self.mask_head is not None and self.mask_predictor is not None
        return self.mask_predictor(self.mask_head(pooled, train), classes)

    def keypoints(self, pooled):
        """Pooled features (n p p d) → logits (n 4p 4p k)."""
        assert self.keypoint_head is not None and self.keypoint_predictor is not None
        return self.keypoint_predictor(self.keypoint_head(pooled))


class BoxHead(nn.Module):
    """Two dense layers "fc6" and "fc7" on the pooled features."""

    representation: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.relu(MapDense(self.representation, dtype=self.dtype, name="fc6")(x))
        return nn.relu(Dense(self.representation, dtype=self.dtype, name="fc7")(x))


class ConvHead(nn.Module):
    """Convolutions "0", "1", …, then a dense layer; torchvision, whose numbers these are, flattens between them."""

    convs: int
    representation: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(self.convs):
            options = {"norm": self.norm, "activation": nn.relu, "dtype": self.dtype}
            x = ConvNorm(x.shape[-1], name=str(i), **options)(x, train)
        return nn.relu(MapDense(self.representation, dtype=self.dtype, name=str(self.convs + 1))(x))


class BoxPredictor(nn.Module):
    """Class scores "cls_score" and a box for every class, or for all, "bbox_pred"."""

    classes: int
    dtype: Any
    agnostic: bool = False

    @nn.compact
    def __call__(self, x):
        logits = Dense(self.classes + 1, dtype=self.dtype, name="cls_score")(x)
        return logits, Dense(4 if self.agnostic else (self.classes + 1) * 4, dtype=self.dtype, name="bbox_pred")(x)


def rules_of(convs: int) -> Rules:
    """How the parameters are split: the two dense layers are a pair, and each two convolutions."""
    if not convs:
        return (
            (r"box_head/fc6/map_kernel$", tensor.CONV_OUT),
            (r"box_head/fc6/bias$", tensor.EACH),
            (r"box_head/fc7/kernel$", tensor.IN),
        )
    return rules_of_convs("box_head", range(convs))


def rules_of_convs(head: str, names: Sequence[int], kernel: str = "0/kernel", beside: str = "(0/bias$|1/)") -> Rules:
    """How the convolutions of a head are split: each two are a pair.

    Args:
      names: of the convolutions, in their order.
      kernel: its path below a name.
      beside: the paths of what the channels of a convolution have beside it.
    """
    return tuple(
        rule
        for first, second in zip(names[::2], names[1::2])
        for rule in (
            (rf"{head}/{first}/{kernel}$", tensor.CONV_OUT),
            (rf"{head}/{first}/{beside}", tensor.EACH),
            (rf"{head}/{second}/{kernel}$", tensor.CONV_IN),
        )
    )
