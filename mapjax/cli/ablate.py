"""Run a study: every cell of an experiment's sweep(), for every seed, and compare them in a table.

Each cell is a run of mapjax train in a folder of its own. A finished one is not run again, a changed one is, and one
that was interrupted goes on exactly: give the same command again. The study leaves table.md, table.csv, table.tex,
study.html and study.json in its folder.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.errors import UserError

EXAMPLES = """
mapjax ablate --config ablate_augment
mapjax ablate --config ablate_augment --dry
mapjax ablate --config ablate_augment --only flips,rotation --seeds 0,1,2 --steps 200
mapjax ablate --config ablate_augment --devices cuda:0,cuda:1
mapjax ablate --config ablate_augment --cluster slurm:slurm_partition=gpu,gpus_per_node=1
mapjax ablate --config ablate_augment --tpu /mnt/share/augment
mapjax ablate --config ablate_augment --search 20
mapjax ablate --config ablate_augment --bundle
mapjax ablate --from runs/ablate_augment/study.zip
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    arguments, more = terminal.parse(_parser(), argv, config=True)
    _require_fitting(arguments, more)

    from mapjax.study import clusters, estimate, runs, study, sweep

    if arguments.steps is not None:
        more["duration"] = f"{arguments.steps} steps"
    found, name, before = _study(arguments, more)
    found = sweep.narrowed(found, _words(arguments.only), _numbers(arguments.seeds))._replace(trust=arguments.trust)
    name += "-search" if arguments.search is not None else ""
    name += f"-{arguments.steps}-steps" if arguments.steps is not None else ""
    folder = arguments.workdir or pathlib.Path("runs") / name
    listed = runs.jobs(found, folder)
    if arguments.dry:
        return estimate.show(found, listed)
    if arguments.tpu:
        print("\n".join(clusters.tpu_commands(found, listed, arguments.tpu)))
        return 0
    if arguments.search is not None:
        return study.search_and_write(found, folder, arguments.search)
    return study.run_and_write(
        found, listed, folder, devices=_words(arguments.devices), bundled=arguments.bundle, before=before,
        cluster=arguments.cluster or "",
    )  # fmt: skip


def _study(arguments: argparse.Namespace, more: dict[str, str]) -> tuple[Any, str, Any]:
    """Give the study, its name, and what a bundle says that was found before."""
    from mapjax.config import load as configs
    from mapjax.study import bundle, sweep

    if arguments.bundle_of is None:
        return sweep.load(arguments.config, data=arguments.data, more=more), configs.label(arguments.config), None
    found, before = bundle.read(arguments.bundle_of, arguments.data, arguments.trust)
    bundle.require_seeds(before, _numbers(arguments.seeds))
    return found, f"{pathlib.Path(before['experiment'].partition(':')[0]).stem}-again", before


def _require_fitting(arguments: argparse.Namespace, more: dict[str, str]) -> None:
    """Refuse options that do not go together.

    Raises:
      UserError: it names them.
    """
    if (arguments.config is None) == (arguments.bundle_of is None):
        raise UserError("give either --config FILE.py, a study to run, or --from study.zip, one to run again.")
    if arguments.bundle_of is not None and (more or arguments.steps is not None):
        raise UserError("--from runs the same study again: it takes no --config.KEY or --steps.")
    if arguments.bundle_of is not None and (arguments.tpu or arguments.search is not None):
        raise UserError("--from runs the same study again: it takes no --tpu or --search.")
    if arguments.search is not None and (arguments.cluster or arguments.devices or arguments.bundle):
        raise UserError("--search runs one trial after the other here: it takes no --cluster, --devices or --bundle.")
    if arguments.cluster and arguments.devices:
        raise UserError("give either --cluster or --devices.")


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word]


def _parser() -> argparse.ArgumentParser:
    parser = terminal.parser("ablate", __doc__ or "", EXAMPLES)
    terminal.add_config(parser, help="an experiment with a sweep(): ablate_augment, or a file of yours")
    parser.add_argument("--data", metavar="FORMAT:PATH", help="other data for all cells, as for mapjax train")
    parser.add_argument("--only", metavar="NAMES", help="only these cells, with commas between; and the baseline")
    parser.add_argument("--seeds", metavar="NUMBERS", help="other seeds, with commas between")
    parser.add_argument("--steps", type=int, metavar="N", help="train so many steps, to try a study out")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="folder of the study (runs/NAME)")
    parser.add_argument("--devices", metavar="NAMES", help="a run at a time on each: cuda:0,cuda:1 or tpu:0,tpu:1")
    parser.add_argument(
        "--cluster",
        metavar="NAME[:OPTIONS]",
        help="as an array of jobs, by submitit: slurm:slurm_partition=gpu,gpus_per_node=1",
    )
    parser.add_argument(
        "--tpu", metavar="FOLDER", help="print a command of launch/tpu_vm.sh for each run; FOLDER as the VMs see it"
    )
    parser.add_argument("--search", type=int, metavar="N", help="instead try so many choices from the sweep's ranges")
    parser.add_argument("--bundle", action="store_true", help="also write study.zip, from which others run it again")
    parser.add_argument(
        "--from",
        dest="bundle_of",
        type=pathlib.Path,
        metavar="FILE",
        help="run the study of a study.zip again and compare",
    )
    parser.add_argument(
        "--dry", action="store_true", help="list the cells, what they change, and their minutes by a few measured steps"
    )
    return parser


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(number) for number in text.split(",")] if text else []
    except ValueError as error:
        raise UserError(f"--seeds {text}: write whole numbers with commas between, as in 0,1,2.") from error
