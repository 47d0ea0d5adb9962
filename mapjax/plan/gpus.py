"""GPUs that are not here: what XLA's compiler must know of them to compile for a node of them."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

from mapjax.errors import UserError
from mapjax.plan.chips import Chip

_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


class _Device(NamedTuple):
    """What the maker publishes of a GPU's inside.

    name: as its driver says.
    capability: of CUDA.
    cores: streaming multiprocessors; `units` of them each do a float32 operation a cycle.
    shared: bytes of shared memory of a core, of which a block can have all but 1 KiB.
    cache: bytes of the second-level cache.
    clock: GHz.
    """

    name: str
    capability: int
    cores: int
    units: int
    shared: int
    cache: int
    clock: float


# NVIDIA's white papers of the A100 and the H100, and the tables of compute capabilities 8.0 and 9.0 in CUDA's guide.
_DEVICES = {
    "h100": _Device("NVIDIA H100 80GB HBM3", 9, 132, 128, 228 * 2**10, 50 * 2**20, 1.98),
    "h200": _Device("NVIDIA H200", 9, 132, 128, 228 * 2**10, 50 * 2**20, 1.98),
    "a100": _Device("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164 * 2**10, 40 * 2**20, 1.41),
}


def require_compiler(topology: str) -> None:
    """Make sure that XLA's compiler for GPUs is installed.

    Raises:
      UserError: it is not.
    """
    if _plugin() is None:
        raise UserError(
            f"--topology {topology} needs XLA's compiler for GPUs, which is not installed; install it with "
            "pip install -e '.[cuda12]' (no GPU is needed)."
        )


def devices(chip: Chip, count: int) -> Sequence[Any]:
    """Describe the GPUs of one node; a step can be compiled for them, not run.

    Raises:
      UserError: the compiler refuses the description.
    """
    import jax
    from jax.experimental import topologies

    jax.devices()  # the plugins register themselves as JAX starts
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=describe(chip), topology=f"1x1x{count}"
        )  # slices × hosts × GPUs
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology {chip.name}:{count}: XLA's compiler for GPUs refuses it: {reason}") from error
    return found.devices


def describe(chip: Chip) -> str:
    """Write the text of XLA's GpuTargetConfigProto for a chip."""
    one = _DEVICES[chip.name]
    limits = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": one.shared - 2**10,
        "shared_memory_per_core": one.shared,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "core_count": one.cores,
        "fpus_per_core": one.units,
        "clock_rate_ghz": one.clock,
        "l2_cache_size": one.cache,
        "memory_bandwidth": int(chip.bandwidth or 0),
        "device_memory_size": chip.hbm,
    }
    fields = "\n".join(f"{name}: {value}" for name, value in limits.items())
    return (
        f"gpu_device_info {{\n{fields}\ncuda_compute_capability {{ major: {one.capability} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 10 }}\ndevice_description_str: "{one.name}"\n'
    )


def _plugin() -> str | None:
    for name in _PLUGINS:
        try:
            if importlib.util.find_spec(name) is not None:
                return name
        except ModuleNotFoundError:  # no plugin at all
            continue
    return None
