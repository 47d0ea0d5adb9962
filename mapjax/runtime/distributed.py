"""Several processes as one program: finding each other, starting alike, and stopping together.

JAX does the work: its coordination service joins the processes, keeps a small table of keys, counts heartbeats and
spreads the notice that one of them is asked to leave. Here it is decided when to call it, what all must have in
common, and what a person reads when one of them is missing, differs or dies. A program that runs alone pays nothing:
JAX is not even imported.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from mapjax.errors import UserError
from mapjax.runtime.cluster import Place, find_place, has_tpu
from mapjax.runtime.names import ESCAPED, shown

HEARTBEAT_S = 30  # without a heartbeat a process is dead
LOST = 75  # exit code when another process has died (EX_TEMPFAIL of sysexits.h): start again
ASKED = (129, 143)  # exit codes of a process that SIGHUP or SIGTERM ended: starting again is no mistake either
_POLL_S = 2.0  # between two looks at the others
_DAY_S = 24 * 3600.0  # for what takes its time: reading a large data set, writing the report
_GRACE_S = 1.0  # in which a process tells its own mistake rather than another's
_LINGER_S = 2 * _POLL_S + _GRACE_S  # until the others have heard
_GONE_S = 30.0  # until the others, whose work is done, have left
_FAILED = "mapjax/failed/"
_BROKEN = ("Gloo", "NCCL", "closed by peer", "reset by peer", "oordination service", "Socket closed", "heartbeat")


@dataclasses.dataclass
class _Here:
    """This process: its number, of how many, whether joining has begun, and the client of JAX's service once joined.

    joining: set when the joining is over; None where it is not waited for.
    """

    process: int = 0
    processes: int = 1
    begun: bool = False
    client: Any = None
    joining: threading.Event | None = None
    turns: Counter[str] = dataclasses.field(default_factory=Counter)  # how often a key was exchanged
    failing: threading.Event = dataclasses.field(default_factory=threading.Event)  # it tells its own mistake
    over: threading.Event = dataclasses.field(default_factory=threading.Event)  # all are done


_here = _Here()


def start(arguments: argparse.Namespace, *, preemption: bool) -> None:
    """Join the other processes, where there are others; call it before anything else touches JAX's devices.

    Args:
      arguments: with the flags of `cluster.add_arguments`.
      preemption: SIGTERM to any process is to become a common last step (`stop.Stop`); it no longer ends a process.

    Raises:
      UserError: the coordinator cannot be reached, or not all processes come in time.
    """
    place = find_place(
        os.environ, coordinator=arguments.coordinator, processes=arguments.processes, process=arguments.process,
        tpu=has_tpu(),
    )  # fmt: skip
    if place is None:
        return
    import jax
    from jax._src.distributed import global_state  # its client (the table of keys, who lives) has no public name

    # Else JAX aborts every process, with a stack trace, in the moment it finds that one of them is dead.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", preemption)
    _here.begun, _here.process = True, place.process or 0
    failed = _join(place, arguments.wait)
    if failed and place.cluster == "TPU" and isinstance(failed, ValueError):  # chips, but no slice around them
        _here.begun = False
        return
    if failed:
        reason = (str(failed) or type(failed).__name__).splitlines()[0]
        raise UserError(f"{place.cluster}: the processes could not join ({reason}); try other flags.") from failed
    _begin_to_watch(str(global_state.coordinator_address))


def _join(place: Place, seconds: float) -> BaseException | None:
    """Let JAX join the processes, in a thread that can be left when it takes too long; give what it raised."""
    import jax
    from jax._src.distributed import global_state

    failed: list[BaseException] = []
    ended = threading.Event()  # a thread itself counts as ended once a signal has interrupted its join()

    def join() -> None:
        try:
            jax.distributed.initialize(
                place.coordinator, place.processes, place.process, place.local,
                cluster_detection_method="deactivate" if place.coordinator else None,
                initialization_timeout=int(seconds) + 60,  # it aborts then; we leave before
                heartbeat_timeout_seconds=HEARTBEAT_S,
            )  # fmt: skip
            # Here and not where this thread is waited for, which a signal may end.
            _here.process, _here.processes = global_state.process_id, int(global_state.num_processes)
            _here.client = global_state.client
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    _here.joining = ended
    threading.Thread(target=join, name="mapjax-join", daemon=True).start()
    ended.wait(seconds)
    _here.joining = None
    if not ended.is_set():
        raise UserError(_missing(global_state.coordinator_address, place, seconds))
    return failed[0] if failed else None


def is_chief() -> bool:
    """Say whether this process is the one that prints and writes."""
    return _here.process == 0


def begun() -> bool:
    """Say whether this process has others, or has tried to join them."""
    return _here.begun


def joined() -> bool:
    """Say whether JAX's service holds this process, with others or alone on a TPU host; JAX may catch SIGTERM then."""
    return _here.client is not None


