"""Equal to XLA's own convolution and windows, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mapjax.ops import convolution, winograd


def reference(x, kernel, stride):
    pad = kernel.shape[0] // 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad), (pad, pad)], dimension_numbers=layout)


def close(found, expected, part=1e-4):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= part * np.abs(expected).max()


def problem(shape, size, features, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(size, size, shape[-1], features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


def check(x, kernel, stride):
    """Value and both gradients, for a random gradient of the output."""

    @jax.jit
    def both(x, kernel, gradient):
        ours, pull = jax.vjp(lambda x, kernel: convolution.conv(x, kernel, stride), x, kernel)
        theirs, pull_theirs = jax.vjp(lambda x, kernel: reference(x, kernel, stride), x, kernel)
        return (ours, *pull(gradient)), (theirs, *pull_theirs(gradient))

    shape = jax.eval_shape(lambda x, kernel: reference(x, kernel, stride), x, kernel).shape
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    for found, expected in zip(*both(x, kernel, gradient)):
        close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 9, 13, 4)])
def test_value_and_gradients(shape, size, stride):
    check(*problem(shape, size, 5), stride)


@pytest.mark.parametrize("pads", [((3, 3), (3, 3)), ((0, 1), (2, 0)), ((1, 1), (0, 0)), ((2, 2), (1, 2))])
@pytest.mark.parametrize("size", [(7, 7), (3, 3), (4, 2), (5, 1)])
def test_stride_two_over_blocks_of_pixels(size, pads):
    """As TPUs get it; the gradients too."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 12, 8, 3), (*size, 3, 4)))
    found, pull = jax.vjp(lambda x, kernel: convolution._of_blocks(x, kernel, pads), x, kernel)
    wanted, pull_wanted = jax.vjp(lambda x, kernel: convolution._direct(x, kernel, 2, pads), x, kernel)
    close(found, wanted)
    gradient = jnp.asarray(rng.normal(size=wanted.shape), jnp.float32)
    for ours, theirs in zip(pull(gradient), pull_wanted(gradient)):
        close(ours, theirs)


@pytest.mark.parametrize("shape", [(3, 16, 16, 32), (3, 17, 18, 32), (2, 23, 25, 32), (48, 3, 5, 32), (48, 2, 3, 32)])
def test_by_winograd_tiles(shape):
    x, kernel = problem(shape, 3, 32)
    assert convolution._tiles_pay(x)
    check(x, kernel, 1)


def test_when_tiles_pay():
    def pays(shape, dilation=1, dtype=jnp.float32):
        return convolution._tiles_pay(jax.ShapeDtypeStruct(shape, dtype), dilation)

    assert pays((3, 16, 16, 32)) and pays((3, 13, 15, 512))  # 4 · 4 tiles each
    assert not pays((3, 12, 16, 32)) and pays((4, 12, 16, 32))  # 3 · 4 tiles each
    assert pays((2, 19, 19, 32), dilation=6) and not pays((1, 19, 19, 32), dilation=6)  # 36 of 1 · 1
    assert not pays((3, 16, 16, 32), dtype=jnp.bfloat16)
    assert pays((1, 33, 33, 32), dilation=12)  # 144 of 3 · 3, each of 9 outputs
    assert not pays((1, 33, 33, 32), dilation=24) and not pays((1, 33, 33, 32), dilation=36)  # 576 and 1296 of 4 or 1
    assert not pays((64, 1, 1, 32)) and not pays((64, 2, 2, 32))


@pytest.mark.parametrize(("height", "width", "dilation"), [(12, 16, 2), (11, 7, 3), (9, 9, 12)])
def test_dilated_by_winograd_tiles(height, width, dilation):
    rng = np.random.default_rng(0)
    shapes = (2, height, width, 8), (3, 3, 8, 4), (2, height, width, 4)
    x, kernel, gradient = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    pads = ((dilation, dilation),) * 2
    value, pull = jax.vjp(lambda x, kernel: convolution._direct(x, kernel, 1, pads, dilation=dilation), x, kernel)
    close(winograd.conv3x3(x, kernel, dilation), value)
    for found, expected in zip(winograd.gradients(x, kernel, gradient, dilation), pull(gradient)):
        close(found, expected)


def test_the_gradients_of_the_tiles_are_the_derivatives():
    x, kernel = problem((1, 6, 7, 3), 3, 2)
    gradient = jnp.asarray(np.random.default_rng(2).normal(size=(1, 6, 7, 2)).astype(np.float32))
    value, pull = jax.vjp(lambda x, kernel: reference(x, kernel, 1), x, kernel)
    close(jax.jit(winograd.conv3x3)(x, kernel), value)
    for found, expected in zip(jax.jit(winograd.gradients)(x, kernel, gradient), pull(gradient)):
        close(found, expected)


def test_the_transforms_are_exact_in_one_dimension():
    x, kernel = np.array([1, 0, -2, 3, 5, -1.0]), np.array([2, -1, 4.0])
    found = winograd.OUTPUT.astype(float) @ ((winograd.KERNEL.astype(float) @ kernel) * (winograd.INPUT @ x))
    np.testing.assert_allclose(found, np.correlate(x, kernel, "valid"), rtol=1e-6)


def test_lower_precision_keeps_its_type():
    x, kernel = (a.astype(jnp.bfloat16) for a in problem((2, 16, 16, 32), 3, 32))
    found = convolution.conv(x, kernel)
    assert found.dtype == jnp.bfloat16
    close(found.astype(jnp.float32), reference(x, kernel, 1).astype(jnp.float32), part=2e-2)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 9, 7, 2), (2, 6, 11, 1), (1, 1, 2, 2)])
def test_max_pool_and_its_gradient(shape):
    rng = np.random.default_rng(0)
    values = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float32) - 20  # all distinct, some negative
    x = jnp.asarray(values)

    def windows(x):
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

    def both(pool):
        value, pull = jax.vjp(pool, x)
        return value, *pull(1 + jnp.arange(value.size, dtype=jnp.float32).reshape(value.shape) % 7)

    for found, expected in zip(*jax.jit(lambda: (both(convolution.max_pool), both(windows)))()):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "size", "groups"),
    [((2, 8, 8, 4), 1, 1), ((3, 16, 16, 32), 3, 1), ((2, 8, 8, 4), 3, 4), ((2, 8, 8, 8), 3, 2)],
)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_plain_convolutions_and_cpus_the_fast_forms(shape, size, groups, platform):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel = jax.ShapeDtypeStruct((size, size, shape[-1] // groups, shape[-1]), jnp.float32)

    def count(function):
        module = export.export(jax.jit(function), platforms=[platform])(x, kernel).mlir_module()
        return module.count("stablehlo.convolution")

    def value(x, kernel):
        return convolution.conv(x, kernel, groups=groups)

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: value(x, kernel).sum(), (0, 1))(x, kernel)

    grouped = 1 < groups < shape[-1]  # merged into one with zeros between the groups, which is dense on a CPU too
    assert count(value) == (1 if platform != "cpu" or grouped else 0)
    assert count(gradients) == (2 if platform != "cpu" or grouped else 0)


@pytest.mark.parametrize(("platform", "blocks"), [("cpu", False), ("cuda", False), ("tpu", True)])
def test_the_first_convolution_on_a_tpu_is_of_blocks(platform, blocks):
    x, kernel = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((7, 7, 3, 8), jnp.float32)
    exported = export.export(jax.jit(lambda x, kernel: convolution.conv(x, kernel, 2)), platforms=[platform])
    assert ("tensor<4x4x12x8xf32>" in exported(x, kernel).mlir_module()) == blocks
