"""The trained network that a program answers with: of a run's folder, or published weights."""

import argparse
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mapjax.cli import terminal
from mapjax.errors import UserError

if TYPE_CHECKING:
    from mapjax.report.section import Shown
    from mapjax.runs.trained import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workdir, --weights and --checkpoint."""
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="folder of a trained run; or:")
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_FILE",
        help="published weights: efficientnet_lite0, torchvision/resnet50.DEFAULT, …, a file of such, or NAME:FILE",
    )
    parser.add_argument("--checkpoint", default="best", metavar="STEP", help="of the run: best (default), last, a step")
    terminal.add_trust(parser)


def name(arguments: argparse.Namespace) -> str:
    """Say what was chosen.

    Raises:
      UserError: neither --workdir nor --weights was given, or both were.
    """
    if arguments.workdir is not None and arguments.weights is not None:
        raise UserError("give either --workdir or --weights: one network answers.")
    if arguments.workdir is None and arguments.weights is None:
        raise UserError("say which network answers: --workdir DIR of a trained run, or --weights NAME_OR_FILE.")
    return arguments.weights or str(arguments.workdir)


def load(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> "Loaded":
    """Load it; imports JAX.

    Raises:
      UserError: no run or weights there, or a key that its config has not.
    """
    if arguments.weights:
        from mapjax.runs import pretrained

        loaded = pretrained.load(arguments.weights, overrides=overrides)
    else:
        from mapjax.runs import trained

        options: Any = {"which": arguments.checkpoint, "overrides": overrides, "trusted": arguments.trust}
        loaded = trained.load(arguments.workdir, **options)
    from mapjax.runs import svms
    from mapjax.runtime import log

    return svms.answering(loaded, log.Log(None))


def with_categories(show: Callable[..., "Shown"], classes: Sequence[str]) -> Callable[..., "Shown"]:
    """Let the values of what is shown name COCO's category ids, "category_ids", where the classes are COCO's."""
    from mapjax.weights import class_names

    known = class_names.read("coco")
    if class_names.of(classes) is not known:
        return show

    def both(*given: Any, **options: Any) -> "Shown":
        shown = show(*given, **options)
        values = shown.values
        if {"classes"} <= values.keys():
            values = values | {"category_ids": [int(known.ids[k]) for k in values["classes"]]}
        return shown._replace(values=values)

    return both
