"""What every program shares: arguments, one sentence for a mistake, quiet libraries, a warm compiler."""

import argparse
import functools
import gc
import logging
import os
import pathlib
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mapjax.errors import UserError, near
from mapjax.runtime import allocator, console, distributed, names, signals

PAGES = {  # of the documentation, by program
    "train": "train",
    "predict": "predict",
    "evaluate": "evaluate",
    "probe": "evaluate",
    "prepare": "data",
    "plan": "planning",
    "bench": "performance",
    "ablate": "studies",
    "soak": "robustness",
    "memory": "robustness",
}


def parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Make the parser of `mapjax NAME`, whose help shows what the program is for, and examples to copy."""
    script = "main" if name == "train" else name
    made = argparse.ArgumentParser(
        prog=f"mapjax {name}",
        description=textwrap.dedent(description),
        epilog=f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}\n\n"
        f"In a checkout python launch/{script}.py is the same program. Its documentation: docs/{PAGES[name]}.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--traceback", action="store_true", help="show the traceback of a mistake, not only the sentence")
    made.error = functools.partial(_mistaken, name)
    return made


def _mistaken(name: str, message: str) -> NoReturn:
    """Say what argparse finds wrong, in a sentence instead of its usage of ten lines."""
    raise UserError(f"{message.removeprefix('argument ')}; mapjax {name} --help shows examples.")


def add_config(made: argparse.ArgumentParser, *, example: str = "batch=8", **options: Any) -> None:
    """Add --config, and to its help --config.KEY with an example; `options` go to argparse."""
    text = "an experiment that mapjax ships, as detect or detect:bccd, or a file of yours"
    made.add_argument("--config", metavar="NAME_OR_FILE[:VARIANT]", **{"help": text, **options})
    add_trust(made)
    add_overrides(made, f"replace a value of the config, as in --config.{example}")


def add_trust(made: argparse.ArgumentParser) -> None:
    """Add --trust."""
    made.add_argument(
        "--trust",
        action="store_true",
        help="run the modules that a config.json or study.zip names and that are not mapjax's own: you know its author",
    )


def add_overrides(made: argparse.ArgumentParser, text: str) -> None:
    """Add --config.KEY to the help; what is given of it comes from `parse`."""
    made.add_argument("--config.KEY", metavar="VALUE", dest="_", help=text)


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str], *, config: bool = False
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse arguments; for a program with a `config`, `--config.KEY=VALUE` (or `--config.KEY VALUE`) are overrides.

    Raises:
      UserError: an unknown argument (the near ones are named), one that is missing, or a value that cannot be.
    """
    options = [option for action in made._actions for option in action.option_strings]
    for word in argv:
        key = word.partition("=")[0]
        if key.startswith("--") and key not in (*options, "--") and not (config and key.startswith("--config.")):
            hint = _key_hint(word) if config else ""
            raise UserError(f"unknown argument {word!r}.{hint or near(key, options)}")
    if argv and not argv[0].startswith("-"):
        hint = (
            f"did you mean --config {argv[0]}?" if "--config" in options else f"{made.prog} --help shows what it takes."
        )
        raise UserError(f"unknown argument {argv[0]!r}; {hint}")
    known, rest = made.parse_known_args(argv)
    overrides: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.partition("=")
        if not config or not key.startswith("--config."):
            raise UserError(f"unknown argument {word!r}; {made.prog} --help shows what it takes.")
        found = value if equals else next(words, None)
        if found is None:
            raise UserError(f"{key} needs a value: {key}=VALUE.")
        overrides[key.removeprefix("--config.")] = found
    return known, overrides


def _key_hint(word: str) -> str:
    """Say which key of a config an argument may mean, written as one of its own: --epochs, --lr, --dtype."""
    from mapjax.config import schema

    name, _, value = word.lstrip("-").replace("-", "_").partition("=")
    if name in ("epochs", "steps", "examples"):
        return f' Did you mean --config.duration="{value or "N"} {name}"?'
    asked = {"lr": "learning_rate", "epoch": "duration", "iterations": "duration", "imgsz": "image_size"}.get(
        name, name
    )
    known = [key for key in schema.KEYS if asked in (key, key.rpartition(".")[2])]
    return f" Did you mean --config.{known[0]}={value or '…'}?" if known else ""


def run_main(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a program and leave: a user's mistake becomes one line and exit code 2.

    Compiled programs are kept in JAX's cache, so that the second start is quick.
    """
    argv = sys.argv[1:]
    settle(quiet="--traceback" not in argv)
    try:
        code = main(argv)
    except UserError as error:
        if "--traceback" in argv and not distributed.begun():
            raise
        print(f"error: {distributed.name()}{error}", file=sys.stderr)
        if distributed.begun():
            distributed.fail(str(error), 2)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        if distributed.begun():
            distributed.fail("interrupted", 130)
        if "jax" in sys.modules:
            _leave(130)
        code = 130
    except SystemExit as error:
        if distributed.begun():
            distributed.fail(f"asked to leave ({error.code})", error.code if isinstance(error.code, int) else 1)
        raise
    except Exception as error:
        if distributed.begun():
            distributed.wait_for_verdict(error)
            traceback.print_exc()
            distributed.fail(f"{type(error).__name__}: {error}".splitlines()[0], 1)
        raise
    if distributed.begun():
        distributed.leave(code or 0)
    sys.exit(code)


def settle(*, quiet: bool) -> None:
    """Set what holds for the whole process, before JAX is imported.

    Args:
      quiet: pass over what Orbax's own threads report; what fails there is raised once more where checkpoint.py waits
        for them, and reported then.
    """
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "mapjax" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # A collective holds a thread of XLA's pool until all devices have come to it. The pool is by itself as large as
        # there are cores and devices; where collectives hold all of it, all wait for ever.
        os.environ.setdefault("NPROC", "256")
    sys.path.append(os.getcwd())  # a part named in a config may be a module there, as with python -m
    console.outlast()
    logging.setLogRecordFactory(console.Harmless)
    allocator.keep()
    names.settle_streams()
    # Tracing makes millions of small objects that stay: a warm start of detect takes an eighth less where Python looks
    # for garbage among them less often.
    gc.set_threshold(20_000, 20, 20)
    if quiet:  # a save that failed would show a traceback from every thread
        threading.excepthook = _thread_failed
        sys.unraisablehook = _unraisable
        for name in ("absl", "asyncio", "concurrent.futures"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
        if signals.HANGUP is not None and signal.getsignal(signals.HANGUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signals.HANGUP, _terminated)


def _terminated(number: int, _: Any) -> None:
    """Unwind on SIGTERM or SIGHUP, so that what was found so far is written; training takes them over (signals.py)."""
    signals.remember(number)
    sys.exit(128 + number)


def _leave(code: int) -> None:
    """End at once: XLA may still compile in its own threads, and the interpreter's end would pull memory from them."""
    sys.stdout.flush()
    os._exit(code)


def _unraisable(args: Any) -> None:
    """Pass over what tensorstore's own threads find when Orbax has given up a save."""
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(args)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Pass over what Orbax's threads raise."""
    if not type(args.thread).__module__.startswith("orbax."):
        threading.__excepthook__(args)
