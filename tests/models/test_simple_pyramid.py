"""The simple pyramid over one map, by hand and against XLA's transposed convolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.models.necks.simple_pyramid import SimplePyramid, Transposed


def random_params(module, *inputs):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_a_transposed_convolution():
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 6)).astype(np.float32)
    module = Transposed(4, jnp.float32)
    params = random_params(module, x)
    kernel = params["kernel"].reshape(6, 2, 2, 4).transpose(1, 2, 3, 0)  # rows, columns, outputs, inputs
    expected = jax.lax.conv_transpose(x, kernel, (2, 2), "VALID", transpose_kernel=True) + params["bias"]
    found = jax.jit(lambda p, x: module.apply({"params": p}, x))(params, x)
    assert found.shape == (2, 6, 10, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def normalized(x, layer):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def conv(x, kernel):
    """3×3 or 1×1 convolution by sums over shifted maps."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    return np.einsum("bijcpq,pqco->bijo", windows, kernel)


def doubled(x, layer):
    """Each place becomes 2×2, by a matrix each."""
    b, h, w, c = x.shape
    kernel = layer["kernel"].reshape(c, 2, 2, -1)
    found = np.zeros((b, 2 * h, 2 * w, kernel.shape[-1]), np.float32)
    for i, j in np.ndindex(2, 2):
        found[:, i::2, j::2] = x @ kernel[:, i, j] + layer["bias"]
    return found


def test_the_pyramid_by_hand():
    x = np.random.default_rng(1).normal(size=(1, 4, 6, 8)).astype(np.float32)
    module = SimplePyramid(16, (4, 8, 16, 32), channels=3)
    params = random_params(module, [x])
    gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
    at_4, at_8 = params["stride4"], params["stride8"]
    before = {
        4: doubled(gelu(normalized(doubled(x, at_4["up0"]), at_4["up_norm0"])), at_4["up1"]),
        8: doubled(x, at_8["up0"]),
        16: x,
        32: x.reshape(1, 2, 2, 3, 2, 8).max((2, 4)),
    }
    expected = []
    for stride, y in before.items():
        branch = params[f"stride{stride}"]
        for name in ("inner", "outer"):
            y = normalized(conv(y, branch[name]["kernel"]), branch[f"{name}_norm"])
        expected.append(y)
    found = jax.jit(lambda p, x: module.apply({"params": p}, [x]))(params, x)
    assert [y.shape for y in found] == [(1, 16, 24, 3), (1, 8, 12, 3), (1, 4, 6, 3), (1, 2, 3, 3), (1, 1, 2, 3)]
    for ours, theirs in zip(found, [*expected, expected[-1][:, ::2, ::2]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("stride", [8, 32])
def test_of_another_stride(stride):
    module = SimplePyramid(stride, (8, 16), channels=3)
    x = jax.ShapeDtypeStruct((1, 64 // stride, 96 // stride, 16), jnp.float32)
    found = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), [x])[0], x)
    assert [y.shape for y in found] == [(1, 8, 12, 3), (1, 4, 6, 3), (1, 2, 3, 3)]
