"""Score a trained run, on its own held-out split or on other data with the same classes, or published weights.

Writes to --out the scores (result.json), the answers (predictions.json; a detector's and its truth in COCO's formats,
and in errors.json what keeps it from a higher AP50) and a report to look at. How the run answers can be changed for it:
more views, other thresholds.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mapjax.cli import network, terminal
from mapjax.errors import UserError
from mapjax.runtime import cluster, distributed

if TYPE_CHECKING:
    from mapjax.data.source import Source
    from mapjax.engine.evaluate import Evaluation
    from mapjax.task import Metric

EXAMPLES = """
mapjax evaluate --weights efficientnet_lite0 --data folder:DIR --out scores
mapjax evaluate --workdir runs/mine
mapjax evaluate --workdir runs/mine --split test
mapjax evaluate --workdir runs/mine --data coco:DIR --split val2017 --out scores
mapjax evaluate --workdir runs/detector --config.task.flip=True --config.task.scales="(0.8, 1.0, 1.25)"
mapjax evaluate --workdir runs/segmenter --config.task.scales="(0.75, 1.0, 1.25)" --out scores
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    arguments, overrides = terminal.parse(_parser(), argv, config=True)
    name = network.name(arguments)
    if arguments.weights and not arguments.data:
        raise UserError("--weights has no held-out images of its own; name some with --data FORMAT:PATH.")
    distributed.start(arguments, preemption=False)
    chief = distributed.is_chief()
    if chief:
        print(f"mapjax: evaluating {name}; starting JAX …", flush=True)

    from mapjax.engine import evaluate
    from mapjax.runs import evaluation, score, setup
    from mapjax.runtime import log

    loaded = network.load(arguments, overrides)
    config: Any = loaded.config
    if chief and arguments.workdir:
        done = "" if (arguments.workdir / "result.json").exists() else ", of a run that is not finished"
        print(f"checkpoint of step {loaded.step}{done}", flush=True)
    source = score.open_source(
        config, loaded.classes, data=arguments.data, split=arguments.split, learned=loaded.learned
    )
    distributed.require_same("run", {"checkpoint": loaded.step, "data": source.fingerprint})
    console = log.Log(None, quiet=not chief)
    if told := score.seen_before(config, source, loaded.learned):
        console.say(f"warning: {told}")
    mesh = evaluate.make_mesh(config.mesh.to_dict(), config.eval_batch, console.say)
    metric = setup.make_metric(config, loaded.task, source)
    variables = evaluate.place(loaded.variables, mesh)
    answer = evaluation.make_evaluation(config, loaded.task, metric, source, mesh, console, variables)
    found = answer(variables)
    if chief:
        asked = {"data": score.described(source), "checkpoint": loaded.step, "overrides": overrides}
        _write(arguments, name, source, metric, found, asked, config, mesh)
    return 0


def _write(
    arguments: argparse.Namespace,
    name: str,
    source: "Source",
    metric: "Metric",
    found: "Evaluation",
    asked: dict[str, Any],
    config: Any,
    mesh: Any,
) -> None:
    """Write what was found into the folder that was asked for, or one of its own, and say it."""
    from mapjax.runs import score
    from mapjax.runtime import log, workdir

    folder = arguments.workdir or workdir.dated(pathlib.PurePosixPath(name).stem)
    out = arguments.out or score.folder_for(folder / f"evaluation-{source.split}", asked)
    result = {"metrics": found.metrics, **asked, "eval_images": found.images, "eval_s": found.seconds}
    result |= workdir.environment(mesh)
    title = f"{pathlib.Path(name).name}: {source.name}, {source.split}"
    files = score.write(out, metric, source, found.counts, result, config, title=title)
    log.console.print(score.table(found.metrics), crop=False)  # in full, also where the terminal is narrow
    if "errors.json" in files:
        log.console.print("", score.errors(files["errors.json"]), crop=False)
    print(f"look at {out / 'report.html'}; the figures are in {out / 'result.json'}")


def _parser() -> argparse.ArgumentParser:
    parser = terminal.parser("evaluate", __doc__ or "", EXAMPLES)
    network.add_arguments(parser)
    parser.add_argument("--data", metavar="FORMAT:PATH", help="other data, as for mapjax train")
    parser.add_argument("--split", metavar="NAME", help="the split to score (the run's held-out one)")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="DIR",
        help="where to write (WORKDIR/evaluation-SPLIT; or a dated folder)",
    )
    terminal.add_overrides(parser, "answer with another value of the run's config")
    cluster.add_arguments(parser)
    return parser
