"""Masks that are drawn inside one box, seen through others: what a mask head is to learn of each proposal."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def crop(
    masks: Float[Array, "n c c"], boxes: Float[Array, "n 4"], windows: Float[Array, "n 4"], size: int
) -> Float[Array, "n size size"]:
    """Give of each cell of a grid over a window the share that a mask covers, 0 to 1; outside the mask's box it is 0.

    RoIAlign averages samples of a mask (He et al. 2017; torchvision takes as many as a cell has pixels). The mask is
    constant within each of its own cells, so that here the mean is exact: the product of the mask with the overlaps of
    both grids, an axis each. Pixels are squares, where torchvision's mask lies half a pixel further to the lower right.

    Args:
      masks: the share of each cell of a grid over its box, 0 to 1.
      boxes: of the masks, in pixels.
      windows: in the same pixels; those narrower than a pixel are taken as one pixel wide.
      size: cells of a window along each axis.
    """
    cells = masks.shape[-1]
    down = _overlaps(boxes[:, 1], boxes[:, 3], windows[:, 1], windows[:, 3], cells, size)
    across = _overlaps(boxes[:, 0], boxes[:, 2], windows[:, 0], windows[:, 2], cells, size)
    return jnp.einsum("npi,nij,nqj->npq", down, masks, across)


def _overlaps(low, high, window_low, window_high, cells: int, size: int) -> Float[Array, "n size c"]:
    """Of each cell of a window the shares that lie in each cell of a box, along one axis."""
    side = jnp.maximum(high - low, 1e-6)[:, None]
    wide = jnp.maximum(window_high - window_low, 1.0)[:, None]
    edges = (window_low[:, None] + wide * jnp.arange(size + 1) / size - low[:, None]) / side * cells
    first, last = edges[:, :-1, None], edges[:, 1:, None]
    place = jnp.arange(cells)
    shared = jnp.minimum(last, place + 1) - jnp.maximum(first, place)
    return jnp.maximum(shared, 0) / (last - first)
