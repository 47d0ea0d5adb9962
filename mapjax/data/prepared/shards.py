"""Writing shards: one file at a time, whole or not at all, in this process or in several.

A shard is written under a `.tmp` name; what was found while writing (labels, checksum, what was left out) goes beside
it as `SHARD.done.tmp`, and only then the shard gets its name. So a shard under its own name is finished, whenever a run
ends.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mapjax.data import images
from mapjax.data.prepared import encoding, truth
from mapjax.data.source import Record, Source, name_of
from mapjax.errors import UserError
from mapjax.runtime import checksum

OPTIONS = "group_size:1,uncompressed"  # a record a group, for random access; images are compressed already
TMP, DONE = ".tmp", ".done.tmp"
_POLL_S = 0.2

Dropped = dict[str, list[str]]


class Job(NamedTuple):
    """One shard to write: its split, its path, and the records that go into it, in order."""

    split: str
    path: str
    rows: Int[np.ndarray, " n"]


class Written(NamedTuple):
    """A finished shard: its entry of the index, the labels of its records, and the records left out, by reason."""

    entry: dict[str, Any]
    labels: truth.Arrays
    dropped: Dropped


class Stopped(Exception):
    """Another shard failed, so this one was given up."""


def write(job: Job, source: Source, count: Callable[[int], bool] = lambda records: True) -> Written:
    """Write one shard. A record whose image is missing or unreadable is left out.

    Args:
      count: called after some records with their number; gives False to stop.

    Raises:
      UserError: the file cannot be written.
      Stopped: when `count` said so.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled

    path, tmp = pathlib.Path(job.path), pathlib.Path(job.path + TMP)
    kept: list[truth.Arrays] = []
    dropped: Dropped = {}
    try:
        with _writing(path):
            writer = array_record_module.ArrayRecordWriter(str(tmp), OPTIONS)
        for row in job.rows.tolist():
            record, reason = _read(source, row)
            if record is None:
                dropped.setdefault(reason, []).append(name_of(source, row))
            else:
                with _writing(path):
                    writer.write(encoding.encode(record))
                kept.append(truth.pack([record]))
            if not count(1):
                raise Stopped
        with _writing(path):
            writer.close()
            _sync(tmp)
            entry = {"file": path.name, "records": len(kept), "bytes": tmp.stat().st_size}
            written = Written(entry | {"sha256": checksum.sha256(tmp)}, truth.join(kept), dropped)
            _save_done(job, written)
            os.replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    return written


def finished(job: Job) -> Written | None:
    """Return what is known of a shard that an earlier run has finished; None if it has not."""
    try:
        stored = truth.load(pathlib.Path(job.path + DONE).read_bytes())
        facts = json.loads(stored.pop("facts").tobytes())
        if pathlib.Path(job.path).stat().st_size != facts["entry"]["bytes"]:
            return None
        return Written(facts["entry"], stored, facts["dropped"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def write_all(
    jobs: Sequence[Job], sources: Mapping[str, Source], workers: int, progress: Callable[[int], None]
) -> Iterator[Written]:
    """Write shards, in this process for one worker; gives them back in the order in which they get finished.

    Args:
      sources: of each split.
      progress: told now and then how many records have been written.

    Raises:
      UserError: as `write`; or a worker was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        done = 0

        def count(records: int) -> bool:
            nonlocal done
            done += records
            progress(done)
            return True

        yield from (write(job, sources[job.split], count) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # JAX and gRPC have threads, which a fork would leave behind
    counter, stop = context.Value("q", 0), context.Event()
    pool = futures.ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start, initargs=(dict(sources), counter, stop)
    )
    waiting = {pool.submit(_write_here, job) for job in jobs}
    try:
        while waiting:
            ready, waiting = futures.wait(waiting, _POLL_S, futures.FIRST_COMPLETED)
            progress(counter.value)
            yield from (future.result() for future in ready)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; run the command again, with fewer --workers: it "
            "goes on where it stopped."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: tuple[Mapping[str, Source], Any, Any] | None = None  # of a worker process: sources, counter, stop


def _start(sources: Mapping[str, Source], counter: Any, stop: Any) -> None:
    """Begin a worker process."""
    global _worker
    _worker = sources, counter, stop
    end_with_parent()


def end_with_parent() -> None:
    """Let this worker process leave an interrupt to its parent, and end when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _write_here(job: Job) -> Written:
    assert _worker is not None
    sources, counter, stop = _worker

    def count(records: int) -> bool:
        with counter.get_lock():
            counter.value += records
        return not stop.is_set()

    return write(job, sources[job.split], count)


def _read(source: Source, row: int) -> tuple[Record | None, str]:
    """Fetch a record with its image as encoded bytes; or None, and why it is left out.

    Only the header of an image is read, unless that is unusual; one that is cut short is found when it is decoded.
    """
    try:
        record = dict(source.records[row])
        record["image"] = encoding.encoded(record["image"])
    except UserError as error:
        return None, images.fault_of(error)
    try:
        images.read_header(record["image"])
    except UserError:
        try:
            images.read(record["image"])
        except UserError as error:
            return None, images.fault_of(error)
    return record, ""


def _save_done(job: Job, written: Written) -> None:
    facts = json.dumps({"entry": written.entry, "dropped": written.dropped}).encode("ascii")
    data = truth.save({"facts": np.frombuffer(facts, np.uint8), **written.labels})
    write_file(pathlib.Path(job.path + DONE), data)


def write_file(path: pathlib.Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name.removesuffix(TMP) + ".partial" + TMP)
    partial.write_bytes(data)
    _sync(partial)
    os.replace(partial, path)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Tell in one sentence that a shard cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises the latter
        reason = (getattr(error, "strerror", None) or str(error)).partition(";")[0]
        raise UserError(
            f"{path} cannot be written ({reason}); make room or name another --out, and run the command again: it goes "
            "on where it stopped."
        ) from error
