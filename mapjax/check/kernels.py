"""The kernels that have a form per platform, or that a compiler may get wrong: each with inputs to try it on."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from mapjax.ops import boxes as box_ops
from mapjax.ops import (
    convolution,
    deformable,
    hungarian,
    label_maps,
    losses,
    matching,
    mean_field,
    mix,
    nms,
    pooling,
    resize,
    roi_align,
)

Arrays = Sequence[np.ndarray]


class Kernel(NamedTuple):
    """One kernel.

    function: (floats…) → array or arrays; it is differentiable by all of `floats` where `exact` is False.
    floats: (rng, large) → its arrays, float64 with values that bfloat16 holds; `large` as a network has them.
    exact: it gives whole numbers or choices, which must be equal in float32.
    reference: what it must equal; None is `function` itself in float64 on the CPU.
    wide: the places of arrays that stay float32 beside bfloat16 (boxes), None where the kernel takes float32 only.
    draws: its random numbers depend on the precision, so that the truth is of float32.
    """

    function: Callable[..., Any]
    floats: Callable[[Generator, bool], Arrays]
    exact: bool = False
    reference: Callable[..., Any] | None = None
    wide: tuple[int, ...] | None = ()
    draws: bool = False


def _normal(*shapes: tuple[int, ...], large: Sequence[tuple[int, ...]]) -> Callable[[Generator, bool], Arrays]:
    """Draw arrays of some shapes, or of others where they are to be large."""
    return lambda rng, is_large: [_held(rng.normal(size=one)) for one in (large if is_large else shapes)]


def _held(values: np.ndarray) -> np.ndarray:
    """Round to what bfloat16 holds, so that all precisions are given the same."""
    return np.asarray(jnp.asarray(values, jnp.bfloat16).astype(jnp.float32), np.float64)


def _direct(x: Any, kernel: Any, *, stride: int = 1, groups: int = 1, dilation: int = 1) -> Any:
    pads = [(dilation * (side // 2), dilation * (side // 2)) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _conv(side: int, channels: int, out: int, **options: Any) -> Kernel:
    kernel = (side, side, channels // options.get("groups", 1), out)
    padding = {"padding": options.get("dilation", 1) * (side // 2)}
    shapes = _normal((2, 14, 18, channels), kernel, large=[(8, 56, 56, channels), kernel])
    return Kernel(partial(convolution.conv, **options, **padding), shapes, reference=partial(_direct, **options))


def _boxes(rng: Generator, count: int, side: int) -> np.ndarray:
    """Draw boxes on quarters of a pixel, so that every precision gives the same overlaps."""
    low = rng.integers(0, int(3 * side), (count, 2)) / 4
    return np.concatenate([low, low + rng.integers(8, int(side), (count, 2)) / 4], 1).astype(np.float64)


def _roi_inputs(rng: Generator, large: bool) -> Arrays:
    side, channels, count = (256, 256, 512) if large else (32, 8, 12)
    maps = [_held(rng.normal(size=(2, side >> k, side >> k, channels))) for k in range(3)]
    return [*maps, np.stack([_boxes(rng, count, 4 * side) for _ in range(2)])]


def _roi(*inputs: Any) -> Any:
    *maps, boxes = inputs
    return roi_align.roi_align_batch(maps, (4, 8, 16), jax.lax.stop_gradient(boxes.astype(jnp.float32)))


def _suppress(boxes: Any, scores: Any) -> Any:
    places, valid = nms.nms(boxes, scores, 0.5, min(len(boxes), 100))
    return jnp.where(valid, places, -1)


def _suppress_inputs(rng: Generator, large: bool) -> Arrays:
    count = 2000 if large else 60
    return [_boxes(rng, count, 64), rng.permutation(count) / 4096]


def _match(boxes: Any, anchors: Any) -> Any:
    iou = box_ops.pairwise_iou(boxes, anchors)
    return matching.match(iou, jnp.ones(len(boxes), bool), high=0.7, low=0.3, low_quality=True)


def _match_inputs(rng: Generator, large: bool) -> Arrays:
    return [_boxes(rng, 20, 64), _boxes(rng, 20_000 if large else 300, 64)]


def _deformable_inputs(rng: Generator, large: bool) -> Arrays:
    """Places on halves of a pixel's quarter, none on a kink of the weights."""
    sides, queries, heads, depth = ((80, 40, 20), 300, 8, 32) if large else ((16, 8, 4), 12, 2, 8)
    maps = [_held(rng.normal(size=(2, side, side, heads, depth))) for side in sides]
    shape = (2, queries, heads, len(sides), 4)
    cells = np.array(sides)[:, None, None]
    places = (rng.integers(0, cells, (*shape, 2)) + rng.integers(0, 4, (*shape, 2)) / 4 + 0.125) / cells
    return [*maps, places, _held(rng.uniform(size=shape))]


def _sample(form: str, *inputs: Any) -> Any:
    *maps, places, weights = inputs
    return deformable.sample(maps, jax.lax.stop_gradient(places), weights, form)


