"""The pyramid that fits a backbone: an FPN over maps of several strides, a simple one over maps of a single stride."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from mapjax.errors import UserError
from mapjax.models.compose import by_stride
from mapjax.models.necks.fpn import FPN
from mapjax.models.necks.simple_pyramid import SimplePyramid

STRIDES = (4, 8, 16, 32)
TOPS = ("pool", "pyramid", "backbone")  # what the maps on top are made of


class Pyramid(NamedTuple):
    """A neck `(maps of the backbone, train) -> maps, finest first, of which the last one or two are on top`.

    reads: names of the backbone's maps.
    names, strides: of the maps it gives; "p2" has stride 2².
    """

    neck: nn.Module
    reads: tuple[str, ...]
    names: tuple[str, ...]
    strides: tuple[int, ...]


def over(
    node: Mapping[str, Any],
    levels: Mapping[str, int],
    wanted: Sequence[str | int] | None,
    *,
    channels: int,
    norm: str,
    dtype: Any,
    finest: int = 4,
    top: str = "pool",
) -> Pyramid:
    """Choose the pyramid over a backbone.

    Args:
      node: the backbone's, for messages.
      levels: its maps' strides.
      wanted: the maps to build on, by name or by stride; None: those of `STRIDES`, as far as there are such.
      channels, norm, dtype: of the neck.
      finest: the first stride of these.
      top: "pool" is one map more; "pyramid" and "backbone" are two more, convolved from its last map or the backbone's.

    Raises:
      UserError: it has no such maps, or they do not follow each other.
    """
    last, known_strides = by_stride(levels), [stride for stride in STRIDES if stride >= finest]
    backbone = f"the backbone {node['name']!r}"
    if not levels or (wanted is None and not set(known_strides) & set(last) and len(last) > 1):
        raise UserError(f"{backbone} has no maps of stride {', '.join(map(str, known_strides))} to build a pyramid on.")
    if len(last) == 1 and not any(isinstance(one, str) for one in wanted or ()):
        (stride,) = last
        if top == "backbone":
            raise UserError(f"top='backbone' needs maps of several strides, and {backbone} has one; set top='pyramid'.")
        strides = tuple(int(one) for one in wanted or known_strides)
        _require_steps(strides, (stride,), f"levels={strides} over {backbone}, whose maps have stride {stride},")
        return _named(SimplePyramid(stride, strides, channels, dtype, top), (last[stride],), strides, top)
    names = [last[stride] for stride in known_strides if stride in last] if wanted is None else wanted
    reads = tuple(last.get(one, "") if isinstance(one, int) else one for one in names)
    known = ", ".join(f"{name} ({stride})" for name, stride in levels.items())
    strides = tuple(levels.get(name, 0) for name in reads)
    _require_steps(strides, (), f"levels={tuple(names)} must be maps of {backbone}, which has {known}, and they")
    return _named(FPN(channels, norm, dtype, top), reads, strides, top)


def _require_steps(strides: Sequence[int], more: Sequence[int], what: str) -> None:
    """Refuse strides that are no powers of 2, or of which one is neither that of the one before nor twice that."""
    follow = all(second in (first, 2 * first) for first, second in itertools.pairwise(strides))
    if not strides or not follow or any(stride < 1 or stride & (stride - 1) for stride in (*strides, *more)):
        raise UserError(f"{what} must go from fine to coarse by strides that are powers of 2 and leave none out.")


def _named(neck: nn.Module, reads: tuple[str, ...], strides: tuple[int, ...], top: str) -> Pyramid:
    """Name the maps by their strides; a second one of a stride has a "b" behind it."""
    strides = (*strides, *(factor * strides[-1] for factor in ((2,) if top == "pool" else (2, 4))))
    names = [f"p{round(math.log2(stride))}" for stride in strides]
    told_apart = [name + "bcdefg"[: names[:i].count(name)][-1:] for i, name in enumerate(names)]
    return Pyramid(neck, reads, tuple(told_apart), strides)
