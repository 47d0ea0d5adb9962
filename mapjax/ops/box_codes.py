"""Codes of boxes: the four numbers in which a network says where a box is, relative to the site that answers.

A site is a box: an anchor, or for a point the square around it whose side is the level's stride.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import boxes as box_ops


def encode_distances(boxes: Float[Array, "*b 4"], sites: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """How far a box's left, top, right and bottom are from the site's centre, in sides of the site.

    Tian et al. 2019 (FCOS, arXiv 1904.01355); negative where the centre lies outside.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box_codes.encode_distances(jnp.array([0.0, 4, 12, 20]), jnp.array([0.0, 0, 8, 8])).tolist()
      [0.5, 0.0, 1.0, 2.0]
    """
    centre, side = _centre_and_side(sites)
    return jnp.concatenate([centre - boxes[..., :2], boxes[..., 2:] - centre], -1) / side


def decode_distances(deltas: Float[Array, "*b 4"], sites: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Boxes from distances: the inverse of `encode_distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box_codes.decode_distances(jnp.array([0.5, 0, 1, 2]), jnp.array([0.0, 0, 8, 8])).tolist()
      [0.0, 4.0, 12.0, 20.0]
    """
    centre, side = _centre_and_side(sites)
    deltas = deltas * side
    return jnp.concatenate([centre - deltas[..., :2], centre + deltas[..., 2:]], -1)


def _centre_and_side(sites):
    """The centre (x y) of each site, and its sides (width height width height)."""
    size = sites[..., 2:] - sites[..., :2]
    return (sites[..., :2] + sites[..., 2:]) / 2, jnp.maximum(jnp.concatenate([size, size], -1), 1e-6)


def encode_offsets(
    boxes: Float[Array, "*b 4"], sites: Float[Array, "*b 4"], *, weights: Sequence[int | float] = (1, 1, 1, 1)
) -> Float[Array, "*b 4"]:
    """Offsets of `ops.boxes.encode`, times `weights`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box, site = jnp.array([1.0, 0, 5, 4]), jnp.array([0.0, 0, 4, 4])
      >>> box_codes.encode_offsets(box, site, weights=(10, 10, 5, 5)).tolist()
      [2.5, 0.0, 0.0, 0.0]
    """
    return box_ops.encode(boxes, sites, weights)


def decode_offsets(
    deltas: Float[Array, "*b 4"], sites: Float[Array, "*b 4"], *, weights: Sequence[int | float] = (1, 1, 1, 1)
) -> Float[Array, "*b 4"]:
    """Boxes from offsets: the inverse of `encode_offsets`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box_codes.decode_offsets(jnp.array([0.25, 0, 0, 0]), jnp.array([0.0, 0, 4, 4])).tolist()
      [1.0, 0.0, 5.0, 4.0]
    """
    return box_ops.decode(deltas, sites, weights)


MAX_LOG_SIDES = math.log(1000.0)  # a decoded box is at most a thousand times as wide and high as its site


def encode_corners(boxes: Float[Array, "*b 4"], sites: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """How far a box's centre is from the site's, in sides of the site, and the log of its width and height in sides.

    Ge et al. 2021 (YOLOX, arXiv 2107.08430), whose sites are centred at the upper left corners of cells.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box_codes.encode_corners(jnp.array([4.0, 0, 12, 8]), jnp.array([-4.0, -4, 4, 4])).tolist()
      [1.0, 0.5, 0.0, 0.0]
    """
    return box_ops.encode(boxes, sites)


def decode_corners(deltas: Float[Array, "*b 4"], sites: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Boxes from the code of `encode_corners`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_codes
      >>> box_codes.decode_corners(jnp.array([1.0, 0.5, 0, 0]), jnp.array([-4.0, -4, 4, 4])).tolist()
      [4.0, 0.0, 12.0, 8.0]
    """
    centre, side = _centre_and_side(sites)
    size = jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SIDES)) * side[..., 2:]
    return box_ops.cxcywh_to_xyxy(jnp.concatenate([centre + deltas[..., :2] * side[..., :2], size], -1))


CODES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {  # name → encode, decode; same options
    "offsets": (encode_offsets, decode_offsets),
    "distances": (encode_distances, decode_distances),
    "corner": (encode_corners, decode_corners),
}
