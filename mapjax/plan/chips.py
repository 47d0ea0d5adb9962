"""What the makers publish of the chips that a step is planned for, and the slices that can be had of them.

Peaks are of dense bfloat16 products on one chip. Interconnect is what one chip can send while it receives as much:
half of the "bidirectional" figure that is published.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mapjax.errors import UserError, near

GB, GIB = 10**9, 2**30


class Chip(NamedTuple):
    """One kind of chip.

    flops: peak of bfloat16 products per second.
    hbm: bytes of its memory.
    bandwidth: bytes per second between it and the chip.
    link: bytes per second that it sends to its neighbours, over all links. None: nothing is published.
    clock: cycles per second of its matrix units, for the compiler's estimates in cycles.
    kinds: what jax calls such a device (`device_kind`).
    layouts: the slices that are offered, chips along each side of the torus; of GPUs how many of a node.
    cubes: other sides that are multiples of four can be had too.
    """

    name: str
    flops: float | None
    hbm: int | None
    bandwidth: float | None
    link: float | None
    clock: float | None = None
    kinds: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    cubes: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether it is one of NVIDIA's."""
        return any(kind.startswith("NVIDIA") for kind in self.kinds)


_NODE = ("1", "2", "4", "8")
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip

CHIPS = {
    chip.name: chip
    for chip in (
        # docs.cloud.google.com/tpu/docs/v4: 275 TFLOPs, 32 GiB, 1228 GB/s, interconnect 2400 Gbit/s.
        Chip("v4", 275e12, 32 * GIB, 1228e9, 300e9, 1.05e9, ("TPU v4",), _SOLID, True),
        # docs.cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GB/s, interconnect 400 GB/s in both directions.
        Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 1.5e9, ("TPU v5 lite", "TPU v5e"), _FLAT),
        # docs.cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GB, 2765 GB/s, interconnect 1200 GB/s in both directions.
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9, 1.75e9, ("TPU v5", "TPU v5p"), _SOLID, True),
        # docs.cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1640 GB/s, interconnect 800 GB/s in both directions.
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 400e9, 1.75e9, ("TPU v6 lite", "TPU v6e"), _FLAT),
        # nvidia.com, H100 SXM data sheet: 989 TFLOPs dense bfloat16, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways.
        Chip("h100", 989e12, 80 * GB, 3350e9, 450e9, None, ("NVIDIA H100",), _NODE),
        # nvidia.com, H200 data sheet: 989 TFLOPs dense bfloat16 (SXM), 141 GB, 4.8 TB/s, NVLink 900 GB/s both ways.
        Chip("h200", 989e12, 141 * GB, 4800e9, 450e9, None, ("NVIDIA H200",), _NODE),
        # nvidia.com, A100 data sheet (80 GB, SXM): 312 TFLOPs dense bfloat16, 2039 GB/s, NVLink 600 GB/s both ways.
        Chip("a100", 312e12, 80 * GB, 2039e9, 300e9, None, ("NVIDIA A100",), _NODE),
        Chip("cpu", None, None, None, None, None, ("cpu",)),
    )
}


def of_kind(kind: str) -> Chip:
    """Find the chip by what jax calls the device; one that is not in the table has no published figures."""
    for chip in CHIPS.values():
        # NVIDIA's names go on with the memory: "NVIDIA H100 80GB HBM3".
        if kind in chip.kinds or (chip.is_gpu and kind.startswith(chip.kinds)):
            return chip
    return Chip(kind, None, None, None, None)


def require_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Take "v5e:16x16" apart: the chip, and the chips along each side; "h100:8" is a node of 8.

    Raises:
      UserError: no such chip, or a slice that is not offered; the known ones are listed.
    """
    kind, _, layout = name.partition(":")
    sold = [chip for chip in CHIPS.values() if chip.layouts]
    chip = CHIPS.get(kind)
    if chip is None or not chip.layouts:
        raise UserError(
            f"--topology {name}: there is no chip {kind!r}; write CHIP:LAYOUT, as in v5e:2x4 or h100:8. The chips are "
            f"{', '.join(chip.name for chip in sold)}."
        )
    sides = layout.split("x")
    numbers = tuple(int(side) for side in sides) if all(side.isdigit() for side in sides) else ()
    if layout in chip.layouts or (chip.cubes and _is_cubes(numbers)):
        return chip, numbers
    more = " and others whose three sides are multiples of 4" if chip.cubes else ""
    what = "node of" if chip.is_gpu else "slice"
    raise UserError(
        f"--topology {name}: a {kind} has no {what} {layout!r}.{_near(layout, chip.layouts)} They are "
        f"{', '.join(chip.layouts)}{more}."
    )


def _is_cubes(sides: Sequence[int]) -> bool:
    return len(sides) == 3 and all(side and side % 4 == 0 for side in sides)


def _near(layout: str, known: Sequence[str]) -> str:
    found = near(layout, known)
    return found if found.startswith(" Did") else ""
