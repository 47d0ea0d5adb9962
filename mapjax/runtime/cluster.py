"""Where a process stands among others: said by flags, or found in what the launcher of a cluster left in os.environ."""

import argparse
import glob
import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

from mapjax.errors import UserError

WAIT_S = 300  # for all processes to come
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class Place(NamedTuple):
    """Where a process stands. None lets JAX find it out from the cluster's environment."""

    cluster: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local: int | None = None  # among the processes of this host: one GPU each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a program that may run as several processes."""
    group = parser.add_argument_group(
        "several processes", "found by itself under SLURM, Open MPI, Kubernetes and on TPU VMs; elsewhere by flags"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, the same for all")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are; 1 runs alone in a cluster too")
    group.add_argument("--process", type=int, metavar="I", help="the number of this one, from 0")
    group.add_argument("--wait", type=float, metavar="SECONDS", default=WAIT_S, help=f"for all to come ({WAIT_S})")


def find_place(
    environ: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    tpu: bool = False,
) -> Place | None:
    """Say where this process stands, from its flags and else from what a cluster's launcher puts into the environment.

    Args:
      environ: os.environ; flags, the next three, go before it.
      coordinator: "host:port".
      processes: their number.
      process: of this one.
      tpu: whether the machine has TPU chips.

    Returns:
      None where the program runs alone.

    Raises:
      UserError: flags that do not fit together, or a cluster that does not say enough.
    """
    if processes == 1 and coordinator is None:
        return None
    counts, numbers = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE"), ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK")
    if "SLURM_STEP_NODELIST" in environ:  # a step that srun started, not the batch script
        counts, numbers = (*counts, "SLURM_NTASKS"), (*numbers, "SLURM_PROCID")
    address = coordinator or environ.get("JAX_COORDINATOR_ADDRESS")
    count = processes if processes is not None else _first_number(environ, counts)
    number = process if process is not None else _first_number(environ, (*numbers, "JOB_COMPLETION_INDEX"))
    if coordinator or processes is not None or process is not None or (address and count is not None):
        local = _first_number(environ, ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")) if process is None else None
        return _by_address(address, count, number)._replace(local=local)
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environ:  # Open MPI 5 has no such variable
            raise UserError("this Open MPI does not say where process 0 runs; add --coordinator HOST:PORT.")
        return Place("Open MPI")
    if all(name in environ for name in _SLURM) and int(environ["SLURM_NTASKS"]) > 1:
        return Place("SLURM")
    if tpu and environ.get("JAX_PLATFORMS", "tpu").split(",")[0] == "tpu":
        return Place("TPU")
    pod = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
    if pod and importlib.util.find_spec("kubernetes") is not None:  # with it JAX asks the cluster
        return Place("Kubernetes")
    return None


def _by_address(address: str | None, count: int | None, number: int | None) -> Place:
    parts = {"--coordinator": address, "--processes": count, "--process": number}
    lacking = [flag for flag, value in parts.items() if value is None]
    if lacking or address is None or count is None or number is None:
        raise UserError(
            f"{' and '.join(lacking)} must be given too: --coordinator HOST:PORT --processes N --process I."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {address} must be HOST:PORT, such as 10.0.0.1:8476.")
    if not 0 <= number < count:
        raise UserError(f"--process {number} must be from 0 to {count - 1}, for --processes {count}.")
    return Place("flags", address, count, number)


def _first_number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((int(environ[key]) for key in names if environ.get(key, "").isdigit()), None)


def has_tpu() -> bool:
    """Say whether this machine has TPU chips, and the library that drives them."""
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
