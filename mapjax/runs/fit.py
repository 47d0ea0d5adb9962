"""Train what a config describes, evaluate it, and leave a folder to look at."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mapjax import paths
from mapjax.config import load as configs
from mapjax.data import pipeline, sampling
from mapjax.data.checks import map_quality, quality
from mapjax.data.source import Source
from mapjax.engine import evaluate as scoring
from mapjax.engine import schedule
from mapjax.engine import step as train
from mapjax.errors import UserError
from mapjax.runs import anomalies, score, setup
from mapjax.runtime import checkpoint, distributed, workdir
from mapjax.runtime import log as logs
from mapjax.runtime.signals import Stop
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Scalars, State, Task
from mapjax.weights import transfer


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is made of; fixed while it lasts."""

    config: Any
    folder: pathlib.Path
    mesh: Mesh
    sharding: NamedSharding
    seen: Source
    held_out: Source
    sampler: sampling.Sampler
    clock: schedule.Clock
    task: Task
    keeper: checkpoint.Checkpoints
    began: float
    code: str


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a run trains with: the compiled step, the state it starts from at `start`, the learning rate by step.

    flops: of the step by example, as the compiler counts them; None where it does not say.
    """

    step: train.Step
    state: State
    start: int
    rates: np.ndarray
    spent: "Spent"
    flops: float | None


@dataclasses.dataclass
class Spent:
    """What training took, over all sessions of a run; saved with every checkpoint.

    wall_s: everything; trained_s: in the loop, without evaluations; waited_s: of that, for input.
    unreadable: images met that could not be read, file → reason.
    skipped: steps left out because their loss or gradient was not finite.
    """

    wall_s: float = 0.0
    trained_s: float = 0.0
    waited_s: float = 0.0
    peak_rss_mb: float = 0.0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: int = 0


def fit(config: Any, folder: pathlib.Path, experiment: pathlib.Path | None = None) -> dict[str, Any]:
    """Train, evaluate and report; an unfinished run of the same config in `folder` is gone on with, exactly.

    Args:
      experiment: the file that the config is from; a part of the code that all processes must have in common.

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
    setup.require_sound(config, mesh)
    # As the first process sees it: only where all find nothing do all read what to start from.
    fresh = distributed.share("trained", str(workdir.is_trained(folder))) == str(False)
    given = None
    if config.get("init_from") and fresh:
        given = transfer.read(config.init_from)  # before anything slow: it may be misspelt
    config, seen, held_out = setup.open_sources(config)
    distributed.require_same("data", {"train data": seen.fingerprint, "eval data": held_out.fingerprint})
    summaries = _check_data(seen, held_out, config.transform.get("max_boxes", 0))
    chief = jax.process_index() == 0
    say = logs.Log(None, quiet=not chief).say
    sampler = setup.make_sampler(config, seen)
    clock = setup.make_clock(config, sampler.length)
    class_counts = functools.partial(setup.class_counts, config, seen, sampler)
    task = setup.make_task(config, seen.classes, class_counts, functools.partial(map_quality.pixel_counts, seen))
    say(quality.table(*summaries))
    if shared := quality.overlap(*summaries):
        say(f"warning: {shared}")
    if chief and (moved := workdir.open_for(folder, configs.to_dict(config), seen.classes)):
        say(f"the same experiment, placed otherwise: {moved}")
    if jax.process_count() > 1:
        distributed.require_seen(folder / "config.json")
    with contextlib.ExitStack() as stack:
        keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep)
        stack.callback(keeper.close)
        sharding = shard.batch_sharding(mesh, config.batch)
        this = Run(
            config, folder, mesh, sharding, seen, held_out, sampler, clock, task, keeper, began, workdir.code(sources)
        )
        trainer = _prepare(this, given, say)
        log = logs.Log(folder, start=trainer.start, quiet=not chief)
        stack.callback(log.close)
        return _train_and_finish(this, trainer, log)


def _facts(config: Any, mesh: Mesh, sources: dict[str, str]) -> dict[str, Any]:
    """List what all processes must have in common before they compute together."""
    environment = workdir.environment(mesh)
    values = {f"config.{key}": value for key, value in configs.flat_values(config)}
    where = {key: environment[key] for key in ("revision", "mesh", "devices")}
    return {**values, **environment["versions"], **sources, **where}


def _check_data(seen: Source, held_out: Source, max_boxes: int) -> list[Any]:
    """Summarize what the data holds, and stop where training could not work."""
    summaries = [quality.inspect(source, max_boxes) for source in (seen, held_out)]
    for source, summary in zip((seen, held_out), summaries):
        quality.require_trainable(source, summary)
    return summaries


