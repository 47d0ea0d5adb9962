"""What training tells of steps that go wrong: a loss that is not finite, and one that is far above the others."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from mapjax.data.source import Source, name_of
from mapjax.engine import loop
from mapjax.runtime import log as logs


@runtime_checkable
class Counts(Protocol):
    """What is saved with every checkpoint, so that a run that goes on counts on."""

    skipped: int


def make(
    seen: Source, counts: Counts, allowed: int, log: logs.Log
) -> tuple[Callable[[loop.NonFinite], None], Callable[[loop.Spike], None]]:
    """Make the hooks `non_finite` and `spike` of the loop.

    Both leave a line with the files of the batch in metrics.jsonl, of the kinds "skipped" and "spike".

    Args:
      seen: the training data.
      counts: its `skipped` is counted up.
      allowed: how many steps may be left out before `non_finite` raises what it is given.
      log: where it is said; every step left out, but only the first spike.
    """
    spikes: list[int] = []

    def non_finite(found: loop.NonFinite) -> None:
        if counts.skipped >= allowed:
            raise found
        counts.skipped += 1
        files = _files(seen, found.indices)
        # JSON has no word for what is not finite, so the scalars are text here.
        log.record("skipped", found.step, {name: str(v) for name, v in found.scalars.items()} | {"files": files})
        log.say(
            f"step {found.step}: not finite ({logs.short(found.scalars)}) on the images {', '.join(files)}; left out, "
            f"{counts.skipped} of at most {allowed}"
        )

    def spike(found: loop.Spike) -> None:
        files = _files(seen, found.indices)
        log.record("spike", found.step, {"loss": found.loss, "median": found.median, "files": files})
        if not spikes:
            log.say(
                f"step {found.step}: the loss {found.loss:.4g} is far above the median {found.median:.4g}, on the "
                f"images {', '.join(files)}; more of this kind are noted in metrics.jsonl only"
            )
        spikes.append(found.step)

    return non_finite, spike


def why(error: loop.NonFinite, seen: Source, skipped: int, saved: Sequence[int]) -> str:
    """Say in one sentence why training stopped at a step that is not finite, and what helps.

    Args:
      skipped: how many such steps were left out before.
      saved: the steps of the checkpoints that are there.
    """
    kept = f"the checkpoint of step {max(saved)} is untouched" if saved else "no checkpoint was saved before"
    before = f", and {skipped} such steps were left out before, as many as skip_non_finite allows" if skipped else ""
    return (
        f"step {error.step}: the loss is not finite ({logs.short(error.scalars)}) on the images "
        f"{', '.join(_files(seen, error.indices))}{before}; {kept}. "
        "Lower optimizer.learning_rate, lengthen schedule.warmup or set optimizer.clip."
    )


def _files(seen: Source, indices: Sequence[int]) -> list[str]:
    return [name_of(seen, index) for index in indices]
