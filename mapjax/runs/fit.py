"""Train what a config describes, evaluate it, and leave a folder to look at."""

import contextlib
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh

from mapjax import paths
from mapjax.config import foreign, keys
from mapjax.config import load as configs
from mapjax.data import skeletons
from mapjax.data.checks import quality
from mapjax.data.source import Source
from mapjax.engine import evaluate as scoring
from mapjax.errors import UserError
from mapjax.runs import evaluation, score, training
from mapjax.runs import given as givens
from mapjax.runs import held_out as shares
from mapjax.runs import setup as setups
from mapjax.runs import sources as data
from mapjax.runs.training import Run, Spent, Trainer
from mapjax.runtime import checkpoint, distributed, workdir
from mapjax.runtime import log as logs
from mapjax.sharding import mesh as shard
from mapjax.task import State


def fit(
    config: Any, folder: pathlib.Path, experiment: pathlib.Path | None = None, *, trust: bool = False
) -> dict[str, Any]:
    """Train, evaluate and report; an unfinished run of the same config in `folder` is gone on with, exactly.

    Args:
      experiment: the file that the config is from; a part of the code that all processes must have in common.
      trust: a run to start from may name modules that are not mapjax's own, and not the config's; their code is run.

    Returns:
      What result.json holds; {"stopped": signal number} when a signal stopped the run (it is saved then).

    Raises:
      UserError: something that the user can mend.
    """
    began = time.perf_counter()
    mesh = shard.make_mesh(config.mesh.to_dict())
    sources = workdir.sources(experiment)
    if jax.process_count() > 1:
        distributed.require_same("config", _facts(config, mesh, sources))
    setups.require_sound(config, mesh)
    # As the first process sees it: only where all find nothing do all read what to start from.
    fresh = distributed.share("trained", str(workdir.is_trained(folder))) == str(False)
    given, own = None, trust or foreign.named_in(configs.to_dict(config)).values()
    if config.init_from and fresh:
        given = givens.read(config.init_from, own)  # before anything slow: it may be misspelt
    opened = data.open_sources(config)
    chosen, seen, held_out = opened
    distributed.require_same("data", {"train data": seen.fingerprint, "eval data": held_out.fingerprint})
    summaries = _check_data(chosen, seen, held_out)
    setup = setups.build(config, mesh=mesh, opened=opened)
    further = {f"streams.{one.name}": one.source.fingerprint for one in setup.streams}
    if further:
        distributed.require_same("streams", further)
    chief = jax.process_index() == 0
    say = logs.Log(None, quiet=not chief).say
    say(quality.table(*summaries))
    if shared := quality.overlap(*summaries):
        say(f"warning: {shared}")
    if told := shares.warning(chosen, summaries[0], summaries[1], held_out):
        say(f"warning: {told}")
    with contextlib.ExitStack() as stack:
        moved = ""
        if chief:
            stack.enter_context(workdir.alone(folder))
            points = skeletons.written(skeletons.Points(seen.keypoints, seen.skeleton)) if seen.keypoints else None
            if moved := workdir.open_for(folder, configs.to_dict(setup.config), seen.classes, points):
                say(f"the same experiment, placed otherwise: {moved}")
        if jax.process_count() > 1:
            distributed.require_seen(folder / "config.json")
        keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep)
        stack.callback(keeper.close)
        this = Run(setup, folder, keeper, began, workdir.code(sources))
        trainer = training.prepare(this, given, say)
        if moved:
            workdir.move(folder, configs.to_dict(setup.config))
        log = logs.Log(folder, start=trainer.start, quiet=not chief)
        stack.callback(log.close)
        return _train_and_finish(this, trainer, log)


def _facts(config: Any, mesh: Mesh, sources: dict[str, str]) -> dict[str, Any]:
    """List what all processes must have in common before they compute together."""
    environment = workdir.environment(mesh)
    values = {f"config.{key}": value for key, value in keys.flat_values(config)}
    where = {key: environment[key] for key in ("revision", "mesh", "devices")}
    return {**values, **environment["versions"], **sources, **where}


def _check_data(config: Any, seen: Source, held_out: Source) -> list[Any]:
    """Summarize what the data holds, and stop where training could not work."""
    max_boxes = config.transform.get("max_boxes", 0)
    summaries = [quality.inspect(source, max_boxes) for source in (seen, held_out)]
    quality.require_trainable(seen, summaries[0])
    with shares.explained(config):
        quality.require_trainable(held_out, summaries[1])
    return summaries