def _assign(cost: Any) -> Any:
    return jax.vmap(lambda one: hungarian.assign(one, jnp.arange(len(one)) % 3 < 2))(cost)


def _assign_inputs(rng: Generator, large: bool) -> Arrays:
    """Whole numbers, of which no two sums differ by rounding."""
    rows, columns = (100, 300) if large else (12, 20)
    return [rng.permutation(2 * rows * columns).reshape(2, rows, columns).astype(np.float64)]


def _mean_field(logits: Any, image: Any) -> Any:
    classes = logits.shape[-1]
    loud = jnp.ones(classes, logits.dtype)
    energy = mean_field.Energy(loud, loud, 1 - jnp.eye(classes, dtype=logits.dtype))
    return mean_field.infer(logits, image, energy, mean_field.Kernels(), iterations=3)


def _confusion(maps: Any, others: Any) -> Any:
    return label_maps.confusion(maps.astype(jnp.uint8), others.astype(jnp.uint8), 5)


def _contours(maps: Any, others: Any) -> Any:
    return label_maps.contours(maps.astype(jnp.uint8), others.astype(jnp.uint8), 5, 2.0)


def _map_inputs(rng: Generator, large: bool) -> Arrays:
    side = 30 if large else 4
    small = rng.integers(0, 5, (2, 2, side, side)).astype(np.float64)
    return list(small.repeat(8, 2).repeat(8, 3))


def _map_back(maps: Any, matrix: Any) -> Any:
    return label_maps.map_back(maps, jax.lax.stop_gradient(matrix), (64, 64), (50, 70))


def _map_back_inputs(rng: Generator, large: bool) -> Arrays:
    side = 64 if large else 16
    matrix = np.tile(np.diag([0.875, 1.25, 1.0]), (2, 1, 1))
    return [_held(rng.normal(size=(2, side, side, 6))), matrix]


def _blend(images: Any, targets: Any) -> Any:
    """MixUp and CutMix by drawn shares: in float32, for other precisions draw other numbers."""
    pairs = [
        mix.mix(jax.random.key(k), images, targets, **how) for k, how in enumerate(({"mixup": 0.5}, {"cutmix": 1.0}))
    ]
    return [part.astype(images.dtype) for pair in pairs for part in pair]


def _cross_entropy(logits: Any) -> Any:
    return losses.cross_entropy(logits, jnp.arange(len(logits)) % logits.shape[-1])


KERNELS: dict[str, Kernel] = {
    "convolution 1×1": _conv(1, 64, 96),
    "convolution 3×3": _conv(3, 32, 48),
    "convolution 3×3, stride 2": _conv(3, 32, 48, stride=2),
    "convolution 3×3, dilated": _conv(3, 16, 24, dilation=2),
    "convolution 7×7, stride 2": _conv(7, 3, 64, stride=2),
    "convolution 3×3, 4 groups": _conv(3, 32, 48, groups=4),
    "depthwise 3×3": _conv(3, 32, 32, groups=32),
    "depthwise 5×5, stride 2": _conv(5, 32, 32, groups=32, stride=2),
    "max pool 3×3": Kernel(convolution.max_pool, _normal((2, 14, 18, 8), large=[(8, 112, 112, 64)])),
    "max pool 2×2": Kernel(lambda x: pooling.max_pool(x)[0], _normal((2, 14, 18, 8), large=[(8, 112, 112, 64)])),
    "resize by 2": Kernel(lambda x: resize.bilinear(x, (28, 36)), _normal((2, 14, 18, 8), large=[(8, 14, 18, 256)])),
    "resize to any size": Kernel(
        lambda x: resize.bilinear(x, (33, 25)), _normal((2, 14, 18, 8), large=[(8, 14, 18, 256)])
    ),
    "RoIAlign": Kernel(_roi, _roi_inputs, wide=(3,)),
    "suppression": Kernel(_suppress, _suppress_inputs, exact=True),
    "matching": Kernel(_match, _match_inputs, exact=True),
    "assignment": Kernel(_assign, _assign_inputs, exact=True),
    "deformable sampling": Kernel(partial(_sample, "gather"), _deformable_inputs, wide=(3, 4)),
    "deformable sampling, dense": Kernel(
        partial(_sample, "dense"), _deformable_inputs, reference=partial(_sample, "gather"), wide=(3, 4)
    ),
    "mean field": Kernel(
        _mean_field,
        _normal((1, 24, 32, 3), (1, 24, 32, 3), large=[(2, 120, 160, 11), (2, 120, 160, 3)]),
        wide=None,
    ),
    "confusion of label maps": Kernel(_confusion, _map_inputs, exact=True),
    "contours of label maps": Kernel(_contours, _map_inputs, exact=True),
    "maps back to pixels": Kernel(_map_back, _map_back_inputs, wide=(1,)),
    "cross-entropy": Kernel(_cross_entropy, _normal((64, 20), large=[(256, 1000)])),
    "MixUp and CutMix": Kernel(_blend, _normal((4, 8, 8, 3), (4, 5), large=[(64, 64, 64, 3), (64, 10)]), draws=True),
}