def _prepare(this: Run, given: transfer.Given | None, say: Any) -> Trainer:
    """Compile the step, and make the state of step 0 (from given weights) or restore the last one saved."""
    config, task = this.config, this.task
    transforms = [transform for _, transform in setup.make_transforms(config, this.clock)]
    batches = [setup.abstract_batch(this.seen, transform, config.batch, this.sharding) for transform in transforms]
    batch = batches[-1]
    tx, rate, frozen = setup.make_optimizer(config, task, batch, this.clock)
    program = setup.make_program(config, task, tx, frozen, batch, this.mesh)
    restored = this.keeper.restore(program.like)
    state, meta = restored or (train.draw_state(program.init, batch, program.places), {})
    if restored:
        _require_same_data(this, int(state.step), meta["data"])
    elif given is not None:
        more = jax.eval_shape(setup.make_task(config, (*this.seen.classes, "one more")).init, jax.random.key(0), batch)
        sized = transfer.sized_by_classes({"params": state.params, "stats": state.stats}, more)
        rows, columns = config.image_size
        target = transfer.Target(this.seen.classes, (rows, columns), sized, program.places)
        state = transfer.start_from(given, state, target, say)
    say(f"{paths.count(program.like.params):,} parameters; compiling the train step …")
    began = time.perf_counter()
    compiled = {batch["image"].shape: program.compile(batch) for batch in batches}
    say(f"compiled, or found in the cache, in {time.perf_counter() - began:.1f} s")
    if restored:
        say(f"going on from step {int(state.step)} of {this.clock.total} in {this.folder}")
    rates = np.asarray(jax.jit(jax.vmap(rate))(np.arange(this.clock.total)))

    def one(state: State, batch: Batch) -> tuple[State, Scalars]:
        return compiled[batch["image"].shape](state, batch)

    counted = setup.flops(compiled[batch["image"].shape])
    # The body of a loop is counted once: of several micro-batches the first.
    flops = None if counted is None else counted * config.accumulate * this.mesh.size / config.batch
    return Trainer(one, state, int(state.step), rates, Spent(**meta.get("spent", {})), flops)


def _require_same_data(this: Run, step: int, saved: dict[str, Any]) -> None:
    """Refuse to go on with other training data: the order of the examples would silently be another."""
    if saved["fingerprint"] != this.seen.fingerprint:
        raise UserError(
            f"the training data {this.seen.name} has changed since step {step} of {this.folder} was saved; restore it "
            "to go on, or begin again with another --workdir."
        )


def _train_and_finish(this: Run, trainer: Trainer, log: logs.Log) -> dict[str, Any]:
    evaluation = setup.make_evaluation(this.config, this.task, this.held_out, this.mesh, log)
    best = this.task.metric(this.held_out).best
    found: dict[int, scoring.Evaluation] = {}

    def evaluate(state: State) -> dict[str, float]:
        step = int(state.step)
        found.clear()
        found[step] = evaluation(setup.trained_variables(state))
        log.record("eval", step, {"epoch": this.clock.epoch(step), **found[step].metrics})
        this.keeper.score(step, found[step].metrics[best])
        overall = {name: value for name, value in found[step].metrics.items() if "/" not in name and value != -1}
        log.say(f"step {step} on {this.held_out.split}: {logs.short(overall)}  ({found[step].seconds:.1f} s)")
        return {best: found[step].metrics[best]}

    if trainer.start >= this.clock.total:
        log.say(f"{this.folder} is finished ({trainer.start} steps); only evaluating")
        state, stopped = trainer.state, 0
        evaluate(state)
    else:
        state, stopped = _train(this, trainer, log, evaluate)
    this.keeper.wait()
    step, kept = int(state.step), max(this.keeper.steps(), default=0)
    if stopped:
        saved = f"saved at step {step}" if kept == step else f"step {step} could NOT be saved, the last is {kept}"
        log.say(f"{saved}; go on with the same command and --workdir {this.folder}")
        return {"stopped": stopped}
    return _finish(this, trainer, log, state, found[step])


