"""Checkpoints: the whole state, saved while training goes on, kept by age and by score.

Orbax writes each step into a folder of its own and renames it when it is whole, so a killed run never leaves
a half-written step under a step's name. What is broken nevertheless (a cut disk, a truncated copy) is named,
set aside as `STEP.broken`, and the one before it is used.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mapjax.errors import UserError
from mapjax.task import State, Variables

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they are.
      keep: how many of the last are kept besides the best.
      read_only: only restore.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2, read_only: bool = False):
        self.folder = folder.resolve()
        self.failed: list[str] = []
        policy = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=keep),
                policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        # Steps that could not be finished are cleaned up at the next start.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=_score, cleanup_tmp_directories=not read_only, read_only=read_only
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """List the steps that are saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Give the step with the best score, or the last one where none was scored."""
        metrics = {step: self._manager.metrics(step) for step in self.steps()}
        scores = {step: _score(found) for step, found in metrics.items() if found}
        return max(scores, key=lambda step: (scores[step], step)) if scores else max(metrics, default=None)

    def save(self, state: State, *, meta: dict[str, Any], score: float | None = None) -> bool:
        """Start saving; training goes on while the files are written. The highest score keeps its checkpoint.

        A save that fails (a full disk) is reported and counted in `failed`; what was saved before stays.
        """
        step = int(state.step)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta))
        if not self.wait() and step in self.steps():
            return True
        if step in self.steps():
            return True
        try:
            metrics = None if score is None else {"score": score}
            return self._manager.save(step, args=items, metrics=metrics, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            return self._report(error)

    def wait(self) -> bool:
        """Wait until everything is on disk; False when the last save failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            return self._report(error)
        return True

    def restore(self, like: State, step: int | None = None) -> tuple[State, dict[str, Any]] | None:
        """Restore the last whole checkpoint (or `step`), placed as `like`, a State of ShapeDtypeStructs.

        Returns:
          The state and the `meta` it was saved with; None where there is no checkpoint.

        Raises:
          UserError: there are checkpoints, and none of them can be read.
        """
        wanted = [step] if step is not None else self.steps()[::-1]
        for candidate in wanted:
            try:
                items = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), meta=ocp.args.JsonRestore())
                found = self._manager.restore(candidate, args=items)
                return State(**found["state"]), dict(found["meta"])
            except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged folder
                self._set_aside(candidate, error)
        if wanted:
            raise UserError(
                f"none of the checkpoints in {self.folder} can be read (they are set aside as STEP.broken); "
                "start again with another --workdir."
            )
        return None

    def restore_variables(self, step: int) -> Variables:
        """Restore the parameters (averaged where they are) and statistics of a step onto the first device.

        Raises:
          UserError: that checkpoint cannot be read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        try:
            shapes = self._manager.item_metadata(step)["state"]
            like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
            found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
        except Exception as error:  # as in restore
            raise UserError(f"checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}).") from error
        average = found.get("ema")
        return {"params": found["params"] if average is None else average, "stats": found.get("stats") or {}}

    def close(self) -> None:
        """Wait for the last save, and release the folder."""
        self.wait()
        self._manager.close()

    def _report(self, error: Exception) -> bool:
        reason = _first_line(error)
        self.failed.append(reason)
        logger.error("could not save a checkpoint to %s (%s); earlier ones stay, training goes on", self.folder, reason)
        return False

    def _set_aside(self, step: int, error: Exception) -> None:
        logger.warning(
            "checkpoint %s cannot be read (%s); it is set aside and the one before it used", step, _first_line(error)
        )
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / f"{step}.broken")
        self._manager.reload()


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
