"""Train and evaluate what an experiment describes.

The run leaves a folder: report.html to look at, result.json, predictions.json, checkpoints, logs. The same
command with the same --workdir goes on exactly where it stopped; a finished run is only evaluated again.
"""

import argparse
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.config import formats
from mapjax.errors import UserError
from mapjax.runtime import cluster, distributed

EXAMPLES = """
mapjax train --config detect                                     (embedded scenes, nothing to download)
mapjax train --config detect:bccd --data voc:DIR
mapjax train --config detect:bccd --data coco:DIR --workdir runs/mine
mapjax train --config classify:finetune --data folder:DIR --config.duration="2 epochs"
mapjax train --config segment:camvid --data masks:DIR
mapjax train --config detect --config.duration="12 epochs" --batch 8
mapjax train --config classify:imagenet --data folder:DIR --batch auto
mapjax train --config mine.py:large --data folder:DIR            (an experiment file of yours)
mapjax train --config detect --keys                              (lists every key and its value)
mapjax train --config detect --coordinator HOST:PORT --processes 2 --process 0
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    arguments, overrides = terminal.parse(_parser(bool({"-h", "--help"} & set(argv))), argv, config=True)

    from mapjax.config import load as configs

    if arguments.init_from:
        overrides["init_from"] = arguments.init_from
    if arguments.batch not in (None, "auto"):
        overrides["batch"] = arguments.batch
    config = configs.load(arguments.config, overrides, data=arguments.data, trust=arguments.trust)
    if arguments.data is None and not arguments.keys:
        _require_data(arguments.config, config.data)
    if arguments.keys:
        from mapjax.config import keys

        print(keys.table(config))
        return 0
    distributed.start(arguments, preemption=True)
    if distributed.is_chief():
        print(f"mapjax: {arguments.config}, seed {config.seed}; starting JAX …", flush=True)

    from mapjax.runs import fit
    from mapjax.runtime import workdir

    folder = arguments.workdir or workdir.dated(configs.label(arguments.config))
    folder = pathlib.Path(distributed.share("workdir", str(folder)))
    if arguments.batch == "auto":
        from mapjax.plan import job

        config.update(job.local_batches(config, folder))
    result = fit.fit(config, folder, configs.find(arguments.config.partition(":")[0]), trust=arguments.trust)
    return 128 + result["stopped"] if "stopped" in result else 0


def _require_data(name: str, node: Any) -> None:
    """Ask for --data where the config's own place of it, which its user has never typed, is not there."""
    path = node.get("path")
    if name.endswith(".json") or not isinstance(path, str) or pathlib.Path(path).exists():
        return
    raise UserError(
        f"--config {name} learns from data of yours: say where it is by --data {node.name}:PATH ({path} is not there)."
    )


def _parser(shown: bool) -> argparse.ArgumentParser:
    """Make the parser; where its help is `shown`, that lists the recipes."""
    parser = terminal.parser("train", __doc__ or "", EXAMPLES)
    if shown:
        from mapjax.config import load as configs

        listed = ", ".join(f"{name}:{one}" for name, variants in configs.recipes().items() for one in variants)
        filled = textwrap.fill(listed, 96, initial_indent="  ", subsequent_indent="  ")
        parser.epilog = f"recipes:\n{filled}\n\n{parser.epilog}"
    terminal.add_config(parser, required=True)
    parser.add_argument(
        "--data",
        metavar="FORMAT:PATH",
        help=f"the data: {'; '.join(one.about for one in formats.known().values())}",
    )
    parser.add_argument(
        "--init_from",
        metavar="WEIGHTS",
        help="start from a file (.safetensors .npz .pth), a name (torchvision/resnet50.DEFAULT) or a workdir",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        help="examples of a step on all devices together, or auto: as many as fit here (and an eval_batch that does)",
    )
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="folder of the run (runs/DATE-NAME)")
    parser.add_argument("--keys", action="store_true", help="list the keys, values, units and meanings, and leave")
    cluster.add_arguments(parser)
    return parser
