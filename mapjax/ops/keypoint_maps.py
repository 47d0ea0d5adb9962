"""Keypoints of a box as places on a map over it (He et al. 2017), and back; the rules are torchvision's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SHARP = -0.75  # a of cubic convolution (Keys 1981), as torch has it
FIRST = 112  # places of the first look along each axis; larger boxes are looked at twice


def places(
    keypoints: Float[Array, "n k 3"], boxes: Float[Array, "n 4"], size: int
) -> tuple[Int[Array, "n k"], Bool[Array, "n k"]]:
    """The place of each keypoint on a map over its box, row · size + column, and whether it is one to learn.

    That is one which is labelled and inside the box; on its right or lower edge it is in the last column or row.

    Args:
      keypoints: x, y, visibility (0: not labelled).
      boxes: in the same pixels.
      size: places along each axis of a map.
    """
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    at = keypoints[..., :2]
    found = jnp.floor((at - low) * (size / jnp.maximum(high - low, 1e-6))).astype(jnp.int32)
    found = jnp.where(at == high, size - 1, found)
    inside = jnp.all((found >= 0) & (found < size), -1) & (keypoints[..., 2] > 0)
    return jnp.where(inside, found[..., 1] * size + found[..., 0], 0), inside


def peaks(maps: Float[Array, "n m m k"], boxes: Float[Array, "n 4"], longest: int) -> Float[Array, "n k 3"]:
    """Where each map over a box is highest, x and y in pixels, and how high.

    torchvision magnifies a map to the whole pixels of its box, by cubic convolution, and takes the highest one. Here
    the magnified map has at most 112 places along each axis; where the box has more pixels, those about the highest of
    these places are looked at, and the highest of them is taken.

    Args:
      maps: logits.
      boxes: narrower ones than a pixel count as one pixel wide.
      longest: no side of a box is longer, pixels.
    """
    reach = -(-longest // FIRST) + 1  # pixels between two places of the first look, and one more

    def one(item):
        maps, box = item
        sides = jnp.maximum(box[2:] - box[:2], 1.0)
        pixels = jnp.ceil(sides)
        coarse, every = jnp.minimum(pixels, FIRST), jnp.arange(FIRST, dtype=jnp.float32)
        every = jnp.broadcast_to(every, (maps.shape[-1], 2, FIRST))
        at, score = _highest(maps, every, coarse)  # (k 2)
        if longest > FIRST:
            near = jnp.floor((at + 0.5) * pixels / coarse)[..., None] + jnp.arange(-reach, reach + 1.0)
            at, score = _highest(maps, near, pixels)
        found = (at + 0.5) * sides / pixels + box[:2]
        return jnp.concatenate([found, score[:, None]], -1)

    return jax.lax.map(one, (maps, boxes), batch_size=8)


def _highest(maps, at, sides):
    """The highest of some places of each magnified map, (k 2), and how high it is (k).

    Args:
      maps: (m m k).
      at: (k 2 p), numbers of columns and of rows; those that are not in the map are passed over.
      sides: (2), its columns and rows.
    """
    inside = (at >= 0) & (at < sides[:, None])
    across, down = (_cubic(at[:, axis], sides[axis], maps.shape[1 - axis]) for axis in (0, 1))
    values = jnp.einsum("kpi,ijk,kqj->kpq", down, maps, across)
    values = jnp.where(inside[:, 1, :, None] & inside[:, 0, None], values, -jnp.inf)
    best = values.reshape(len(values), -1).argmax(-1)
    row, column = jnp.divmod(best, at.shape[-1])
    which = jnp.stack([column, row], -1)
    return jnp.take_along_axis(at, which[..., None], -1)[..., 0], values.reshape(len(values), -1).max(-1)


def _cubic(at, side, length: int):
    """Weights (k p length) of cubic convolution from `length` values to places `at` (k p) of `side`."""
    source = (at + 0.5) * length / side - 0.5
    first = jnp.floor(source)
    weights = jnp.zeros((*at.shape, length), at.dtype)
    for tap in range(-1, 3):
        d = jnp.abs(source - (first + tap))
        inner = (SHARP + 2) * d**3 - (SHARP + 3) * d**2 + 1
        outer = SHARP * (d**3 - 5 * d**2 + 8 * d - 4)
        index = jnp.clip(first + tap, 0, length - 1).astype(jnp.int32)
        weights += jax.nn.one_hot(index, length) * jnp.where(d <= 1, inner, outer)[..., None]
    return weights
