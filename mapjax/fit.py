"""Train what a config describes, evaluate it, and leave a folder to look at."""

import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from mapjax import checkpoint, run, schedule, score, shard, train, tree, workdir
from mapjax import config as configs
from mapjax import log as logs
from mapjax.data import pipeline, quality
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.stop import Stop
from mapjax.task import Batch, State, Task


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is made of; fixed while it lasts."""

    config: ConfigDict
    folder: pathlib.Path
    mesh: Mesh
    sharding: NamedSharding
    seen: Source
    held_out: Source
    clock: schedule.Clock
    task: Task
    keeper: checkpoint.Checkpoints
    began: float


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a run trains with: the compiled step, the state it starts from at `start`, the seconds spent before."""

    step: train.Step
    state: State
    start: int
    rate: optax.Schedule
    spent_s: float


def fit(config: ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
    """Train, evaluate and report; an unfinished run of the same config in `folder` is gone on with, exactly.

    Returns:
      What result.json holds; {"stopped": signal number} when a signal stopped the run (it is saved then).

    Raises:
      UserError: something that the user can mend.
    """
    began = time.perf_counter()
    mesh = shard.make_mesh(config.mesh.to_dict())
    sharding = shard.batch_sharding(mesh, config.batch)
    seen, held_out = _open_sources(config)
    chief = jax.process_index() == 0
    say = logs.Log(None, quiet=not chief).say
    say(quality.table(*(quality.inspect(one, config.transform.get("max_boxes", 0)) for one in (seen, held_out))))
    clock = schedule.Clock(config.batch, len(seen.records))
    clock = clock._replace(total=clock.steps(config.duration, "duration"))
    task = run.make_task(config, seen.classes)
    if chief:
        workdir.open_for(folder, configs.to_dict(config), seen.classes)
    with contextlib.ExitStack() as stack:
        keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep)
        stack.callback(keeper.close)
        this = Run(config, folder, mesh, sharding, seen, held_out, clock, task, keeper, began)
        trainer = _prepare(this, say)
        log = logs.Log(folder, start=trainer.start, quiet=not chief)
        stack.callback(log.close)
        return _train_and_finish(this, trainer, log)


def _open_sources(config: ConfigDict) -> tuple[Source, Source]:
    seen, held_out = run.make_source(config, "train"), run.make_source(config, "eval")
    if seen.classes != held_out.classes:
        raise UserError(
            f"{seen.name}: split {seen.split!r} has the classes {', '.join(seen.classes)}, and split "
            f"{held_out.split!r} has {', '.join(held_out.classes)}; they must be the same."
        )
    quality.require_trainable(seen)
    quality.require_trainable(held_out)
    return seen, held_out


def _prepare(this: Run, say: Any) -> Trainer:
    """Compile the step, and make the state of step 0 or restore the last one saved."""
    config, task = this.config, this.task
    transform = run.make_transform(config, augment=True)
    batch = run.abstract_batch(this.seen, transform, config.batch, this.sharding)
    tx, rate, frozen = run.make_optimizer(config, task, batch, this.clock)

    def init(batch: Batch) -> State:
        return train.init_state(task, tx, batch, seed=config.seed, ema=config.ema)

    shapes = jax.eval_shape(init, batch)
    places = shard.placement(shapes, this.mesh)
    like = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)
    restored = this.keeper.restore(like)
    state, meta = restored or (train.draw_state(init, batch, places), {})
    step = train.make_step(
        task, tx, seed=config.seed, frozen=frozen, accumulate=config.accumulate, ema=config.ema
    )  # fmt: skip
    say(f"{tree.count(shapes.params):,} parameters; compiling the train step …")
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(places, None)).lower(like, batch).compile()
    say(f"compiled in {time.perf_counter() - began:.1f} s (kept: the next start is quicker)")
    if restored:
        say(f"going on from step {int(state.step)} of {this.clock.total} in {this.folder}")
    return Trainer(compiled, state, int(state.step), rate, float(meta.get("spent_s", 0.0)))


def _train_and_finish(this: Run, trainer: Trainer, log: logs.Log) -> dict[str, Any]:
    evaluation = run.make_evaluation(this.config, this.task, this.held_out, this.mesh, log)
    found: dict[int, run.Evaluation] = {}

    def evaluate(state: State) -> dict[str, float]:
        step = int(state.step)
        found.clear()
        found[step] = evaluation(run.trained_variables(state))
        log.record("eval", step, {"epoch": this.clock.epoch(step), **found[step].metrics})
        overall = {name: value for name, value in found[step].metrics.items() if "/" not in name}
        log.say(f"step {step} on {this.held_out.split}: {logs.short(overall)}  ({found[step].seconds:.1f} s)")
        return found[step].metrics

    if trainer.start >= this.clock.total:
        log.say(f"{this.folder} is finished ({trainer.start} steps); only evaluating")
        state, waited, trained_s = trainer.state, 0.0, 0.0
        evaluate(state)
    else:
        state, stopped, waited, trained_s = _train(this, trainer, log, evaluate)
        if stopped:
            log.say(f"saved at step {int(state.step)}; go on with the same command and --workdir {this.folder}")
            return {"stopped": stopped}
    this.keeper.wait()
    return _finish(this, trainer, log, state, found[int(state.step)], waited / max(trained_s, 1e-9))