def name() -> str:
    """Name this process before what it says: "process 3: "; empty where it is alone."""
    return f"process {_here.process}: " if _here.begun else ""


def share(key: str, value: str) -> str:
    """Give process 0's `value` to all; every process calls it, equally often for a key."""
    return exchange(key, value)[0]


def exchange(key: str, value: str, *, seconds: float = _DAY_S) -> list[str]:
    """Give the values of all processes, in their order; every process calls it, equally often for a key.

    Args:
      seconds: to wait for the others before it fails.
    """
    if _here.client is None:
        return [value]
    client: Any = _here.client
    place = f"mapjax/{key}/{_here.turns[key]}"
    _here.turns[key] += 1
    client.key_value_set(f"{place}/{_here.process}", value)
    client.wait_at_barrier(place, int(1000 * seconds))
    found = {int(path.rpartition("/")[2]): text for path, text in client.key_value_dir_get(f"{place}/")}
    return [found[number] for number in range(_here.processes)]


def require_same(key: str, facts: Mapping[str, Any]) -> None:
    """Refuse to go on where the processes differ in `facts`; every process calls it, equally often for a key.

    Raises:
      UserError: names a process, the first key in which it differs from process 0, and both values.
    """
    every = [json.loads(text) for text in exchange(key, json.dumps({k: str(v) for k, v in facts.items()}))]
    if message := difference(every):
        raise UserError(message)


def difference(every: list[dict[str, str]]) -> str:
    """Say in a sentence where the facts of a process differ from those of the first; "" where none does."""
    for number, theirs in enumerate(every[1:], 1):
        keys = [key for key in {**every[0], **theirs} if every[0].get(key) != theirs.get(key)]
        if keys:
            ours, other = (facts.get(keys[0], "missing") for facts in (every[0], theirs))
            more = f" (and {len(keys) - 1} more differ)" if len(keys) > 1 else ""
            return (
                f"process {number} differs from process 0 in {keys[0]}: {other}, not {ours}{more}; "
                "start all processes with the same command, code and data."
            )
    return ""


def require_seen(path: pathlib.Path, seconds: float = 30.0) -> None:
    """Wait until a file that process 0 has made is seen here; every process calls it.

    Raises:
      UserError: it is not: the folder is not shared.
    """
    share(f"made {path}", "")
    wait_to_see(path, seconds)


def wait_to_see(path: pathlib.Path, seconds: float = 30.0) -> None:
    """Wait until a file that process 0 sees is seen here too (network file systems take a moment).

    Raises:
      UserError: it is not: the folder is not shared.
    """
    limit = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > limit:
            raise UserError(
                f"--workdir {path.parent}: {path.name}, which process 0 has made, is not seen by process "
                f"{_here.process} on {socket.gethostname()}; name a folder on a file system that all hosts share."
            )
        time.sleep(0.2)


def wait_for_verdict(error: BaseException) -> None:
    """After an error that a dead process leaves in the others, wait until it is known which; then this does not return.

    An error that looks otherwise, or for which nobody has died, returns.
    """
    if _here.client is not None and any(word in str(error) for word in _BROKEN):
        time.sleep(HEARTBEAT_S + 4 * _POLL_S)


def fail(reason: str, code: int) -> NoReturn:
    """Tell the others why this process ends, so that they end too, and end it."""
    _here.failing.set()
    if _here.joining:  # a signal came while others may see this process already: they shall hear of it
        _here.joining.wait(_LINGER_S)
    if _here.client is not None:
        with contextlib.suppress(Exception):  # the service may be what is gone
            _here.client.key_value_set(f"{_FAILED}{_here.process}", f"{code} {shown(reason)}")
            time.sleep(_LINGER_S)
    _exit(code)


