"""Bounds of the time of a step on a chip, from what it computes, moves and sends (Williams et al. 2009).

A bound is a time that the step cannot go below: the chip never computes faster than its peak, and its memory and links
never move more than their bandwidth. A real step takes longer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mapjax.plan.chips import Chip
from mapjax.plan.collectives import Collective
from mapjax.plan.cost import Work


class Bound(NamedTuple):
    """Seconds of a step on one chip; None where nothing is published of the chip.

    compute: all FLOPs at the peak.
    memory: all bytes at the memory's bandwidth.
    network: all collectives at the links' bandwidth.
    work: each instruction takes the longer of its compute and its memory, one after the other.
    step: the longer of work and network, as if all sending were hidden behind the work; the bound.
    estimate: the same, each instruction at least as long as the compiler's own estimate says, and nothing hidden: work
      and network one after the other. This is the figure by which meshes are ranked; it is no bound.
    """

    compute: float | None
    memory: float | None
    network: float | None
    work: float | None
    step: float | None
    estimate: float | None

    @property
    def binding(self) -> str:
        """What the bound comes from: "compute", "memory" or "network"; "" where there is none."""
        if self.step is None or self.compute is None or self.memory is None or self.network is None:
            return ""
        if self.network >= (self.work or 0):
            return "network"
        return "compute" if self.compute >= self.memory else "memory"


def bound(works: Sequence[Work], sent: Sequence[Collective], chip: Chip) -> Bound:
    """Give the bounds of a step.

    Args:
      works: its instructions, for one chip.
      sent: its collectives.
      chip: where it is to run.
    """
    if chip.flops is None or chip.bandwidth is None:
        return Bound(None, None, None, None, None, None)
    network = sum(traffic(one) for one in sent) / chip.link if chip.link else 0.0
    work = sum(seconds(one, chip) for one in works)
    estimate = sum(estimated(one, chip) for one in works) + network
    return Bound(
        sum(one.flops for one in works) / chip.flops,
        sum(one.bytes for one in works) / chip.bandwidth,
        network,
        work,
        max(work, network),
        estimate,
    )


def seconds(one: Work, chip: Chip) -> float:
    """Bound the seconds of one instruction's runs, on a chip with published figures."""
    return max(one.flops / (chip.flops or 1), one.bytes / (chip.bandwidth or 1))


def estimated(one: Work, chip: Chip) -> float:
    """Give the seconds of one instruction's runs by the compiler's estimate, but not less than their bound."""
    return max(seconds(one, chip), one.cycles / chip.clock if chip.clock else 0.0)


def traffic(one: Collective) -> float:
    """Count the bytes that a device must send for a collective, all its runs: the least that any algorithm can do.

    Of n devices: an all-reduce sends 2 (n-1)/n of the array, an all-gather and an all-to-all (n-1)/n of the result,
    a reduce-scatter (n-1) times its result, and a permute what it passes on (Chan et al. 2007).
    """
    n = one.size
    share = {
        "all-reduce": 2 * (n - 1) / n,
        "all-gather": (n - 1) / n,
        "all-to-all": (n - 1) / n,
        "reduce-scatter": n - 1,
        "collective-permute": 1,
    }[one.kind]
    return float(one.count * one.bytes * share)
