"""Convolution and normalization, the two layers that all networks here are made of.

Names of modules follow torchvision's tree; leaves are `kernel`, `scale`, `bias` (parameters) and `mean`, `var`
(statistics). Parameters are float32; `dtype` is that of the arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.ops import convolution

Init = Callable[..., Any]
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torch's kaiming_uniform_(a=1)


class Conv(nn.Module):
    """k×k convolution of NHWC pictures, padded by k // 2 on each side as torch does."""

    features: int
    kernel: int = 3
    stride: int = 1
    bias: bool = False
    init: Init = kaiming_fan_out
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.init, shape, jnp.float32)
        y = convolution.conv(jnp.asarray(x, self.dtype), kernel.astype(self.dtype), self.stride)
        if self.bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y


class Dense(nn.Module):
    """Matrix product and bias."""

    features: int
    init: Init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's Linear
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class Norm(nn.Module):
    """Normalization over channels, by name.

    batch: statistics of the whole batch when `train`, running ones otherwise (momentum 0.1, unbiased running
      variance, as torch). frozen: running statistics always, and the affine part is a statistic too, so no
      optimizer touches it. group: groups of one picture (Wu & He 2018), no statistics. none: nothing.
    """

    kind: str = "batch"
    epsilon: float = 1e-5
    momentum: float = 0.1
    groups: int = 32
    scale_init: Init = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        if self.kind == "none":
            return x
        channels = (x.shape[-1],)
        if self.kind == "frozen":
            scale = self.variable("stats", "scale", jnp.ones, channels, jnp.float32).value
            bias = self.variable("stats", "bias", jnp.zeros, channels, jnp.float32).value
        else:
            scale = self.param("scale", self.scale_init, channels, jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if self.kind == "group":
            return _group_norm(x, scale, bias, math.gcd(self.groups, x.shape[-1]), self.epsilon).astype(self.dtype)
        mean = self.variable("stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("stats", "var", jnp.ones, channels, jnp.float32)
        now_mean, now_var = mean.value, var.value
        if self.kind == "batch" and train:
            now_mean, now_var = _moments(x)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = now_var * (count / max(count - 1, 1))
                mean.value += self.momentum * (jax.lax.stop_gradient(now_mean) - mean.value)
                var.value += self.momentum * (jax.lax.stop_gradient(unbiased) - var.value)
        factor = scale * jax.lax.rsqrt(now_var + self.epsilon)
        return (x * factor + (bias - now_mean * factor)).astype(self.dtype)


def _moments(x):
    """Mean and variance per channel, in float32 and in one pass over x."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0)


def _group_norm(x, scale, bias, groups: int, epsilon: float):
    grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), grouped.ndim - 1)
    mean = grouped.mean(axes, keepdims=True)
    var = jnp.maximum(jnp.square(grouped).mean(axes, keepdims=True) - jnp.square(mean), 0)
    return ((grouped - mean) * jax.lax.rsqrt(var + epsilon)).reshape(x.shape) * scale + bias


class ConvNorm(nn.Module):
    """Convolution "0", then normalization "1" (torchvision's Conv2dNormActivation, without the activation)."""

    features: int
    kernel: int = 3
    norm: str = "none"
    init: Init = kaiming_fan_out
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Conv(self.features, self.kernel, bias=self.norm == "none", init=self.init, dtype=self.dtype, name="0")(x)
        return Norm(self.norm, dtype=self.dtype, name="1")(x, train)
