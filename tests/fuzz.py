"""Damaged and hostile files, thousands of them: a clean result or one sentence, within 10 s and 1 GB.

python tests/fuzz.py                              20,000 inputs, two processes
python tests/fuzz.py --count 2000 --kinds coco,voc --seed 7
python tests/fuzz.py --kinds tar --only 4711      one input again, with its traceback

An input is known by its kind and number, and is the same every time. A crash of the interpreter is found too: each part
of the work is a process of its own.
"""

import argparse
import collections
import json
import multiprocessing
import multiprocessing.pool
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

MOST_S, MOST_MB = 10.0, 1024.0
PART = 100  # inputs of a process
CLEAN, REFUSED = "clean", "refused"


class Outcome(NamedTuple):
    """What became of an input: "clean", "refused" in one sentence, or what must not be."""

    kind: str
    number: int
    name: str
    said: str


def try_one(kind: str, number: int, folder: pathlib.Path, *, show: bool = False) -> Outcome:
    """Write one damaged input into an empty folder, and read it as a program does."""
    import fuzz_inputs
    import fuzz_mutations

    from mapjax.errors import UserError

    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    made = fuzz_inputs.KINDS[kind]
    done = fuzz_mutations.damage(made.write(folder, rng), rng)
    before, began = _peak_mb(), time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.use(folder)
        name, said = CLEAN, ""
    except UserError as error:
        said = str(error)
        name = REFUSED if len(said.splitlines()) == 1 and len(said) < 2000 else "sentence"
    except _TooLong:
        name, said = "slow", f"took longer than {MOST_S:g} s"
    except Exception as error:
        if show:
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        name, said = type(error).__name__, f"{error} ({pathlib.Path(where.filename).name}:{where.lineno})"
    taken, more = time.perf_counter() - began, _peak_mb() - before
    if taken > MOST_S:
        name, said = "slow", f"took {taken:.1f} s"
    elif more > MOST_MB:
        name, said = "memory", f"took {more:.0f} MB"
    return Outcome(kind, number, name, f"{said[:300]} [{done}]")


class _TooLong(BaseException):
    """Raised by the alarm, through every `except Exception`."""


def _alarm(*_: Any) -> None:
    raise _TooLong


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _part(task: tuple[str, int, int], answers: Any) -> None:
    """Try the inputs of one part, telling each before and after it."""
    kind, start, stop = task
    signal.signal(signal.SIGALRM, _alarm)
    for number in range(start, stop):
        answers.send(number)
        with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
            signal.setitimer(signal.ITIMER_REAL, 1.5 * MOST_S)
            outcome = try_one(kind, number, pathlib.Path(folder))
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send(tuple(outcome))
    answers.close()


def _run_part(task: tuple[str, int, int]) -> list[Outcome]:
    """Run a part in a process, and go on behind an input that ends it or hangs in it."""
    kind, start, stop = task
    found: list[Outcome] = []
    while start < stop:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=_part, args=((kind, start, stop), sender))
        process.start()
        sender.close()
        current = start
        try:
            while receiver.poll(3 * MOST_S):
                message = receiver.recv()
                if isinstance(message, int):
                    current = message
                else:
                    found.append(Outcome(*message))
            process.kill()
            found.append(Outcome(kind, current, "hang", "neither time nor a signal ended it"))
        except EOFError:
            process.join()
            if process.exitcode:
                found.append(Outcome(kind, current, "crash", f"the interpreter ended with {process.exitcode}"))
        start = max((one.number for one in found), default=start) + 1
        if not process.exitcode and found and found[-1].name != "hang":
            break
    return found


def run(kinds: Sequence[str], count: int, seed: int, processes: int) -> Iterator[Outcome]:
    """Try `count` inputs of the kinds in turn."""
    each = -(-count // len(kinds))
    first = seed * 1_000_000
    tasks = [(kind, k, min(k + PART, first + each)) for k in range(first, first + each, PART) for kind in kinds]
    with multiprocessing.pool.ThreadPool(processes) as pool:
        for part in pool.imap_unordered(_run_part, tasks):
            yield from part


def table(outcomes: Sequence[Outcome]) -> str:
    """Count outcomes by kind of input."""
    names = [CLEAN, REFUSED, *sorted({one.name for one in outcomes} - {CLEAN, REFUSED})]
    counts = collections.Counter((one.kind, one.name) for one in outcomes)
    rows = [["", *names]]
    for kind in dict.fromkeys(one.kind for one in outcomes):
        rows.append([kind, *(str(counts[kind, name]) for name in names)])
    return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)


def main(argv: Sequence[str]) -> int:
    """Run it; gives 1 where an input did what it must not."""
    import fuzz_inputs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--kinds", default=",".join(fuzz_inputs.KINDS), help="with commas between (all)")
    parser.add_argument("--seed", type=int, default=0, help="other inputs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="the number of one input to try again, here")
    parser.add_argument("--keep", type=pathlib.Path, help="with --only: leave its files in this new folder")
    parser.add_argument("--json", type=pathlib.Path, help="write the counts, and what must not be, to a file")
    given = parser.parse_args(argv)
    kinds = given.kinds.split(",")
    if given.only is not None:
        folder = given.keep or pathlib.Path(tempfile.mkdtemp(prefix="fuzz"))
        folder.mkdir(exist_ok=True)
        print(try_one(kinds[0], given.only, folder, show=True))
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        return 0
    began = time.perf_counter()
    outcomes = list(run(kinds, given.count, given.seed, given.processes))
    wrong = [one for one in outcomes if one.name not in (CLEAN, REFUSED)]
    for one in wrong[:50]:
        print(f"{one.kind} {one.number}: {one.name}: {one.said}")
    print(table(outcomes))
    print(f"{len(outcomes)} inputs, {len(wrong)} wrong, {time.perf_counter() - began:.0f} s")
    if given.json:
        given.json.write_text(json.dumps({"count": len(outcomes), "wrong": [one._asdict() for one in wrong]}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
