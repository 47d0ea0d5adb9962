"""Training a run: the state it starts from, its compiled step, and the loop with what is said, judged and saved."""

import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from mapjax import paths
from mapjax.data import pipeline
from mapjax.engine import evaluate as scoring
from mapjax.engine import loop
from mapjax.engine import step as train
from mapjax.errors import UserError
from mapjax.runs import anomalies, networks, program
from mapjax.runs.setup import Setup
from mapjax.runtime import checkpoint, distributed, workdir
from mapjax.runtime import log as logs
from mapjax.runtime.signals import Stop
from mapjax.task import Batch, Scalars, State
from mapjax.weights import transfer


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is made of, the folder that it leaves, and when it began; fixed while it lasts."""

    setup: Setup
    folder: pathlib.Path
    keeper: checkpoint.Checkpoints
    began: float
    code: str


@dataclasses.dataclass
class Spent:
    """What training took, over all sessions of a run; saved with every checkpoint.

    wall_s: everything.
    trained_s: in the loop, without evaluations.
    waited_s: of that, for input.
    unreadable: images met that could not be read, file → reason.
    skipped: steps left out because their loss or gradient was not finite.
    """

    wall_s: float = 0.0
    trained_s: float = 0.0
    waited_s: float = 0.0
    peak_rss_mb: float = 0.0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: int = 0


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


def prepare(this: Run, given: transfer.Given | None, say: Any) -> Trainer:
    """Compile the step, and make the state of step 0 (from given weights) or restore the last one saved."""
    setup, made = this.setup, this.setup.program
    config, batches = setup.config, setup.batches
    batch = batches[-1]
    restored = this.keeper.restore(made.like)
    state, meta = restored or (train.draw_state(made.init, batch, made.places), {})
    if restored:
        _require_same_data(this, int(state.step), meta["data"], say)
    elif given is not None:
        state = transfer.start_from(given, state, _target(setup), say)
    say(f"{paths.count(made.like.params):,} parameters; compiling the train step …")
    began = time.perf_counter()
    compiled = {batch["image"].shape: made.compile(batch) for batch in batches}
    say(f"compiled, or found in the cache, in {time.perf_counter() - began:.1f} s")
    if restored:
        say(f"going on from step {int(state.step)} of {setup.clock.total} in {this.folder}")
    rates = np.asarray(jax.jit(jax.vmap(setup.rate))(np.arange(setup.clock.total)))

    def one(state: State, batch: Batch) -> tuple[State, Scalars]:
        return compiled[batch["image"].shape](state, batch)

    counted = program.flops(compiled[batch["image"].shape])
    # The body of a loop is counted once: of several micro-batches the first.
    flops = None if counted is None else counted * config.accumulate * setup.mesh.size / config.batch
    return Trainer(one, state, int(state.step), rates, Spent(**meta.get("spent", {})), flops)


def _target(setup: Setup) -> transfer.Target:
    """Describe the network to those weights that it may start from."""
    classes = setup.train.classes
    one_more = networks.make_task(setup.config, (*classes, "one more"))
    more = jax.eval_shape(one_more.init, jax.random.key(0), setup.batches[-1])
    like = setup.program.like
    sized = transfer.sized_by_classes({"params": like.params, "stats": like.stats}, more)
    rows, columns = setup.config.image_size
    return transfer.Target(classes, (rows, columns), setup.model.heads, sized, setup.program.places)


def _require_same_data(this: Run, step: int, saved: dict[str, Any], say: Any) -> None:
    """Refuse to go on with other training data: the order of the examples would silently be another."""
    now = fingerprints(this.setup)
    if saved["fingerprint"] != now["fingerprint"]:
        raise UserError(
            f"the training data {this.setup.train.name} has changed since step {step} of {this.folder} was saved; "
            "restore it to go on, or begin again with another --workdir."
        )
    if saved.get("eval", now["eval"]) != now["eval"]:  # 0.1 did not save it
        say(
            f"warning: the held-out data {this.setup.held_out.name} has changed since step {step} of {this.folder}: "
            "scores before and after that are of other images"
        )


def fingerprints(setup: Setup) -> dict[str, str]:
    """Give the fingerprint of all that is learned from, and "eval", of what is scored."""
    learned = (setup.train, *(one.source for one in setup.streams))
    return {"fingerprint": "+".join(source.fingerprint for source in learned), "eval": setup.held_out.fingerprint}


def run(this: Run, trainer: Trainer, log: logs.Log, evaluate: Any) -> tuple[State, int]:
    """Run the loop; give the state, and the signal that stopped it (0: none)."""
    config, clock, start, spent = this.setup.config, this.setup.clock, trainer.start, trainer.spent
    batches = pipeline.train_batches(
        this.setup.train, this.setup.transforms, batch=config.batch, seed=config.seed, sampler=this.setup.sampler,
        further=this.setup.streams, start=start, sharding=this.setup.sharding, **config.input,
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
            data = {**fingerprints(this.setup), "batches": int(state.step), "batch": config.batch}
            this.keeper.save(state, meta={"spent": dataclasses.asdict(spent), "data": data})

        if start and loop.Due(every["evaluate"], total)(start) and not this.keeper.is_scored(start):
            judge(trainer.state)  # the run was killed in this evaluation
        watchers = anomalies.make(this.setup.train, spent, program.may_skip(config), log)
        speed.start(start, batches.waited_s)
        try:
            state, stopped = loop.train(
                trainer.step, trainer.state, batches, start=start, total=total,
                hooks=loop.Hooks(tick, write, judge, save, *watchers),
                log=loop.Due(every["log"], total), evaluate=loop.Due(every["evaluate"], total),
                save=loop.Due(every["save"], total),
            )  # fmt: skip
        except loop.NonFinite as error:
            this.keeper.wait()
            raise UserError(anomalies.why(error, this.setup.train, spent.skipped, this.keeper.steps())) from error
        account()
        return state, (stop.signal or 0) if stopped else 0
