"""Ask how much a layer of a trained classifier knows: PCA of its features, then classical classifiers.

Fits a linear probe, k-NN, an SVM, a decision tree and naive Bayes on the features of the train split, scores them on
the held-out one, prints one table and writes probe-LAYER.json. The layer "pixels" is the baseline: no network at all.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mapjax.cli import terminal
from mapjax.errors import UserError

if TYPE_CHECKING:
    from mapjax.data.source import Source

EXAMPLES = """
mapjax probe --workdir runs/mine
mapjax probe --workdir runs/mine --layer stage3 --components 32
mapjax probe --workdir runs/mine --layer pixels --data folder:OTHER
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    arguments, _ = terminal.parse(_parser(), argv)
    print(f"mapjax: probing {arguments.workdir}; starting JAX …", flush=True)

    from mapjax.data import pipeline
    from mapjax.engine import evaluate
    from mapjax.explain import probe
    from mapjax.runs import evaluation, sources, trained
    from mapjax.runtime import log, workdir
    from mapjax.sharding import mesh as shard

    loaded = trained.load(arguments.workdir, which=arguments.checkpoint, trusted=arguments.trust)
    if loaded.task.needs != "label":
        raise UserError(f"--workdir {arguments.workdir} learned from {loaded.task.needs}; a probe asks classifiers.")
    config, opened = _opened(loaded.config, arguments.data)
    mesh = shard.make_mesh({"data": -1})
    variables = evaluate.place(loaded.variables, mesh)
    size, sharding = evaluation.eval_batch(config, mesh)
    transform = sources.make_transform(config, augment=False)
    known = probe.layers(loaded.task, variables, sources.abstract_batch(opened[0], transform, size, sharding))
    features = probe.make_features(loaded.task, arguments.layer, known)
    say = log.Log(None)
    splits = []
    for source in opened:
        with pipeline.eval_batches(source, transform, batch=size, sharding=sharding) as batches:
            tracked = say.track(batches, source.split, -(-len(source.records) // size))
            splits.append(probe.collect(features, variables, tracked))
    train, held_out = splits
    width = train.values.shape[1]
    kept = min(arguments.components or width, width, len(train.values))
    if kept < width:
        train, held_out, share = probe.reduced(train, held_out, kept, mesh)
        say.say(f"{arguments.layer}: {width} features → {kept} components, {100 * share:.1f} % of the variance")
    scores = probe.compare(train, held_out, config.seed)
    say.say(probe.table(arguments.layer, scores, len(train.labels), len(held_out.labels)))
    out = arguments.out or arguments.workdir / f"probe-{arguments.layer}.json"
    values = {"layer": arguments.layer, "features": width, "components": kept}
    values |= {"accuracy": {one.name: one.accuracy for one in scores}, "layers": {n: list(s) for n, s in known.items()}}
    workdir.write_json(out, values)
    say.say(f"written to {out}")
    return 0


def _opened(config: Any, data: str | None) -> tuple[Any, "list[Source]"]:
    """Open the train and the held-out split of the run's data, or of other data."""
    from mapjax.config import load as configs
    from mapjax.data.checks import quality
    from mapjax.runs import sources

    if data:
        config = configs.from_dict({**configs.to_dict(config), "data": configs.parse_data(data)})
    config, *opened = sources.open_sources(config)
    for source in opened:
        quality.require_trainable(source, quality.inspect(source, 0))
    return config, opened


def _parser() -> argparse.ArgumentParser:
    parser = terminal.parser("probe", __doc__ or "", EXAMPLES)
    parser.add_argument("--workdir", required=True, type=pathlib.Path, metavar="DIR", help="folder of a trained run")
    parser.add_argument("--layer", default="pool", metavar="NAME", help="whose features; 'pixels' for none (pool)")
    parser.add_argument("--components", type=int, default=64, metavar="K", help="principal components; 0: all (64)")
    parser.add_argument("--data", metavar="FORMAT:PATH", help="other data, its own classes (the run's)")
    parser.add_argument("--checkpoint", default="best", metavar="STEP", help="best (default), last or a step")
    terminal.add_trust(parser)
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help="where the scores go (WORKDIR/probe-LAYER.json)"
    )
    return parser
