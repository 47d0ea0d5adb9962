"""The program `mapjax`: its first word names what to do."""

import importlib
import sys

from mapjax.cli import terminal
from mapjax.errors import near

PROGRAMS = {
    "train": "train and evaluate what an experiment file describes",
    "predict": "answer your own images with a trained run",
    "evaluate": "score a trained run",
    "plan": "say beforehand what a train step will take",
    "bench": "measure speed",
    "prepare": "turn a data set into shards",
    "probe": "ask how much a layer of a classifier knows",
    "ablate": "run a study",
    "soak": "train with a fault every minute, and check the end",
    "memory": "train long, and check that memory stays flat",
}


def main() -> None:
    """Run the program that the command line names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  mapjax {name:<9} {what}" for name, what in PROGRAMS.items()]
        print("usage: mapjax PROGRAM …\n\nprograms:\n" + "\n".join(lines) + "\n\nmapjax PROGRAM --help tells more.")
        sys.exit(0 if words else 2)
    if words[0] not in PROGRAMS:
        print(f"error: there is no program {words[0]!r}.{near(words[0], PROGRAMS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"mapjax {words[0]}", *words[1:]]
    terminal.run_main(importlib.import_module(f"mapjax.cli.{words[0]}").main)
