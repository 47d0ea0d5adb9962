"""Gradients by products against those of XLA's convolution, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjax.ops import convolution, patches


def xla(x, kernel, stride, pads):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    pads=st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    seed=st.integers(0, 99),
)
def test_both_gradients_are_those_of_the_convolution(size, sides, stride, pads, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, *size, 3), (*sides, 3, 4)))
        output, pull = jax.vjp(lambda x, kernel: xla(x, kernel, stride, pads), x, kernel)
        gradient = jnp.asarray(rng.normal(size=output.shape))
        of_x = patches.input_gradient(x.shape, kernel, gradient, stride=stride, pads=pads)
        of_kernel = patches.kernel_gradient(x, gradient, sides, stride=stride, pads=pads)
        for found, expected in zip((of_x, of_kernel), pull(gradient)):
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("side", "channels", "stride"), [(8, 64, 1), (4, 64, 1), (8, 32, 2), (7, 32, 2), (9, 16, 2)])
def test_the_convolution_takes_them_on_small_maps(side, channels, stride):
    """And is right there: of 8×8 places and 64 channels the kernel's gradient goes by tiles."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, side, side, channels), (3, 3, channels, 40))
    )
    text = jax.jit(jax.grad(lambda x, k: convolution.conv(x, k, stride).sum(), (0, 1))).lower(x, kernel).as_text()
    assert "dot_general" in text
    loss = [
        lambda x, k, f=f: (f(x, k) ** 2).sum()
        for f in (lambda x, k: convolution.conv(x, k, stride), lambda x, k: xla(x, k, stride, ((1, 1), (1, 1))))
    ]
    for found, expected in zip(*(jax.grad(f, (0, 1))(x, kernel) for f in loss)):
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_what_would_take_too_much_memory_is_left_to_the_compiler():
    big, small = (jax.ShapeDtypeStruct((batch, 56, 56, 128), jnp.float32) for batch in (64, 1))
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32)
    pays = [
        convolution._products_pay(x, kernel, jax.ShapeDtypeStruct((x.shape[0], 28, 28, 128), jnp.float32))
        for x in (big, small)
    ]
    assert pays == [False, True]
    half = jax.ShapeDtypeStruct(small.shape, jnp.bfloat16)
    assert not convolution._products_pay(half, kernel, jax.ShapeDtypeStruct((1, 28, 28, 128), jnp.bfloat16))
