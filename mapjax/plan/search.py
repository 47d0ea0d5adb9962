"""The largest batch that fits, and the meshes of a number of devices, by compiling few steps."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mapjax.errors import UserError

ENOUGH = 16  # the search ends when the largest batch is known to a sixteenth of itself
MOST = 10  # compiles, once one batch has fitted


class Tried(NamedTuple):
    """What a batch needs: bytes of memory (0: the compiler does not say), and whether they are there."""

    needed: int
    fits: bool


def largest_batch(attempt: Callable[[int], Tried], unit: int, start: int, limit: int) -> int:
    """Find the largest batch that fits, to a `ENOUGH`th of itself.

    The batch grows until it does not fit, or is halved until it does; then what lies between is narrowed down. Memory
    grows by nearly as much for each image, so what is tried next is where a line through two tries meets the limit.

    Args:
      attempt: batch → what it needs.
      unit: the batch must be a multiple of it.
      start: what to try first, rounded up to a multiple.
      limit: bytes that there are.

    Raises:
      UserError: not even one unit fits.
    """
    tried: dict[int, Tried] = {}

    def fits(units: int) -> bool:
        tried[units] = attempt(units * unit)
        return tried[units].fits

    low, high = 0, -(-start // unit)
    while len(tried) < MOST and fits(high):
        low, high = high, _more(tried, low, high, limit)
    while high > 1 and low == 0:
        less = _less(tried[high], high, limit)
        low, high = (less, high) if fits(less) else (0, less)
    while low and len(tried) < MOST and high - low > max(1, low // ENOUGH):
        middle = _between(tried, low, high, limit)
        low, high = (middle, high) if fits(middle) else (low, middle)
    if not low:
        raise UserError(
            f"no batch fits: one of {unit} does not; shard the parameters (--mesh fsdp=…), rematerialise "
            "(remat=True of the network) or take larger chips."
        )
    return low * unit


def _more(tried: dict[int, Tried], before: int, units: int, limit: int) -> int:
    """Twice as many; after two tries where memory should reach the limit, from a sixteenth more to 8 times as many."""
    slope = (tried[units].needed - tried[before].needed) / (units - before) if before else 0.0
    if slope <= 0:
        return 2 * units
    guess = units + int((limit - tried[units].needed) / slope)
    return min(max(guess, units + max(1, units // ENOUGH)), 8 * units)


def _less(found: Tried, units: int, limit: int) -> int:
    """At most half; less where all of the memory grows with the batch and that would not do."""
    half = units // 2
    return max(1, min(half, units * limit // found.needed)) if found.needed else half


def _between(tried: dict[int, Tried], low: int, high: int, limit: int) -> int:
    """Where memory should reach the limit, on the line through both ends; the middle where that is not known."""
    below, above = tried[low].needed, tried[high].needed if high in tried else 0
    if above <= below or not limit:
        return (low + high) // 2
    guess = low + int((high - low) * (limit - below) / (above - below))
    return min(max(guess, low + 1), high - 1)


def meshes(devices: int, *, stacked: bool = False) -> Iterator[dict[str, int]]:
    """List the meshes worth comparing: channels or heads over up to 8 chips, parameters copied, sharded, or both.

    Not each of them can be: the batch, or the blocks, may not divide.

    Args:
      devices: how many there are.
      stacked: the network is a stack of blocks, so that it can be cut over `pipe` as well; a pipeline splits the
        parameters by itself, so none is tried together with `fsdp`.
    """
    for pipe in (1, 2, 4, 8) if stacked else (1,):
        for model in (1, 2, 4, 8):
            if devices % (pipe * model):
                continue
            rest = devices // (pipe * model)
            for fsdp in sorted({1, 8, rest}) if pipe == 1 else (1,):
                if rest % fsdp == 0:
                    yield {"data": rest // fsdp, "fsdp": fsdp, "model": model, "pipe": pipe}
