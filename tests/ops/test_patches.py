"""Gradients by products against those of loops over the places, in double precision, and of XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.ops import convolution, patches


def xla(x, kernel, stride, pads):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def by_hand(x, kernel, gradient, stride, pads):
    """Both gradients, place by place of the output."""
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    of_x, of_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(gradient.shape[1:3]):
        here = np.s_[:, i * stride : i * stride + kernel.shape[0], j * stride : j * stride + kernel.shape[1]]
        of_kernel += np.einsum("bklc,bd->klcd", padded[here], gradient[:, i, j])
        of_x[here] += np.einsum("bd,klcd->bklc", gradient[:, i, j], kernel)
    (top, _), (left, _) = pads
    return of_x[:, top : top + x.shape[1], left : left + x.shape[2]], of_kernel


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    pads=st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    seed=st.integers(0, 99),
)
def test_both_gradients_are_those_of_the_convolution(size, sides, stride, pads, seed):
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=shape) for shape in ((2, *size, 3), (*sides, 3, 4)))
    places = [(side + sum(pad) - k) // stride + 1 for side, pad, k in zip(size, pads, sides)]
    gradient = rng.normal(size=(2, *places, 4))
    with jax.enable_x64(True):
        both = jax.jit(
            lambda x, kernel, gradient: (
                patches.input_gradient(x.shape, kernel, gradient, stride=stride, pads=pads),
                patches.kernel_gradient(x, gradient, sides, stride=stride, pads=pads),
            )
        )(x, kernel, gradient)
    for found, expected in zip(both, by_hand(x, kernel, gradient, stride, pads)):
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
