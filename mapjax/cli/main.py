"""The program `mapjax`: its first word names what to do."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import mapjax
from mapjax.cli import terminal
from mapjax.errors import UserError, near


class Program(NamedTuple):
    """What a program is for, and a command to copy."""

    group: str
    purpose: str
    example: str


USE, AHEAD, STUDY, TRIAL = "train, and use what was trained", "before a training", "compare", "try a machine out"
PROGRAMS = {  # the module of mapjax.cli → what its help says
    "train": Program(USE, "train and evaluate what an experiment describes", "--config detect:bccd --data voc:DIR"),
    "predict": Program(USE, "answer your own images", "--workdir runs/mine --images photos/ --out found"),
    "evaluate": Program(USE, "score a run again, or on other data", "--workdir runs/mine --data voc:OTHER"),
    "probe": Program(USE, "ask how much a layer of a classifier knows", "--workdir runs/mine --layer pool"),
    "prepare": Program(AHEAD, "turn a data set into shards", "--data folder:DIR --out prepared"),
    "plan": Program(AHEAD, "say what a step takes in memory and time", "--config detect:coco --topology v5e:2x4"),
    "bench": Program(AHEAD, "measure speed", "--config detect:bccd --data voc:DIR"),
    "ablate": Program(STUDY, "run the cells of a sweep for several seeds", "--config ablate_augment"),
    "soak": Program(TRIAL, "train with a fault every minute, and check the end", "--minutes 30 --every 60"),
    "memory": Program(TRIAL, "train long, and check that memory stays flat", "--steps 10000"),
}
OPENING = """usage: mapjax PROGRAM …

Train vision models in JAX. To begin, without any data of yours: mapjax train --config detect"""
CLOSING = """
A config is one that mapjax ships, as classify, detect or segment:VARIANT, or a FILE.py of yours.
mapjax PROGRAM --help tells more. In a checkout python launch/PROGRAM.py is the same; launch/main.py is mapjax train.
The documentation begins with docs/index.md, and first steps with docs/start.md.
"""


def main() -> None:
    """Run the program that the command line names; `python -m mapjax` is the same."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first not in PROGRAMS:
        terminal.run_main(answer)
    sys.argv[:2] = [f"mapjax {first}"]
    terminal.run_main(importlib.import_module(f"mapjax.cli.{first}").main)


def answer(words: Sequence[str]) -> None:
    """Answer words of which the first is no program.

    Raises:
      UserError: they ask neither for help nor for the version; it says what to write instead.
    """
    first, *rest = words or [""]
    if first in ("-h", "--help", "help"):
        print(overview(), flush=True)
    elif first == "--version":
        print(f"mapjax {mapjax.__version__}", flush=True)
    elif not first:
        raise UserError(f"say what to do: mapjax PROGRAM …, one of {', '.join(PROGRAMS)}; mapjax --help tells more.")
    elif first.startswith("-"):
        named = next((word for word in rest if word in PROGRAMS), "train")
        raise UserError(f"the program comes first: mapjax {named} {first} …")
    else:
        raise UserError(f"there is no program {first!r}.{near(first, PROGRAMS)} mapjax --help shows all.")


def overview() -> str:
    """Give the help: all programs by what they are for, with an example of each."""
    lines = [OPENING]
    for group in dict.fromkeys(program.group for program in PROGRAMS.values()):
        lines += ["", f"{group}:"]
        for name, program in PROGRAMS.items():
            if program.group == group:
                lines += [f"  {name:<9} {program.purpose}", f"            mapjax {name} {program.example}"]
    return "\n".join(lines) + "\n" + CLOSING.rstrip()
