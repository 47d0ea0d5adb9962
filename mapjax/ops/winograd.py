"""3×3 convolution by Winograd's F(4×4, 3×3) (Lavin & Gray 2015): a quarter of the multiplications.

A tile of 6×6 inputs gives 4×4 outputs. Per axis: output = Aᵀ[(G kernel) ⊙ (Bᵀ input)], so a convolution is 36
matrix products over channels between cheap transforms, and so are both of its gradients. Its error is some 1e-5 of
the largest output in float32, against 1e-6 of the direct form: not for lower precisions.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.sharding import by_device

OUT, TILE = 4, 6
MOST_TILES = 256 * 2**20  # bytes of tiles and products at once, so that those of large maps fit into the memory
INPUT = np.array(  # Bᵀ
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(  # 24 G
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
)
KERNEL = _KERNEL.astype(np.float32) / np.float32(24)
OUTPUT = np.array(  # Aᵀ
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
)


def _kernel_2d(dtype: Any) -> Any:
    """G of both axes at once, in the order of the tiles (columns, rows): (36 9).

    One product with it, where two einsums take 20 times as long. It is exact to the precision that is asked for.
    """
    one = KERNEL if dtype == np.float32 else _KERNEL / 24
    return np.einsum("ai,bj->baij", one, one).reshape(TILE * TILE, 9)


def conv3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], dilation: int = 1) -> Float[Array, "b h w d"]:
    """3×3 convolution, stride 1, with as many zeros around the image as the dilation says."""
    if dilation > 1:
        return _whole(conv3x3(_phases(x, dilation), kernel), dilation, x.shape)
    if _chunks(x.shape, kernel.shape[3]) == 1:
        return _convolved(x, _spread(kernel))
    return by_device.run(_convolved, x, whole=[_spread(kernel)])


def _convolved(x, spread):
    """Convolve with a kernel that is spread already, some images at a time."""

    def some(x):
        return _from_tiles(jnp.einsum("ntc,ncd->ntd", _to_tiles(x), spread), x.shape[:3])

    count = _chunks(x.shape, spread.shape[2])
    if count == 1:
        return some(x)
    parts = x.reshape(-1, count, *x.shape[1:])

    def body(k, out):
        found = some(jax.lax.dynamic_index_in_dim(parts, k, 1, keepdims=False))
        return jax.lax.dynamic_update_index_in_dim(out, found, k, 1)

    shape = (*parts.shape[:4], spread.shape[2])
    return jax.lax.fori_loop(0, count, body, jnp.zeros(shape, x.dtype)).reshape(*x.shape[:3], -1)


def gradients(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    gradient: Float[Array, "b h w d"],
    dilation: int = 1,
) -> tuple[Float[Array, "b h w c"], Float[Array, "3 3 c d"]]:
    """Gradients of x and of the kernel, given that of the output of `conv3x3`."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return conv3x3(gradient, turned, dilation), kernel_gradient(x, gradient, dilation)


def kernel_gradient(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b h w d"], dilation: int = 1
) -> Float[Array, "3 3 c d"]:
    """Gradient of the kernel of `conv3x3`, given that of its output."""
    if dilation > 1:
        return kernel_gradient(_phases(x, dilation), _phases(gradient, dilation))
    alone = _chunks(x.shape, gradient.shape[3]) == 1
    products = _products(x, gradient) if alone else by_device.run(_products, x, gradient, summed=True)
    found = _kernel_2d(x.dtype).T @ products.reshape(TILE * TILE, -1)
    return found.reshape(3, 3, x.shape[3], gradient.shape[3])


