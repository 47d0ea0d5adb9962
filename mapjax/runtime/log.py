"""What a run says: to a person on a terminal, and to files for later.

On a terminal a live bar shows step, ETA, images per second, losses and the last score; piped, plain lines.
`metrics.jsonl` holds a line per log and per evaluation, TensorBoard the same scalars.
"""

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from mapjax.errors import printable
from mapjax.runtime import names

FLUSH_S = 30.0  # between two times that TensorBoard's file goes to the disk


class _Printable:
    """Anything that rich prints, without what steers a terminal in its texts, which may be names from files."""

    def __init__(self, content: Any):
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)


class Terminal(Console):
    """A console that prints names from files as they are, but harmless."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        harmless = [printable(one, keep="\n") if isinstance(one, str) else _Printable(one) for one in objects]
        super().print(*harmless, **options)


console = Terminal(highlight=False, soft_wrap=True, markup=False)  # file names may hold brackets


class Log:
    """The log of one run.

    Args:
      workdir: where metrics.jsonl and the TensorBoard events go; None writes no files.
      start: the step that the run goes on from; lines of later steps, of a run that was killed, are dropped.
      quiet: say nothing and write nothing (all processes but the first).
    """

    def __init__(self, workdir: pathlib.Path | None, *, start: int = 0, quiet: bool = False):
        names.settle_streams()  # a program has done so, and who uses the Python API has not
        self.quiet = quiet
        self._file = self._board = None
        self._bar: Progress | None = None
        if workdir is not None and not quiet:
            path = workdir / "metrics.jsonl"
            try:
                drop_after(path, start)
                self._file = path.open("a", encoding="utf-8")
                self._board = Board(workdir / "tensorboard", start)
            except OSError as error:
                self._give_up(error)

    def say(self, message: Any) -> None:
        """Print a line, or anything that rich renders."""
        if not self.quiet:
            console.print(message)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, and the numbers to TensorBoard."""
        if self._file is None or self._board is None:
            return
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
            self._board.write(kind, step, values)
        except OSError as error:
            self._give_up(error)

    @contextlib.contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator["Bar"]:
        """Show a live bar while the block runs; on a pipe, nothing but what is said."""
        live = console.is_terminal and not self.quiet
        progress = Progress(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=4,
            disable=not live,
            transient=True,
        )
        with progress:
            yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))

    def track(self, items: Iterable[Any], title: str, total: int) -> Iterator[Any]:
        """Iterate with a bar."""
        with self.bar(title, total) as bar:
            for number, item in enumerate(items, 1):
                yield item
                bar.update(number)

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._board):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._board = None

    def _give_up(self, error: OSError) -> None:
        """Go on without files: a full disk is no reason to stop training."""
        self.say(f"metrics.jsonl cannot be written ({error.strerror}); from here on nothing is logged to files")
        self.close()


class Board:
    """A file of TensorBoard events in `folder`.

    Written here and now: tensorboardX's own writer does it in a thread, which a full disk ends, and waits for it then.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        """Begin a file; where the run goes on from a step, TensorBoard drops what it has of later ones."""
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))  # two may begin in one second
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{number}"
        self._writer, self._flushed = RecordWriter(str(folder / name)), time.monotonic()
        self._add(file_version="brain.Event:2")
        if start:
            self._add(step=start + 1, session_log={"status": "START"})

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add the numbers among the values, as "kind/name"."""
        numbers = {names.shown(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._add(
            step=step,
            summary={"value": [{"tag": f"{kind}/{name}", "simple_value": value} for name, value in numbers.items()]},
        )
        if time.monotonic() - self._flushed > FLUSH_S:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _add(self, **fields: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._writer.write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())  # pyright: ignore


class Bar:
    """A live bar: `update(done, note)`."""

    def __init__(self, progress: Progress, task: Any):
        self._progress, self._task = progress, task

    def update(self, done: int, note: str | None = None) -> None:
        """Move the bar to `done`, and change the note at its end where one is given."""
        self._progress.update(self._task, completed=done)
        if note is not None:
            self._progress.update(self._task, note=note)


class Speed:
    """Examples per second and the share of time spent waiting for input, between one call and the next."""

    def __init__(self) -> None:
        self._time, self._step, self._waited = time.perf_counter(), 0, 0.0

    def start(self, step: int, waited_s: float) -> None:
        """Begin to measure."""
        self._time, self._step, self._waited = time.perf_counter(), step, waited_s

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training (an evaluation)."""
        self._time += seconds

    def measure(self, step: int, batch: int, waited_s: float) -> dict[str, float]:
        """Give step time, examples per second and the waiting share since the last call or `start`."""
        now = time.perf_counter()
        seconds, steps, waited = now - self._time, step - self._step, waited_s - self._waited
        self.start(step, waited_s)
        return {
            "step_s": seconds / max(steps, 1),
            "examples_per_s": batch * steps / max(seconds, 1e-9),
            "input_wait": waited / max(seconds, 1e-9),
        }


def drop_after(path: pathlib.Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after `step`, and a last line that a kill cut short."""
    if not path.is_file():
        return
    kept = [line for line in read(path) if line["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a line that a kill cut short, or that is of something else, is passed over."""
    lines = []
    for text in _text(path).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("kind"), str) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def _text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def last_step(path: pathlib.Path) -> int:
    """Give the step of the last whole line of a metrics.jsonl that may be being written; 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 65_536, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return int(json.loads(line)["step"])
    return 0


def short(values: dict[str, Any], names: Iterable[str] | None = None) -> str:
    """Write scalars in a line: "loss 0.512  loss_box 0.101"."""
    chosen = values if names is None else [name for name in names if name in values]
    return "  ".join(f"{name} {values[name]:.4g}" for name in chosen)
