"""Batches that a thread fills ahead of use, and goes on with when a worker process was killed."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mapjax.errors import UserError
from mapjax.task import Batch

_DEATHS = 3  # of workers without a batch in between, before giving up
_log = logging.getLogger(__name__)


class Batches(Iterator[Batch]):
    """An iterator of batches on the devices, filled ahead by a thread.

    waited_s: seconds spent waiting inside `next` so far.
    replaced: unreadable images met so far, file → reason.
    """

    def __init__(self, dataset_from: Callable[[int], Any], place: Callable[[dict[str, Any]], Batch], prefetch: int):
        """Take the batches from that of a number on; asked for again when a worker process has been killed."""
        self.waited_s = 0.0
        self.replaced: dict[str, str] = {}
        self._queue: queue.Queue = queue.Queue(maxsize=max(prefetch, 1))
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(dataset_from, place), name="mapjax-batches", daemon=True
        )
        self._thread.start()

    def __next__(self) -> Batch:
        """Return the next batch; an error of the pipeline is raised here."""
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        item, replaced = self._queue.get()
        self.waited_s += time.perf_counter() - start
        if isinstance(item, BaseException):
            self.close()
            raise item
        for file, reason in replaced.items():
            if file not in self.replaced:
                self.replaced[file] = reason
                _log.warning("unreadable image, left out: %s", reason if file in reason else f"{file}: {reason}")
        return item

    def close(self) -> None:
        """Stop the threads; `next` ends from here on. Safe to call twice."""
        self._closed.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(timeout=0.02)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _fill(self, dataset_from: Callable[[int], Any], place: Callable[[dict[str, Any]], Batch]) -> None:
        done, deaths = 0, 0
        while not self._closed.is_set():
            iterator = None
            try:
                iterator = iter(dataset_from(done))
                for arrays, replaced in iterator:
                    if self._closed.is_set():
                        return
                    self._put((place(arrays), replaced))
                    done, deaths = done + 1, 0
                return self._put((StopIteration(), {}))
            except BaseException as error:  # handed to the consumer, whatever it is
                deaths += 1
                if (killed := _killed_worker(error, deaths)) is not None:
                    return self._put((killed, {}))
            finally:
                if iterator is not None:
                    iterator.close()

    def _put(self, item: tuple[Any, dict[str, str]]) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue


def _killed_worker(error: BaseException, deaths: int) -> BaseException | None:
    """Give the error to hand on; None where a worker process was killed, so that its batches are made once more."""
    if "Worker process was terminated" not in str(error):  # grain raises a plain RuntimeError
        return error
    if deaths < _DEATHS:
        _log.warning("a data worker was killed; the workers are started again, and no example is lost")
        return None
    return UserError(
        f"data workers were killed {deaths} times before they made a batch, as happens when memory runs out; lower "
        "input.workers, or set it to 0."
    )