def tiles(shape: Sequence[int], dilation: int = 1) -> int:
    """How many tiles images of a shape (b h w c) are cut into."""
    batch, height, width, _ = shape
    return batch * dilation**2 * _count(-(-height // dilation)) * _count(-(-width // dilation))


def _phases(x, dilation: int):
    """Images (b h w c) → every dilation-th pixel of each as an image of its own, which a dilated kernel sees alone."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % dilation), (0, -w % dilation), (0, 0)))
    x = x.reshape(b, -(-h // dilation), dilation, -(-w // dilation), dilation, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, *x.shape[3:])


def _whole(phases, dilation: int, shape: Sequence[int]):
    """The images (b h w d) of such phases: the inverse of `_phases`."""
    _, rows, columns, d = phases.shape
    x = phases.reshape(-1, dilation, dilation, rows, columns, d).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, rows * dilation, columns * dilation, d)[:, : shape[1], : shape[2]]


def _products(x, gradient):
    """Sums over all tiles of the transformed images and gradients, some images at a time: (36 c d)."""
    count = _chunks(x.shape, gradient.shape[3])
    parts = [array.reshape(-1, count, *array.shape[1:]) for array in (x, gradient)]

    def some(k):
        seen, wanted = (jax.lax.dynamic_index_in_dim(part, k, 1, keepdims=False) for part in parts)
        return jnp.einsum("ntc,ntd->ncd", _to_tiles(seen), _gradient_to_tiles(wanted))

    return some(0) if count == 1 else jax.lax.fori_loop(1, count, lambda k, total: total + some(k), some(0))


def _chunks(shape: tuple[int, ...], features: int) -> int:
    """Into how many parts the batch is cut, so that the tiles of one take no more than MOST_TILES, or one image."""
    batch, height, width, channels = shape
    each = TILE * TILE * _count(height) * _count(width) * (channels + features) * 4  # bytes
    most = max(MOST_TILES // each, 1)
    return next(count for count in range(1, batch + 1) if batch % count == 0 and batch // count <= most)


def _spread(kernel):
    """Kernel (3 3 c d) → (36 c d)."""
    return (_kernel_2d(kernel.dtype) @ kernel.reshape(9, -1)).reshape(TILE * TILE, *kernel.shape[2:])


def _to_tiles(x):
    """Image (b h w c) → transformed 6×6 tiles (36, tiles, c), neighbours overlapping by 2."""
    b, h, w, c = x.shape
    rows, columns = _count(h), _count(w)
    x = jnp.pad(x, ((0, 0), (1, OUT * (rows + 1) - 1 - h), (1, OUT * (columns + 1) - 1 - w), (0, 0)))
    x = x.reshape(b, rows + 1, OUT, -1, c)
    bands = [x[:, :rows, i] for i in range(OUT)] + [x[:, 1:, i] for i in range(TILE - OUT)]
    # The barrier keeps the two axes apart: fused into one loop, each band would be computed six times.
    x = jax.lax.optimization_barrier(jnp.stack(_combine(INPUT, bands))).reshape(TILE, b, rows, columns + 1, OUT, c)
    bands = [x[:, :, :, :columns, j] for j in range(OUT)] + [x[:, :, :, 1:, j] for j in range(TILE - OUT)]
    return jnp.stack(_combine(INPUT, bands)).reshape(TILE * TILE, -1, c)


def _from_tiles(tiles, shape: tuple[int, int, int]):
    """Products (36, tiles, d) → image (b h w d)."""
    b, h, w = shape
    rows, columns = _count(h), _count(w)
    tiles = tiles.reshape(TILE, TILE, b, rows, columns, -1)
    bands = _combine(OUTPUT, [tiles[:, i] for i in range(TILE)])
    cells = [jnp.stack(_combine(OUTPUT, list(band)), 3) for band in bands]
    return jnp.stack(cells, 2).reshape(b, OUT * rows, OUT * columns, -1)[:, :h, :w]


def _gradient_to_tiles(g):
    """Gradient of the image (b h w d) → gradient of the products (36, tiles, d): the transpose of `_from_tiles`."""
    b, h, w, d = g.shape
    rows, columns = _count(h), _count(w)
    g = jnp.pad(g, ((0, 0), (0, OUT * rows - h), (0, OUT * columns - w), (0, 0))).reshape(b, rows, OUT, -1, d)
    g = jax.lax.optimization_barrier(jnp.stack(_combine(OUTPUT.T, [g[:, :, i] for i in range(OUT)])))
    g = g.reshape(TILE, b, rows, columns, OUT, d)
    return jnp.stack(_combine(OUTPUT.T, [g[..., j, :] for j in range(OUT)])).reshape(TILE * TILE, -1, d)


def _combine(matrix: np.ndarray, bands: Sequence[Array]) -> list[Any]:
    """Rows of a small constant matrix times bands, without its zeros."""
    return [sum(float(f) * band for f, band in zip(row, bands) if f) for row in matrix]


def _count(length: int) -> int:
    return -(-length // OUT)
