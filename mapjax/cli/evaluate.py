"""Score a trained run, on its own held-out split or on other data with the same classes.

Writes to --out the scores (result.json), the answers (predictions.json; a detector's and its truth in COCO's formats)
and a report to look at. How the run answers can be changed for it: more views, other thresholds.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.runtime import cluster, distributed

EXAMPLES = """
mapjax evaluate --workdir runs/mine
mapjax evaluate --workdir runs/mine --split test
mapjax evaluate --workdir runs/mine --data coco:DIR --split val2017 --out scores
mapjax evaluate --workdir runs/segmenter --config.task.scales="(0.75, 1.0, 1.25)" --out scores
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("evaluate", __doc__ or "", EXAMPLES)
    parser.add_argument("--workdir", required=True, type=pathlib.Path, metavar="DIR", help="folder of a trained run")
    parser.add_argument("--data", metavar="FORMAT:PATH", help="other data, as for mapjax train")
    parser.add_argument("--split", metavar="NAME", help="the split to score (the run's held-out one)")
    parser.add_argument("--checkpoint", default="best", metavar="STEP", help="best (default), last or a step")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where to write (WORKDIR/evaluation-SPLIT)")
    terminal.add_overrides(parser, "answer with another value of the run's config")
    cluster.add_arguments(parser)
    arguments, overrides = terminal.parse(parser, argv, config=True)
    distributed.start(arguments, preemption=False)
    chief = distributed.is_chief()
    if chief:
        print(f"mapjax: evaluating {arguments.workdir}; starting JAX …", flush=True)

    from mapjax.engine import evaluate
    from mapjax.runs import evaluation, score, setup, trained
    from mapjax.runtime import log, workdir

    loaded = trained.load(arguments.workdir, which=arguments.checkpoint, overrides=overrides)
    config: Any = loaded.config
    done = "" if (arguments.workdir / "result.json").exists() else ", of a run that is not finished"
    if chief:
        print(f"checkpoint of step {loaded.step}{done}", flush=True)
    source = score.open_source(config, loaded.classes, data=arguments.data, split=arguments.split)
    distributed.require_same("run", {"checkpoint": loaded.step, "data": source.fingerprint})
    console = log.Log(None, quiet=not chief)
    mesh = evaluate.make_mesh(config.mesh.to_dict(), console.say)
    metric = setup.make_metric(config, loaded.task, source)
    variables = evaluate.place(loaded.variables, mesh)
    answer = evaluation.make_evaluation(config, loaded.task, metric, source, mesh, console, variables)
    found = answer(variables)
    if not chief:
        return 0
    out = arguments.out or arguments.workdir / f"evaluation-{source.split}"
    result = {
        "metrics": found.metrics,
        "checkpoint": loaded.step,
        "eval_images": found.images,
        "eval_s": found.seconds,
        "data": score.described(source),
        **workdir.environment(mesh),
    }
    title = f"{arguments.workdir.name}: {source.name}, {source.split}"
    score.write(out, metric, source, found.counts, result, config, title=title)
    log.console.print(score.table(found.metrics), crop=False)  # in full, also where the terminal is narrow
    print(f"look at {out / 'report.html'}; the figures are in {out / 'result.json'}")
    return 0
