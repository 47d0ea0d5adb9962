"""What checkpoint.py adds to Orbax's manager: nobody told of its steps, the best of them kept, folders made at once."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

ERRORS = 100  # of one save that are heard at most

# Whoever loads a run only reads its checkpoints: no warning is due.
logging.getLogger("absl").addFilter(lambda record: "Given directory is read only" not in str(record.msg))


class Manager(ocp.CheckpointManager):
    """Orbax's, which would tell JAX the steps that it saves: JAX takes the last number that it was told for how far
    this process has come, and only `stop.Stop` counts that."""

    def settle(self) -> None:
        """Wait until nothing goes on of a save that failed; Orbax raises its errors one at a time, some of them only
        when its threads end, and what is not heard now it would raise in a save to come."""
        for _ in range(ERRORS):
            try:
                self._non_blocking_metadata_store.wait_until_finished()
                self._wait_for_checkpointers()
                break
            except (OSError, ValueError, RuntimeError):
                continue

    def reached_preemption(self, step: int) -> bool:
        """Say that nobody asks to leave; that is heard elsewhere."""
        del step
        return False


@dataclasses.dataclass
class Best(policies.PreservationPolicy):
    """Keeps the checkpoint of the step with the highest score, which may become known after it was saved."""

    scores: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: policies.PreservationContext) -> Sequence[bool]:
        """Say which of the checkpoints are kept."""
        del context
        best = best_of(self.scores, [one.step for one in checkpoints])
        return [one.step == best for one in checkpoints]


def async_options(written: Callable[[], None]) -> ocp.AsyncOptions:
    """Write files while training goes on, but make the folders before: where they cannot be made, Orbax's threads would
    wait twenty minutes for them, also at the end of the program."""
    return ocp.AsyncOptions(post_finalization_callback=written, create_directories_asynchronously=False)


def best_of(scores: Mapping[int, float], steps: Sequence[int]) -> int | None:
    """Give the step with the highest score, the last of equals; None where none of them was scored."""
    return max((step for step in steps if step in scores), key=lambda step: (scores[step], step), default=None)
