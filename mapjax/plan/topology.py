"""The devices that a step is planned for: a TPU slice or a node of GPUs that is not here, or the local ones."""

import contextlib
import importlib.util
import os
import pathlib
import socket
from typing import Any, NamedTuple

from mapjax.errors import UserError
from mapjax.plan import chips, gpus
from mapjax.runtime import distributed

# What libtpu would else ask the cloud's servers for, or complain about; any values do where nothing is run.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so that several may plan at once
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


class Place(NamedTuple):
    """Where a step is to run: its devices, their kind, and a name for people; `local` ones could run it."""

    name: str
    devices: list[Any]
    chip: chips.Chip
    local: bool


def prepare(topology: str | None) -> None:
    """Set the environment for a topology; must come before jax starts its backends.

    Raises:
      UserError: an unknown topology, or its compiler is missing.
    """
    if topology is None:
        return
    chip, _ = chips.require_topology(topology)
    os.environ["JAX_PLATFORMS"] = "cpu"  # what runs beside the compiling, runs here
    if chip.is_gpu:
        return gpus.require_compiler(topology)
    library = os.environ.get("TPU_LIBRARY_PATH") or _library()
    if library is None or not pathlib.Path(library).is_file():
        where = f"there is no file {library} (TPU_LIBRARY_PATH)" if library else "libtpu is not installed"
        raise UserError(
            f"--topology {topology} needs the TPU compiler, and {where}; install it with pip install -e '.[tpu]' "
            "(no TPU is needed)."
        )
    os.environ["TPU_LIBRARY_PATH"] = str(library)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def open_place(topology: str | None) -> Place:
    """Give the devices of a topology, or the local ones where none is named.

    Raises:
      UserError: the compiler does not know the topology.
    """
    import jax

    if topology is None:
        devices = jax.devices()
        chip = chips.of_kind(devices[0].device_kind)
        chip = _measured(chip, jax.local_devices()[0], processes_here())
        return Place(f"{len(devices)} local {devices[0].device_kind}", list(devices), chip, True)
    from jax.experimental import topologies

    jax.config.update("jax_enable_compilation_cache", False)  # such programs can be written to it, but not read back
    chip, sides = chips.require_topology(topology)
    if chip.is_gpu:
        return Place(topology, list(gpus.devices(chip, sides[0])), chip, False)
    options: dict[str, Any] = {}
    if set(sides) == {1}:
        options["chips_per_host_bounds"] = [1, 1, 1]
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on the real ones
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology {topology}: the TPU compiler refuses it: {reason}") from error
    return Place(topology, list(found.devices), chip, False)


def _library() -> str | None:
    spec = importlib.util.find_spec("libtpu")
    return str(pathlib.Path(spec.origin).with_name("libtpu.so")) if spec is not None and spec.origin else None


def _memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less in a container."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found = min(found, int(pathlib.Path(path).read_text(encoding="ascii")))
    return found


def processes_here() -> int:
    """Count the processes of this program that run on this machine; all call it, once."""
    here = socket.gethostname()
    return distributed.exchange("host", here).count(here)


def _measured(chip: chips.Chip, device: Any, processes: int) -> chips.Chip:
    """Take the memory that the device says it can give, where it says so; of a CPU its share of the machine's.

    processes: of this machine, each with as many devices.
    """
    if device.platform == "cpu":
        return chip._replace(hbm=_memory() // (processes * len(device.client.local_devices())))
    with contextlib.suppress(Exception):  # not every backend keeps such counts
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return chip._replace(hbm=int(limit)) if limit else chip
    return chip