def _train(this: Run, trainer: Trainer, log: logs.Log, evaluate: Any) -> tuple[State, int]:
    """Run the loop; give the state, and the signal that stopped it (0: none)."""
    config, clock, start, spent = this.config, this.clock, trainer.start, trainer.spent
    batches = pipeline.train_batches(
        this.seen, setup.make_transforms(config, clock), batch=config.batch, seed=config.seed, sampler=this.sampler,
        start=start, sharding=this.sharding, **config.input,
    )  # fmt: skip
    speed, total, before = logs.Speed(), clock.total, dataclasses.replace(spent)
    every = {name: clock.steps(config.every[name], f"every.{name}") for name in ("log", "evaluate", "save")}
    with (
        contextlib.closing(batches),
        Stop(together=distributed.joined()) as stop,
        log.bar("train", total, start) as bar,
    ):
        note: dict[str, str] = {"train": "", "eval": ""}
        began, paused = time.perf_counter(), [0.0]

        def tick(step: int) -> bool:
            bar.update(step, "  ".join(filter(None, note.values())))
            return stop.after(step)

        def write(step: int, means: dict[str, float]) -> None:
            values = {
                "epoch": clock.epoch(step),
                **means,
                # A step that is left out does not count for the schedule.
                "learning_rate": float(trainer.rates[max(step - 1 - spent.skipped, 0)]),
                **speed.measure(step, config.batch, batches.waited_s),
            }
            log.record("train", step, values)
            note["train"] = f"{values['examples_per_s']:.1f} images/s  {logs.short(means, ('loss',))}"
            if not logs.console.is_terminal:
                left = (total - step) * values["step_s"]
                log.say(f"step {step}/{total}  {logs.short(values)}  eta {left / 60:.1f} min")

        def judge(state: State) -> None:
            asked = time.perf_counter()
            note["eval"] = logs.short(evaluate(state))
            taken = time.perf_counter() - asked
            paused[0] += taken
            speed.pause(taken)

        def account() -> None:
            now = time.perf_counter()
            spent.wall_s = before.wall_s + now - this.began
            spent.trained_s = before.trained_s + now - began - paused[0]
            spent.waited_s = before.waited_s + batches.waited_s
            spent.peak_rss_mb = max(before.peak_rss_mb, workdir.peak_rss_mb())
            for part in scoring.gather({file: np.array(reason) for file, reason in batches.replaced.items()}):
                spent.unreadable |= {file: str(reason) for file, reason in part.items()}

        def save(state: State) -> None:
            account()
            data = {"fingerprint": this.seen.fingerprint, "batches": int(state.step), "batch": config.batch}
            this.keeper.save(state, meta={"spent": dataclasses.asdict(spent), "data": data})

        if start and train.Due(every["evaluate"], total)(start) and not this.keeper.is_scored(start):
            judge(trainer.state)  # the run was killed in this evaluation
        watchers = anomalies.make(this.seen, spent, setup.may_skip(config), log)
        speed.start(start, batches.waited_s)
        try:
            state, stopped = train.loop(
                trainer.step, trainer.state, batches, start=start, total=total,
                hooks=train.Hooks(tick, write, judge, save, *watchers),
                log=train.Due(every["log"], total), evaluate=train.Due(every["evaluate"], total),
                save=train.Due(every["save"], total),
            )  # fmt: skip
        except train.NonFinite as error:
            this.keeper.wait()
            raise UserError(anomalies.why(error, this.seen, spent.skipped, this.keeper.steps())) from error
        account()
        return state, (stop.signal or 0) if stopped else 0


def _finish(this: Run, trainer: Trainer, log: logs.Log, state: State, final: scoring.Evaluation) -> dict[str, Any]:
    """Write the results and the report."""
    path, spent = this.folder / "result.json", trainer.spent
    environment = {**workdir.environment(this.mesh), "code": this.code}
    # A finished run that is evaluated again keeps what its training took.
    took = {"wall_s": spent.wall_s, "peak_rss_mb": max(spent.peak_rss_mb, environment["peak_rss_mb"])}
    if trainer.start == this.clock.total and path.exists():
        before = workdir.read_json(path)
        took = {name: before.get(name, value) for name, value in took.items()}
    result = {
        "metrics": final.metrics,
        "steps": int(state.step),
        "epochs": this.clock.epoch(int(state.step)),
        "examples": int(state.step) * this.config.batch,
        "parameters": paths.count(state.params),
        "flops": trainer.flops,
        "eval_images": final.images,
        "eval_s": final.seconds,
        "examples_per_s": int(state.step) * this.config.batch / max(spent.trained_s, 1e-9),
        "input_wait": spent.waited_s / max(spent.trained_s, 1e-9),
        "unreadable": spent.unreadable,
        "skipped_steps": spent.skipped,
        "seed": this.config.seed,
        "data": {"train": score.described(this.seen), "eval": score.described(this.held_out)},
        "failed_saves": this.keeper.failed,
        **environment,
        **took,
    }
    if jax.process_index() == 0:
        history = logs.read(this.folder / "metrics.jsonl")
        score.write(
            this.folder, this.task, this.held_out, final.counts, result, this.config,
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
