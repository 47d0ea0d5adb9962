"""Against sums over all pairs of pixels in float64, and over pixels and cells by loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import mean_field
from mapjax.ops.mean_field import Energy, Kernels

EXACT = Kernels(position=3.0, colour=0.7, smoothness=2.0, stride=1, tile=1, reach=5)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def drawn(height, width, classes=3, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    logits, image = rng.normal(size=(batch, height, width, classes)) * 2, rng.normal(size=(batch, height, width, 3))
    compatibility = 1 - np.eye(classes) + 0.3 * rng.normal(size=(classes, classes))
    return logits, image, Energy(rng.uniform(0.5, 2, classes), rng.uniform(0.5, 2, classes), compatibility)


def iterated(logits, matrices, totals, energy, iterations):
    """Mean field by matrices (n n) over all pixels; logits (n c)."""
    now = logits
    for _ in range(iterations):
        belief = softmax(now)
        price = np.zeros_like(logits)
        for matrix, total, weight in zip(matrices, totals, energy):
            price += (matrix @ belief / total[:, None] * weight) @ energy.compatibility
        now = logits - price
    return now


def over_all_pairs(logits, image, energy, kernels, iterations):
    """One image (h w c), exactly."""
    height, width, classes = logits.shape
    place = np.array(list(itertools.product(range(height), range(width))), float)
    colour = image.reshape(-1, image.shape[-1])
    apart = ((place[:, None] - place) ** 2).sum(-1)
    unlike = ((colour[:, None] - colour) ** 2).sum(-1)
    matrices = [
        np.exp(-apart / (2 * kernels.position**2) - unlike / (2 * kernels.colour**2)),
        np.exp(-apart / (2 * kernels.smoothness**2)),
    ]
    totals = [matrix.sum(1) for matrix in matrices]
    matrices = [matrix * (1 - np.eye(len(place))) for matrix in matrices]
    return iterated(logits.reshape(-1, classes), matrices, totals, energy, iterations).reshape(logits.shape)


def over_cells(logits, image, energy, kernels, iterations):
    """One image (h w c): each pixel hears each pixel of the cells in reach, but with the mean colour of its cell."""
    height, width, classes = logits.shape
    stride, reach, side = kernels.stride, kernels.reach, kernels.stride * kernels.tile
    pixels = list(itertools.product(range(height), range(width)))
    means = {}
    for pixel in pixels:
        means.setdefault((pixel[0] // stride, pixel[1] // stride), []).append(pixel)
    bilateral, spatial = np.zeros((2, len(pixels), len(pixels)))
    for n, (y, x) in enumerate(pixels):
        low = np.array([y // side, x // side]) * kernels.tile - reach
        for cell, members in means.items():
            if not all(0 <= c - first < kernels.tile + 2 * reach for c, first in zip(cell, low)):
                continue
            colour = np.mean([image[p] for p in members], 0)
            like = np.exp(-((image[y, x] - colour) ** 2).sum() / (2 * kernels.colour**2))
            # The belief is the cell's mean, and the kernel the mean over a whole cell: one inside the image or not.
            whole = itertools.product(*(range(c * stride, (c + 1) * stride) for c in cell))
            apart = np.array([(y - i) ** 2 + (x - j) ** 2 for i, j in whole if (i, j) != (y, x)])
            for matrix, deviation, factor in (
                (bilateral, kernels.position, like),
                (spatial, kernels.smoothness, 1),
            ):
                value = np.exp(-apart / (2 * deviation**2)).sum() / stride**2 * factor
                for member in members:
                    matrix[n, pixels.index(member)] = value
    totals = [matrix.sum(1) + 1 for matrix in (bilateral, spatial)]
    flat = iterated(logits.reshape(-1, classes), (bilateral, spatial), totals, energy, iterations)
    return flat.reshape(logits.shape)


def infer(logits, image, energy, kernels, iterations):
    as_floats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (logits, image, energy))
    return jax.jit(lambda *a: mean_field.infer(*a, kernels, iterations=iterations))(*as_floats)


@pytest.mark.parametrize(("tile", "iterations"), [(1, 1), (1, 5), (3, 5)])
def test_every_pixel_of_a_small_image_hears_every_other(tile, iterations):
    logits, image, energy = drawn(6, 5, batch=2)
    found = infer(logits, image, energy, EXACT._replace(tile=tile), iterations)
    expected = [over_all_pairs(*one, energy, EXACT, iterations) for one in zip(logits, image)]
    assert np.abs(found - logits).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_the_exact_form(batch):
    """By logits, image and energy: slopes of the sums over all pairs in random directions, by differences."""
    logits, image, energy = drawn(5, 6, batch=batch)
    pull = np.random.default_rng(3).normal(size=logits.shape)

    def expected(logits, image, energy):
        return sum((over_all_pairs(*one, energy, EXACT, 3) * g).sum() for *one, g in zip(logits, image, pull))

    def ours(*values):
        return (mean_field.infer(*values, EXACT, iterations=3) * jnp.asarray(pull, jnp.float32)).sum()

    values = (logits, image, energy)
    gradients = jax.jit(jax.grad(ours, (0, 1, 2)))(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values))
    leaves, tree = jax.tree.flatten(values)
    rng, step = np.random.default_rng(4), 1e-5
    for n, gradient in enumerate(jax.tree.leaves(gradients)):
        for way in rng.normal(size=(3, *gradient.shape)):
            ahead, behind = (
                expected(*tree.unflatten([*leaves[:n], leaves[n] + move * way, *leaves[n + 1 :]]))
                for move in (step, -step)
            )
            slope = (ahead - behind) / (2 * step)
            np.testing.assert_allclose((gradient * way).sum(), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "grain"),
    [((7, 9), (2, 2, 1)), ((8, 8), (4, 1, 1)), ((5, 11), (3, 1, 0)), ((3, 2), (2, 2, 2)), ((9, 6), (1, 2, 1))],
)
def test_cells_tiles_and_sizes_that_do_not_fit(size, grain):
    logits, image, energy = drawn(*size)
    stride, tile, reach = grain
    kernels = EXACT._replace(stride=stride, tile=tile, reach=reach)
    found = infer(logits, image, energy, kernels, 3)
    np.testing.assert_allclose(found[0], over_cells(logits[0], image[0], energy, kernels, 3), atol=3e-5)


def edge(height=24, width=32):
    """An image of two colours with a slanting edge, its truth, and logits that know it in blocks of 8 only."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    truth = (x > 9 + y / 2).astype(int)
    image = truth[..., None] * np.array([0.9, 0.6, 0.3]) + 0.1 * rng.normal(size=(height, width, 3))
    share = truth.reshape(height // 8, 8, width // 8, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    return np.stack([0.5 - share, share - 0.5], -1) * 4, image, truth


def test_coarse_cells_find_the_edge_that_exact_sums_find():
    logits, image, truth = edge()
    energy = Energy(np.full(2, 2.0), np.full(2, 0.5), 1 - np.eye(2))
    kernels = Kernels(position=10.0)
    exact = over_all_pairs(logits, image, energy, kernels, 5)
    found = np.asarray(infer(logits[None], image[None], energy, kernels, 5)[0])
    wrong = [(z.argmax(-1) != truth).mean() for z in (logits, exact, found)]
    assert wrong[0] > 0.08 and wrong[1] < 0.02 and wrong[2] < 0.02
    assert np.abs(softmax(found) - softmax(exact)).mean() < 0.02


def test_no_iteration_gives_the_logits_back():
    logits, image, energy = drawn(5, 6)
    np.testing.assert_array_equal(infer(logits, image, energy, Kernels(), 0), logits.astype(np.float32))


def test_a_pixel_like_no_other_hears_nothing():
    logits, image, energy = drawn(4, 4)
    image[0, 1, 2] += 100
    kernels, energy = EXACT._replace(smoothness=1e-3), energy._replace(bilateral=np.ones(3))
    np.testing.assert_allclose(infer(logits, image, energy, kernels, 2)[0, 1, 2], logits[0, 1, 2], atol=1e-6)


def test_huge_logits_and_colours_stay_finite():
    logits, image, energy = drawn(9, 9)

    def total(logits, image, energy):
        return mean_field.infer(logits, image, energy, Kernels(), iterations=4).sum()

    values = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (logits * 1e4, image * 1e3, energy))
    leaves = jax.tree.leaves(jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*values))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_no_gradient_scatters_and_training_leaves_the_kernel_alone():
    values = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn(16, 24))

    def text(which):
        gradient = jax.jit(jax.grad(lambda *a: mean_field.infer(*a, Kernels()).sum(), which))
        return gradient.lower(*values).compile().as_text() or ""

    trained, all_of_it = text((0, 2)), text((0, 1, 2))
    assert "scatter(" not in all_of_it
    products = [sum("ncs,ncp->nsp" in line for line in each.splitlines()) for each in (trained, all_of_it)]
    assert products[0] == 0 < products[1]
