"""The layers that all networks here are made of, and `model_of`, which makes a Model of a Linen module.

Names of modules follow torchvision's tree; leaves are `kernel`, `scale`, `bias` (parameters) and `mean`, `var`
(statistics), `map_kernel`, a dense kernel over a whole map, and `up_kernel`, of a transposed
convolution. Parameters are float32; `dtype` is the arithmetic's.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mapjax.errors import UserError
from mapjax.ops import convolution
from mapjax.sharding.mesh import Rules
from mapjax.task import Model

Init = Callable[..., Any]
Activation = Callable[[Any], Any]
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torch's kaiming_uniform_(a=1)
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's Linear and Conv2d


def model_of(
    module: nn.Module, *, levels: Mapping[str, int] = {}, heads: tuple[str, ...] = (), rules: Rules = ()
) -> Model:
    """Make a Model of a Linen module `(images, train) -> outputs by name`; its randomness is called "dropout".

    Args:
      levels, heads, rules: of the Model.
    """

    def init(key, images):
        return variables_of(module, key, images, False)

    return Model(jax.jit(init), partial(_apply, module), levels=levels, heads=heads, rules=rules)


def variables_of(module: nn.Module, key, *inputs):
    """Draw the variables of a module: {"params": …, "stats": …}."""
    variables = module.init(key, *inputs)
    return {"params": variables["params"], "stats": variables.get("stats", {})}


def run(module: nn.Module, method: str, variables, *inputs, train: bool = False, key=None):
    """Call a method `(*inputs, train)` of a module; gives its outputs, and the statistics after it."""
    rngs = {} if key is None else {"dropout": key}
    mutable = ["stats"] if train else []
    outputs, changed = module.apply(variables, *inputs, train, mutable=mutable, rngs=rngs, method=method)
    return outputs, changed.get("stats", {}) if train else variables["stats"]


def _apply(module: nn.Module, variables, images, *, train=False, key=None):
    return run(module, "__call__", variables, images, train=train, key=key)


def module_of(model: Model) -> nn.Module:
    """Give a Model as a Linen module `(images, train) -> outputs by name`, to stand inside another one.

    Of a Model of `model_of` that is its own module, so that parameters are drawn as if it had been there all along.
    """
    made_here = isinstance(model.apply, partial) and model.apply.func is _apply
    return model.apply.args[0] if made_here else Wrapped(model)


class Wrapped(nn.Module):
    """Any Model as a Linen module, with the same trees of parameters and statistics."""

    model: Model

    @nn.compact
    def __call__(self, images, train: bool = False):
        if self.is_initializing():
            variables = self.model.init(self.make_rng("params"), images)
            for kind, leaves in variables.items():
                for name, leaf in leaves.items():
                    self.put_variable(kind, name, leaf)
        variables = {kind: self.variables.get(kind, {}) for kind in ("params", "stats")}
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        outputs, stats = self.model.apply(variables, images, train=train, key=key)
        for name, leaf in stats.items() if train else ():
            self.put_variable("stats", name, leaf)
        return outputs


class Conv(nn.Module):
    """Convolution of NHWC images.

    kernel: k or (rows, columns).
    padding: zeros on each side, (rows, columns); None is torch's k // 2 (times the dilation), "SAME" TensorFlow's.
    groups: of channels; as many as channels is a depthwise convolution.
    """

    features: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    padding: int | tuple[int, int] | str | None = None
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    init: Init = kaiming_fan_out
    bias_init: Init = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        rows, columns = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        shape = (rows, columns, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.init, shape, jnp.float32)
        y = convolution.conv(
            jnp.asarray(x, self.dtype), kernel.astype(self.dtype), self.stride, padding=self.padding,
            groups=self.groups, dilation=self.dilation,
        )  # fmt: skip
        if self.bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


class Dense(nn.Module):
    """Matrix product and bias, over the last axis."""

    features: int
    bias: bool = True
    init: Init = torch_default
    bias_init: Init = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), jnp.float32)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


class MapDense(nn.Module):
    """A dense layer over a whole map (b h w c) → (b n); torch reads such a map channel by channel."""

    features: int
    init: Init = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        def init(key, shape, dtype):
            return self.init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

        kernel = self.param("map_kernel", init, (*x.shape[1:], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = x.astype(self.dtype).reshape(len(x), -1)
        return x @ kernel.astype(self.dtype).reshape(-1, self.features) + bias.astype(self.dtype)


class Norm(nn.Module):
    """Normalization over channels, by name.

    batch: statistics of the whole batch when `train`, running ones otherwise (momentum 0.1, unbiased running
      variance, as torch). frozen: running statistics always, and the affine part is a statistic too, so no
      optimizer touches it. group: groups of one image (Wu & He 2018), no statistics. none: nothing.
    scale, bias: whether there is a factor and an offset that are learned.
    """

    kind: str = "batch"
    epsilon: float = 1e-5
    momentum: float = 0.1
    groups: int = 32
    scale: bool = True
    bias: bool = True
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
            scale = self.param("scale", self.scale_init, channels, jnp.float32) if self.scale else 1.0
            bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32) if self.bias else 0.0
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
    """Convolution "0", normalization "1", activation (torchvision's Conv2dNormActivation)."""

    features: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    groups: int = 1
    norm: str = "batch"
    epsilon: float = 1e-5
    momentum: float = 0.1
    activation: Activation | None = None
    padding: int | tuple[int, int] | str | None = None
    dilation: int = 1
    init: Init = kaiming_fan_out
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        places = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        options = {"groups": self.groups, "bias": self.norm == "none", "init": self.init, "dtype": self.dtype}
        x = Conv(self.features, self.kernel, name="0", **places, **options)(x)
        x = Norm(self.norm, self.epsilon, self.momentum, dtype=self.dtype, name="1")(x, train)
        return x if self.activation is None else self.activation(x)


class LayerNorm(nn.Module):
    """Normalization of every position over its channels (Ba et al. 2016), in float32."""

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds (Hu et al. 2018): "fc1" and "fc2", 1×1 as torchvision has them."""

    hidden: int
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        options = {"kernel": 1, "bias": True, "dtype": self.dtype}
        y = self.activation(Conv(self.hidden, name="fc1", **options)(x.mean((1, 2), keepdims=True)))
        return x * self.gate(Conv(x.shape[-1], name="fc2", **options)(y))


class Dropout(nn.Module):
    """Zero a share of the values in training, and magnify the others (Srivastava et al. 2014)."""

    rate: float

    @nn.compact
    def __call__(self, x, train: bool):
        return _drop(self, x, x.shape, self.rate) if train and self.rate > 0 else x


class StochasticDepth(nn.Module):
    """Leave a residual branch out for a share of the images in training (Huang et al. 2016); `rate` may be traced."""

    rate: Any

    @nn.compact
    def __call__(self, x, train: bool):
        never = isinstance(self.rate, float) and self.rate == 0
        return _drop(self, x, (len(x),) + (1,) * (x.ndim - 1), self.rate) if train and not never else x


def _drop(module: nn.Module, x, shape: tuple[int, ...], rate: Any):
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def require_size(network: str, images, least: int) -> None:
    """Refuse images (b h w 3) of which a network's strides would leave nothing.

    Raises:
      UserError: a side is shorter than `least` pixels.
    """
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise UserError(
            f"{network} needs images of {least}×{least} pixels or more, not {height}×{width}: enlarge image_size."
        )


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of `divisor`, by at most a tenth down (the rule of the MobileNets)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def global_pool(x):
    """Mean over the map, in float32."""
    return x.astype(jnp.float32).mean((1, 2))


def adaptive_pool(x, size: int):
    """Average to size×size bins as torch's AdaptiveAvgPool2d divides them; a static matrix an axis."""
    for axis in (1, 2):
        length = x.shape[axis]
        if length != size:
            weights = jnp.asarray(_bins(length, size), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
    return x


def _bins(length: int, size: int) -> np.ndarray:
    weights = np.zeros((size, length), np.float32)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