def leave(code: int) -> NoReturn:
    """End together: process 0, which holds the service, goes last."""
    if _here.client is not None:
        with contextlib.suppress(Exception):  # the work is done; whoever is late is watched by nobody any more
            _here.client.wait_at_barrier("mapjax/end", int(1000 * _DAY_S))
            _here.over.set()
            if _here.process:
                _take_leave()
            else:
                _wait_until_alone(_GONE_S)
    _exit(code)


def _take_leave() -> None:
    """Leave JAX's service: when it goes, a client that still hangs on it aborts its process."""
    import jax

    jax.distributed.shutdown()


def _wait_until_alone(seconds: float) -> None:
    """Wait until all the others have left the service of this process, 0, but not longer than `seconds`."""

    def look() -> None:
        every = list(range(_here.processes))
        with contextlib.suppress(Exception):
            while len(_here.client.get_live_nodes(every)) > 1:  # it waits until each has asked the same, or left
                pass

    looking = threading.Thread(target=look, name="mapjax-end", daemon=True)
    looking.start()
    looking.join(seconds)
    time.sleep(_POLL_S)  # whoever has left still waits for the answer that it may


def _missing(address: str | None, place: Place, seconds: float) -> str:
    """Say what was waited for in vain."""
    if address is None:
        return f"{place.cluster}: the host of process 0 is not known by name after {seconds:g} s."
    try:
        with socket.create_connection(_host_port(address), timeout=5):
            reached = True
    except OSError:
        reached = False
    if not reached and place.process != 0:
        return (
            f"the coordinator {address} could not be reached within {seconds:g} s; is process 0 running there, and the "
            "port open? --wait SECONDS waits longer."
        )
    count = "" if place.processes is None else f"{place.processes} "
    return (
        f"not all {count}processes came to the coordinator {address} within {seconds:g} s; look whether each was "
        "started. --wait SECONDS waits longer."
    )


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _begin_to_watch(address: str) -> None:
    targets: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(_watch, ())]
    if _here.process:
        targets.append((_watch_coordinator, (address,)))
    for target, given in targets:
        threading.Thread(target=target, args=given, name="mapjax-watch", daemon=True).start()


def _watch() -> None:
    """Look every few seconds who has failed and who lives; end this process when one of the others is gone."""
    while not _here.over.wait(_POLL_S):
        try:
            _heed(_here.client.key_value_dir_get(_FAILED))  # before it is waited for who does not answer any more
            live = _here.client.get_live_nodes(list(range(_here.processes)))
            _heed(_here.client.key_value_dir_get(_FAILED))  # what a process that is gone has said is there by now
        except Exception:  # without process 0 nobody answers; that is told by _watch_coordinator
            continue
        for number in sorted(set(range(_here.processes)) - set(live)):
            _end(_died(number), LOST)


def _heed(failed: list[tuple[str, str]]) -> None:
    """End this process when one of the others has told why it ends."""
    for path, text in failed:
        number = int(path.rpartition("/")[2])
        if number != _here.process:
            time.sleep(_GRACE_S)
            code, _, reason = text.partition(" ")
            _end(f"process {number} has stopped: {reason}", LOST if int(code) in ASKED else 2)


def _watch_coordinator(address: str) -> None:
    """Hold a connection to process 0's service, which breaks the moment that it dies.

    JAX's own client aborts the process then, from a thread of its own and with a stack trace; this is quicker.
    """
    while not _here.over.is_set():
        try:
            with socket.create_connection(_host_port(address), timeout=10) as connection:
                connection.settimeout(None)
                while connection.recv(1 << 16):
                    pass
        except ConnectionRefusedError:
            _end(_died(0), LOST)
        except ConnectionResetError:
            continue
        except OSError:
            time.sleep(_POLL_S)


def _died(number: int) -> str:
    return (
        f"process {number} of {_here.processes} has died; start all again with the same command: "
        "training goes on from the last checkpoint."
    )


def _end(sentence: str, code: int) -> None:
    """Print why and end; nothing where this process ends by itself already."""
    if not _here.over.is_set() and not _here.failing.is_set():
        os.write(2, f"error: {name()}{sentence}\n".encode(errors=ESCAPED))
        if _here.process == 0:  # the service goes with it, at which JAX aborts who is left: who failed leaves before
            time.sleep(2 * _LINGER_S)
        _exit(code)


def _exit(code: int) -> NoReturn:
    """End without Python's own end, at which JAX would wait for processes that are gone."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
