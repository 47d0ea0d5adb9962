"""The pyramid against its definition, and the upsampling against torch's nearest neighbour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.models.necks.fpn import FPN, upsample


@pytest.mark.parametrize("shape", [(6, 8), (5, 8), (6, 7), (5, 7), (1, 1)])
def test_upsample_is_the_nearest_neighbour(shape):
    small = np.random.default_rng(0).normal(size=(2, -(-shape[0] // 2), -(-shape[1] // 2), 3)).astype(np.float32)
    rows = np.arange(shape[0]) * small.shape[1] // shape[0]  # floor(i · in / out), as torch's "nearest"
    columns = np.arange(shape[1]) * small.shape[2] // shape[1]
    np.testing.assert_array_equal(upsample(jnp.asarray(small), shape), small[:, rows][:, :, columns])


def conv(x, layer):
    """3×3 or 1×1 convolution by sums over shifted images."""
    kernel = layer["kernel"]
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = sum(
        padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return y + layer["bias"]


def test_pyramid_by_hand():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, h, w, c)).astype(np.float32) for h, w, c in [(9, 13, 2), (5, 7, 3), (3, 4, 5)]]
    module = FPN(4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), maps)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found = jax.jit(lambda p, maps: module.apply({"params": p}, maps))(params, maps)
    inner = [conv(x, params["inner_blocks"][str(i)]["0"]) for i, x in enumerate(maps)]
    for i in (1, 0):
        h, w = inner[i].shape[1:3]
        inner[i] = inner[i] + inner[i + 1].repeat(2, 1).repeat(2, 2)[:, :h, :w]
    expected = [conv(x, params["layer_blocks"][str(i)]["0"]) for i, x in enumerate(inner)]
    expected.append(expected[-1][:, ::2, ::2])
    assert [x.shape for x in found] == [(2, 9, 13, 4), (2, 5, 7, 4), (2, 3, 4, 4), (2, 2, 2, 4)]
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