def _train(this: Run, trainer: Trainer, log: logs.Log, evaluate: Any) -> tuple[State, int, float, float]:
    """Run the loop; give the state, the signal that stopped it (0: none), seconds waited for input, and seconds."""
    config, clock, start = this.config, this.clock, trainer.start
    transform = run.make_transform(config, augment=True)
    batches = pipeline.train_batches(
        this.seen, transform, batch=config.batch, seed=config.seed, start=start, sharding=this.sharding, **config.input
    )
    speed, total = logs.Speed(), clock.total
    every = {name: clock.steps(config.every[name], f"every.{name}") for name in ("log", "evaluate", "save")}
    with contextlib.closing(batches), Stop() as stop, log.bar("train", total, start) as bar:
        best = this.task.metric(this.held_out).best
        note: dict[str, str] = {"train": "", "eval": ""}

        def tick(step: int) -> bool:
            bar.update(step, "  ".join(filter(None, note.values())))
            return bool(stop)

        def write(step: int, means: dict[str, float]) -> None:
            values = {
                "epoch": clock.epoch(step),
                **means,
                "learning_rate": float(np.asarray(trainer.rate(step - 1))),
                **speed.measure(step, config.batch, batches.waited_s),
            }
            log.record("train", step, values)
            note["train"] = f"{values['examples_per_s']:.1f} images/s  {logs.short(means, ('loss',))}"
            if not logs.console.is_terminal:
                left = (total - step) * values["step_s"]
                log.say(f"step {step}/{total}  {logs.short(values)}  eta {left / 60:.1f} min")

        def judge(state: State) -> dict[str, float]:
            metrics = evaluate(state)
            note["eval"] = logs.short(metrics, [best])
            return metrics

        def save(state: State, metrics: dict[str, float] | None) -> None:
            meta = {
                "spent_s": trainer.spent_s + time.perf_counter() - this.began,
                "data": {"seed": config.seed, "batches": int(state.step), "batch": config.batch},
            }
            this.keeper.save(state, meta=meta, score=metrics[best] if metrics else None)

        began = time.perf_counter()
        speed.start(start, batches.waited_s)
        try:
            state, stopped = train.loop(
                trainer.step, trainer.state, batches, start=start,
                hooks=train.Hooks(tick, write, judge, save),
                log=train.Due(every["log"], total), evaluate=train.Due(every["evaluate"], total),
                save=train.Due(every["save"], total),
            )  # fmt: skip
        except train.NonFinite as error:
            raise UserError(_non_finite(this, error)) from error
        _report_replaced(batches.replaced, log)
        return state, (stop.signal or 0) if stopped else 0, batches.waited_s, time.perf_counter() - began


def _non_finite(this: Run, error: train.NonFinite) -> str:
    files = [this.seen.records[i]["file"] for i in error.indices]
    this.keeper.wait()
    good = max(this.keeper.steps(), default=None)
    kept = f"the checkpoint of step {good} is untouched" if good else "no checkpoint was saved before"
    return (
        f"step {error.step}: the loss is not finite ({logs.short(error.scalars)}) on the images {', '.join(files)}; "
        f"{kept}. Lower optimizer.learning_rate, lengthen schedule.warmup or set optimizer.clip."
    )


def _report_replaced(replaced: dict[str, str], log: logs.Log) -> None:
    if replaced:
        some = "; ".join(f"{file} ({reason})" for file, reason in list(replaced.items())[:3])
        log.say(f"{len(replaced)} unreadable image(s) were replaced by others: {some}")


def _finish(
    this: Run, trainer: Trainer, log: logs.Log, state: State, final: run.Evaluation, input_wait: float
) -> dict[str, Any]:
    """Write the results and the report."""
    path = this.folder / "result.json"
    # A finished run that is evaluated again keeps what its training took.
    before = workdir.read_json(path) if trainer.start == this.clock.total and path.exists() else {}
    kept = {name: before[name] for name in ("wall_s", "input_wait", "peak_rss_mb") if name in before}
    result = {
        "metrics": final.metrics,
        "steps": int(state.step),
        "epochs": this.clock.epoch(int(state.step)),
        "examples": int(state.step) * this.config.batch,
        "parameters": tree.count(state.params),
        "eval_images": len(this.held_out.records),
        "eval_s": final.seconds,
        "wall_s": trainer.spent_s + time.perf_counter() - this.began,
        "input_wait": input_wait,
        "seed": this.config.seed,
        "data": {"train": score.described(this.seen), "eval": score.described(this.held_out)},
        "failed_saves": this.keeper.failed,
        **workdir.environment(this.mesh),
        **kept,
    }
    if jax.process_index() == 0:
        history = logs.read(this.folder / "metrics.jsonl")
        score.write(
            this.folder, this.task, this.held_out, final.counts, result, this.config,
            title=this.folder.name, history=history,
        )  # fmt: skip
        log.say(f"look at {this.folder / 'report.html'}; the figures are in {path}")
    return result
