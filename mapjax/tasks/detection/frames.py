"""The frame that a detector sees, and the way back: padding, the part that holds the image, original pixels."""

import jax.numpy as jnp

from mapjax.ops import boxes as box_ops
from mapjax.task import Batch, Result

DIVISOR = 32  # of the sides that a network sees: the coarsest stride of most, as torchvision has it


def pad(images, divisor: int = DIVISOR):
    """Add zeros below and on the right, up to multiples of a divisor, so that every stride divides the sides."""
    below, right = (padded(side, divisor) - side for side in images.shape[1:3])
    return jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))


def padded(side: int, divisor: int) -> int:
    """Round a side up to a multiple of a divisor."""
    return -(-side // divisor) * divisor


def extents(batch: Batch):
    """The box (b 4), in pixels of the network's input, that holds the image without its padding."""
    size = batch["size"].astype(jnp.float32)
    whole = jnp.stack([jnp.zeros_like(size[:, 0]), jnp.zeros_like(size[:, 0]), size[:, 1], size[:, 0]], -1)
    height, width = batch["image"].shape[1:3]
    inside = box_ops.transform(whole[:, None], batch["matrix"])
    return box_ops.clip(inside, jnp.broadcast_to(jnp.array([0.0, 0.0, width, height]), whole.shape))[:, 0]


def larger(boxes, least: float):
    """Boxes at least so many pixels wide and high."""
    return (boxes[..., 2] - boxes[..., 0] >= least) & (boxes[..., 3] - boxes[..., 1] >= least)


def to_original(found: Result, batch: Batch) -> Result:
    """Detections of the network's input, in pixels of the original images, clipped to them."""
    size = batch["size"].astype(jnp.float32)
    zero = jnp.zeros_like(size[:, 0])
    boxes = box_ops.transform(found["boxes"], box_ops.invert_affine(batch["matrix"]))
    boxes = box_ops.clip(boxes, jnp.stack([zero, zero, size[:, 1], size[:, 0]], -1))
    return found | {"boxes": jnp.where(found["valid"][..., None], boxes, 0)}
