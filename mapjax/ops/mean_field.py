"""Mean-field inference in a dense CRF, as a differentiable layer of products of matrices.

The model is that of Krähenbühl & Koltun 2011 ("Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials"), unrolled as in Zheng et al. 2015 ("Conditional Random Fields as Recurrent Neural Networks"): every pixel
hears of every other one, by a kernel over position and colour and by one over position alone.

Their permutohedral lattice scatters to places that depend on the data, which accelerators and gradients are slow at.
Here a pixel hears of *cells* of `stride`×`stride` pixels, each with its mean colour and mean belief, within `reach`
cells of its tile (the truncation is that of Teichmann & Cipolla 2018, "Convolutional CRFs"). The listener keeps its
own colour at full resolution, so that an answer turns at the edge of an object and not at that of a cell: on
photographs its beliefs are a third closer to the exact ones than with messages among cells that are then enlarged.
Pixels are listed tile by tile, so that a message is one product of matrices (cells in reach → pixels) a tile; all
shapes and trips are fixed. With stride 1 and a reach as large as the image the inference is exact.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int, int]  # images, rows and columns of tiles; together n


class Kernels(NamedTuple):
    """The two Gaussian kernels, and how finely and how far they are summed.

    position: standard deviation of the bilateral kernel in pixels.
    colour: its standard deviation in units of the image (0.25 of an image whose standard deviation is 1 is 14 of 256
      levels).
    smoothness: of the spatial kernel, in pixels.
    stride: side of a cell in pixels.
    tile: side in cells of what shares a product.
    reach: cells beyond its tile that a pixel hears of, on each side. Time and memory grow with (tile + 2 reach)², a
      number for each pixel.
    """

    position: float = 20.0
    colour: float = 0.25
    smoothness: float = 3.0
    stride: int = 4
    tile: int = 2
    reach: int = 3


class Energy(NamedTuple):
    """What is learned: how loud each class speaks in each kernel, and the price of two classes together.

    bilateral, spatial: (c) weights.
    compatibility: (c c), of the class heard and the class of the listener; Potts' model is 1 off the diagonal and 0 on
      it.
    """

    bilateral: Any
    spatial: Any
    compatibility: Any


def infer(
    logits: Float[Array, "b h w c"],
    image: Float[Array, "b h w k"],
    energy: Energy,
    kernels: Kernels,
    *,
    iterations: int = 5,
) -> Float[Array, "b h w c"]:
    """Logits after some iterations of mean field: their softmax is the belief Q.

    z_i(l) = logits_i(l) − Σ_l' compatibility(l', l) Σ_m weight_m(l') Σ_j k_m(i, j) Q_j(l') / Σ_j k_m(i, j), over all
    pixels j; the sum above leaves i itself out, and the one below does not, so that a pixel like no other hears
    nothing. What is heard is thus at most the weight. Differentiable by logits, energy and image; for the gradient
    the logits of every iteration are kept and all else is computed again. No forward-mode derivative.

    Args:
      image: colours, of any number of channels.
      iterations: with 0 the logits come back.
    """
    size = logits.shape[1], logits.shape[2]
    rows, columns = (-(-length // _side(kernels)) for length in size)
    grid = len(logits), rows, columns
    inside = _to_tiles(jnp.ones((len(logits), *size, 1), logits.dtype), kernels)  # n 1 p
    unary = _to_tiles(logits, kernels)
    colours = _to_tiles(image / kernels.colour, kernels)
    bilateral = _bilateral(colours, inside, grid, kernels)
    spatial = jnp.asarray(_positions(kernels.smoothness, kernels))
    # Sums of the kernels, with a pixel's own 1, which is a pixel's share of its cell.
    share = _in_reach(_pool(inside, grid, kernels), kernels)
    bilateral_sum, spatial_sum = (_hear(share, matrix) + 1 / kernels.stride**2 for matrix in (bilateral, spatial))

    @jax.checkpoint
    def iterate(now, _):
        cells = _pool(jax.nn.softmax(now, 1) * inside, grid, kernels)
        # Classes are mixed among cells, which are fewer than pixels.
        first, second = (
            _in_reach(jnp.einsum("bchw,cd->bdhw", cells, weight[:, None] * energy.compatibility), kernels)
            for weight in (energy.bilateral, energy.spatial)
        )
        return unary - _hear(first, bilateral) / bilateral_sum - _hear(second, spatial) / spatial_sum, None

    return _from_tiles(jax.lax.scan(iterate, unary, length=iterations)[0], grid, size, kernels)


@jax.custom_vjp
def _hear(cells, matrix):
    """Sums over the cells in reach (n c s) at each pixel of a tile, by a matrix (n s p) or one for all tiles (s p)."""
    return jnp.einsum("ncs,nsp->ncp" if matrix.ndim == 3 else "ncs,sp->ncp", cells, matrix)


def _hear_forward(cells, matrix):
    return _hear(cells, matrix), (cells, matrix)


def _hear_backward(saved, gradient):
    cells, matrix = saved
    if matrix.ndim == 2:
        return jnp.einsum("ncp,sp->ncs", gradient, matrix), jnp.einsum("ncs,ncp->sp", cells, gradient)
    # The matrix stands on the left: on the right, as JAX's own rule has it and as XLA would turn the product, it takes
    # five times as long on a CPU.
    turned = jax.lax.optimization_barrier(jnp.einsum("nsp,ncp->nsc", matrix, gradient)).swapaxes(1, 2)
    return turned, jnp.einsum("ncs,ncp->nsp", cells, gradient)


_hear.defvjp(_hear_forward, _hear_backward)


def _bilateral(colours, inside, grid: Grid, kernels: Kernels):
    """The matrix (n s p) of the bilateral kernel, for colours (n k p) in units of its standard deviation."""
    share = jnp.maximum(_pool(inside, grid, kernels), 1 / kernels.stride**2)  # whatever, for a cell outside
    means = _in_reach(_pool(colours * inside, grid, kernels) / share, kernels)
    distance = jnp.square(means[..., None] - colours[:, :, None]).sum(1)
    # The barrier keeps the iterations from computing the kernel again.
    return jax.lax.optimization_barrier(_positions(kernels.position, kernels) * jnp.exp(-distance / 2))


def _positions(deviation: float, kernels: Kernels) -> np.ndarray:
    """Mean of the Gaussian over the pixels of each cell in reach but the pixel itself: (s p) of a tile."""
    stride = kernels.stride
    first = np.arange(-kernels.reach, kernels.tile + kernels.reach) * stride
    distance = first[:, None, None] + np.arange(stride)[:, None] - np.arange(_side(kernels))  # cell, pixel of it, pixel
    line = np.exp(-((distance / deviation) ** 2) / 2).mean(1)
    own = (distance == 0).any(1)
    plane = np.einsum("ip,jq->ijpq", line, line) - np.einsum("ip,jq->ijpq", own, own) / stride**2
    return np.maximum(plane, 0).reshape(len(first) ** 2, -1).astype(np.float32)


def _side(kernels: Kernels) -> int:
    """Pixels along a tile."""
    return kernels.stride * kernels.tile


def _to_tiles(x, kernels: Kernels):
    """Image (b h w c) → tiles (n c p), with zeros below and at the right where the last ones are not full."""
    side = _side(kernels)
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    x = x.reshape(b, -(-h // side), side, -(-w // side), side, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, c, side**2)


def _from_tiles(tiles, grid: Grid, size: tuple[int, int], kernels: Kernels):
    side, (b, rows, columns) = _side(kernels), grid
    x = tiles.reshape(b, rows, columns, -1, side, side).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, rows * side, columns * side, -1)[:, : size[0], : size[1]]


def _pool(tiles, grid: Grid, kernels: Kernels):
    """Mean over each cell, where what is not inside must be 0 and counts: tiles (n c p) → cells (b c h w)."""
    (b, rows, columns), stride, tile = grid, kernels.stride, kernels.tile
    line = np.arange(tile)[:, None] == np.arange(_side(kernels)) // stride
    mean = np.einsum("ip,jq->ijpq", line, line).reshape(tile**2, -1).astype(np.float32) / stride**2
    # A product, because the gradient of a mean over two of eight axes takes four times as long on a CPU.
    cells = jnp.einsum("ncp,tp->nct", tiles, mean, precision="highest")
    cells = cells.reshape(b, rows, columns, -1, tile, tile).transpose(0, 3, 1, 4, 2, 5)
    return cells.reshape(b, -1, rows * tile, columns * tile)


def _in_reach(cells, kernels: Kernels):
    """Cells (b c h w) → those that each tile hears of (n c s), zeros outside of the image."""
    tile, reach = kernels.tile, kernels.reach
    rows, columns = (length - tile + 1 for length in cells.shape[2:])
    x = jnp.pad(cells, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    x = jnp.stack([x[:, :, i : i + rows : tile] for i in range(tile + 2 * reach)], 4)  # b c x w i
    x = jnp.stack([x[:, :, :, j : j + columns : tile] for j in range(tile + 2 * reach)], 5)  # b c x y i j
    return x.transpose(0, 2, 3, 1, 4, 5).reshape(-1, cells.shape[1], (tile + 2 * reach) ** 2)
