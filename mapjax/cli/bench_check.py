"""What bench.py does beside timing: judge the device at hand, and keep what was measured."""

import importlib.util
import pathlib

import jax

from mapjax.check import feed, history, judge, speed, steps, tables
from mapjax.errors import UserError
from mapjax.runtime import log, workdir
from mapjax.sharding import mesh as shard


def check(out: pathlib.Path, rounds: int) -> tuple[dict[str, float], int]:
    """Judge the device; print the tables, and write check.json and check.html.

    Args:
      out: the folder for them.
      rounds: how often a step is timed.

    Returns:
      Images a second of each step, and the exit code: 1 where something is beyond its tolerance.

    Raises:
      UserError: the folder cannot be written, or JAX sees no CPU to compare with.
    """
    say = log.Log(None)
    large = jax.default_backend() != "cpu"
    kernels = list(say.track(judge.verdicts(large=large), "kernels", judge.count()))
    learnt = list(say.track(steps.verdicts(), "steps", len(steps.TASKS)))
    chosen = speed.workloads()
    timed = speed.speeds(chosen, _peer(), rounds=rounds)
    speeds = list(say.track(timed, "speed", len(chosen)))
    feeds = list(say.track(feed.rates(large=large, seconds=3.0 if large else 0.5), "input", 2))
    environment = workdir.environment(shard.make_mesh({"data": -1}))
    found = tables.Found(jax.devices()[0].device_kind, kernels, learnt, speeds, feeds, environment)
    say.say(tables.table(found))
    try:
        out.mkdir(parents=True, exist_ok=True)
        workdir.write_json(out / "check.json", tables.as_json(found))
        (out / "check.html").write_text(tables.page(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); name another folder.") from error
    say.say(f"look at {out / 'check.html'}; the figures are in {out / 'check.json'}")
    figures = {f"{one.name}, images/s": one.images for one in speeds}
    figures |= {f"input from {one.place}, images/s": one.images for one in feeds}
    return figures, 1 if found.wrong else 0


def _peer() -> speed.Peer | None:
    """Give torch.compile's steps, where torch is installed."""
    if not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        return None
    from mapjax.cli import bench_peers

    return bench_peers.compiled_step


def keep(path: pathlib.Path, figures: dict[str, float]) -> None:
    """Add what was measured to a history, say what became slower, and plot it beside the file."""
    lines = history.append(path, jax.devices()[0].device_kind, workdir.revision(), figures)
    for sentence in history.lost(lines):
        print(f"slower: {sentence}")
    drawn = path.with_suffix(".html")
    drawn.write_text(history.page(lines), encoding="utf-8")
    print(f"{len(lines)} measurements in {path}, drawn in {drawn}")