def _train_and_finish(this: Run, trainer: Trainer, log: logs.Log) -> dict[str, Any]:
    setup, best = this.setup, this.setup.metric.best
    like = evaluation.trained_variables(setup.program.like)
    answer = evaluation.make_evaluation(setup.config, setup.task, setup.metric, setup.held_out, setup.mesh, log, like)
    found: dict[int, scoring.Evaluation] = {}

    def evaluate(state: State) -> dict[str, float]:
        step = int(state.step)
        found.clear()
        found[step] = answer(evaluation.trained_variables(state))
        if best not in found[step].metrics:
            raise UserError(
                f"metrics: {best!r}, by which the best checkpoint is chosen, is none of the scores that were given: "
                f"{', '.join(found[step].metrics)}; mend `best` of the metric."
            )
        log.record("eval", step, {"epoch": setup.clock.epoch(step), **found[step].metrics})
        this.keeper.score(step, found[step].metrics[best])
        overall = {name: value for name, value in found[step].metrics.items() if "/" not in name and value != -1}
        log.say(f"step {step} on {setup.held_out.split}: {logs.short(overall)}  ({found[step].seconds:.1f} s)")
        return {best: found[step].metrics[best]}

    if trainer.start >= setup.clock.total:
        log.say(f"{this.folder} is finished ({trainer.start} steps); only evaluating")
        state, stopped = trainer.state, 0
        evaluate(state)
    else:
        state, stopped = training.run(this, trainer, log, evaluate)
    this.keeper.wait()
    step, kept = int(state.step), max(this.keeper.steps(), default=0)
    if stopped:
        saved = f"saved at step {step}" if kept == step else f"step {step} could NOT be saved, the last is {kept}"
        log.say(f"{saved}; go on with the same command and --workdir {this.folder}")
        return {"stopped": stopped}
    return _finish(this, trainer, log, state, found[step])


def _finish(this: Run, trainer: Trainer, log: logs.Log, state: State, final: scoring.Evaluation) -> dict[str, Any]:
    """Write the results and the report."""
    setup, path, spent = this.setup, this.folder / "result.json", trainer.spent
    environment = {**workdir.environment(setup.mesh), "code": this.code}
    # A finished run that is evaluated again keeps what its training took.
    took = {"wall_s": spent.wall_s, "peak_rss_mb": max(spent.peak_rss_mb, environment["peak_rss_mb"])}
    if trainer.start == setup.clock.total and path.exists():
        with contextlib.suppress(UserError, AttributeError):  # of a damaged one nothing is kept
            before = workdir.read_json(path)
            took = {name: before.get(name, value) for name, value in took.items()}
    result = {
        "metrics": final.metrics,
        "steps": int(state.step),
        "epochs": setup.clock.epoch(int(state.step)),
        "examples": int(state.step) * setup.config.batch,
        "parameters": paths.count(state.params),
        "flops": trainer.flops,
        "eval_images": final.images,
        "eval_s": final.seconds,
        "examples_per_s": int(state.step) * setup.config.batch / max(spent.trained_s, 1e-9),
        "input_wait": spent.waited_s / max(spent.trained_s, 1e-9),
        "unreadable": spent.unreadable,
        "skipped_steps": spent.skipped,
        "seed": setup.config.seed,
        "data": {"train": score.described(setup.train), "eval": score.described(setup.held_out)},
        "failed_saves": this.keeper.failed,
        **environment,
        **took,
    }
    if jax.process_index() == 0:
        history = logs.read(this.folder / "metrics.jsonl")
        score.write(
            this.folder, setup.metric, setup.held_out, final.counts, result, setup.config,
            title=this.folder.name, history=history,
        )  # fmt: skip
        _say_what_was_lost(this, spent, log)
        log.say(f"look at {this.folder / 'report.html'}; the figures are in {path}")
    return result


def _say_what_was_lost(this: Run, spent: Spent, log: logs.Log) -> None:
    if spent.unreadable:
        some = "; ".join(list(spent.unreadable.values())[:3])
        log.say(f"{len(spent.unreadable)} unreadable image(s) were replaced by others: {some}")
    if this.keeper.failed:
        last = max(this.keeper.steps(), default=0)
        log.say(f"{len(this.keeper.failed)} checkpoints could not be saved; the last one is of step {last}")
