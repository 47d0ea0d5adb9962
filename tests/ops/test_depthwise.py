"""Depthwise and other general convolutions and pools: equal to XLA's own, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.ops import convolution, depthwise

LAYOUT = ("NHWC", "HWIO", "NHWC")


def close(found, expected, part=1e-5):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= part * max(np.abs(expected).max(), 1e-3)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def both(ours, theirs, *inputs):
    """Values and gradients of both, for one random gradient of the output."""

    @jax.jit
    def run(inputs, gradient):
        (value, pull), (expected, pull_theirs) = jax.vjp(ours, *inputs), jax.vjp(theirs, *inputs)
        return (value, *pull(gradient)), (expected, *pull_theirs(gradient))

    shape = jax.eval_shape(theirs, *inputs).shape
    for found, expected in zip(*run(inputs, random(*shape, seed=1))):
        close(found, expected)


def plain(stride, padding, groups=1, dilation=1):
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, padding, rhs_dilation=(dilation,) * 2, dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )  # fmt: skip

    return conv


@settings(max_examples=12)
@given(
    size=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    height=st.integers(7, 12),
    width=st.integers(7, 12),
    same=st.booleans(),
    dilation=st.integers(1, 3),
)
def test_depthwise(size, stride, height, width, same, dilation):
    x, kernel = random(2, height, width, 3), random(size, size, 1, 3, seed=2)
    pad = (dilation * (size - 1) + 1) // 2
    padding = "SAME" if same else [(pad, pad)] * 2
    both(
        lambda x, k: convolution.conv(x, k, stride, padding="SAME" if same else None, groups=3, dilation=dilation),
        plain(stride, padding, groups=3, dilation=dilation),
        x,
        kernel,
    )


@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_is_taken_by_shifts_on_a_cpu(dilation):
    x, kernel = random(1, 8, 8, 4), random(3, 3, 1, 4)

    def total(x, kernel):
        return convolution.conv(x, kernel, groups=4, dilation=dilation).sum()

    text = jax.jit(jax.grad(total, (0, 1))).lower(x, kernel).compile()
    assert "convolution(" not in (text.as_text() or "")


def test_depthwise_of_lower_precision():
    x, kernel = random(2, 9, 9, 4).astype(jnp.bfloat16), random(3, 3, 1, 4).astype(jnp.bfloat16)
    value, pull = jax.vjp(lambda x, k: convolution.conv(x, k, groups=4), x, kernel)
    exact, pull_exact = jax.vjp(
        lambda x, k: plain(1, "SAME", groups=4)(x, k), x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    for found, expected in zip((value, *pull(value)), (exact, *pull_exact(exact))):
        assert found.dtype == jnp.bfloat16
        close(found.astype(jnp.float32), expected, part=3e-2)


@pytest.mark.parametrize(
    ("size", "options", "reference"),
    [
        ((3, 3), {"groups": 2}, ([(1, 1), (1, 1)], 2, 1)),
        ((3, 3), {"dilation": 2}, ([(2, 2), (2, 2)], 1, 2)),
        ((1, 7), {}, ([(0, 0), (3, 3)], 1, 1)),
        ((7, 1), {"padding": (3, 0)}, ([(3, 3), (0, 0)], 1, 1)),
        ((3, 3), {"padding": 0}, ([(0, 0), (0, 0)], 1, 1)),
        ((1, 1), {"groups": 2}, ([(0, 0), (0, 0)], 2, 1)),
        ((2, 2), {"padding": "SAME"}, ("SAME", 1, 1)),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_general_convolutions(size, options, reference, stride):
    padding, groups, dilation = reference
    x, kernel = random(2, 9, 10, 4), random(*size, 4 // groups, 6)
    both(lambda x, k: convolution.conv(x, k, stride, **options), plain(stride, padding, groups, dilation), x, kernel)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize("length", [7, 8, 12])
def test_pools(size, stride, padding, length):
    x = random(2, length, length + 1, 3)
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    largest = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pads)
    np.testing.assert_array_equal(convolution.max_pool(x, size, stride, padding), largest)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, pads)
    close(convolution.avg_pool(x, size, stride, padding), total / size**2)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 6, 2), (7, 9, 2), (9, 10, 3)])
def test_the_gradient_of_tiled_windows(height, width, size):
    values = np.random.default_rng(0).permutation(2 * height * width * 3).reshape(2, height, width, 3)  # all distinct
    window = (1, size, size, 1)
    both(
        lambda x: convolution.max_pool(x, size, size, 0),
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID"),
        jnp.asarray(values, jnp.float32),
    )
    first = jax.grad(lambda x: convolution.max_pool(x, size, size, 0).sum())(jnp.zeros((1, size, size, 1)))
    assert first[0, 0, 0, 0] == 1 and first.sum() == 1  # of equals the first


@pytest.mark.parametrize(
    ("length", "size", "stride", "padding", "count"), [(112, 3, 2, 0, 56), (7, 2, 2, 0, 4), (5, 2, 3, 1, 2)]
)
def test_a_last_window_partly_inside(length, size, stride, padding, count):
    # The counts are torch's MaxPool2d(ceil_mode=True).
    x = random(1, length, length, 1)
    found = convolution.max_pool(x, size, stride, padding, ceil=True)
    assert found.shape == (1, count, count, 1)
    start = (count - 1) * stride - padding
    assert found[0, -1, -1, 0] == x[0, start : start + size, start : start + size].max()


def test_gradients_without_a_platform():
    x, kernel = random(1, 6, 7, 2), random(3, 3, 1, 2)
    pads = ((0, 1), (1, 2))
    value, pull = jax.vjp(plain(2, pads, groups=2), x, kernel)
    gradient = random(*value.shape, seed=3)
    close(depthwise.conv(x, kernel, stride=2, pads=pads), value)
    for found, expected in zip(depthwise.gradients(x, kernel, gradient, stride=2, pads=pads), pull(gradient)):
        close(found, expected)


@pytest.mark.parametrize("images", [3, 12, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_of_more_images_than_are_summed_at_once(images, stride):
    assert images != np.gcd(images, depthwise.TOGETHER)  # so turns begin at other images than the first
    both(
        lambda x, k: convolution.conv(x, k, stride, groups=3),
        plain(stride, [(1, 1), (1, 1)], groups=3),
        random(images, 7, 6, 3),
        random(3, 3, 1, 3, seed=2),
    )
