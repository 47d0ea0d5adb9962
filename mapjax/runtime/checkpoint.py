"""Checkpoints: the whole state, saved while training goes on, kept by age and by score.

Orbax writes each step into a folder of its own and renames it when it is whole, so a killed run never leaves
a half-written step under a step's name; the checksums of its files (checksum.py) are written before the renaming.
What is broken nevertheless (a cut disk, a flipped bit) is named, set aside as `STEP.broken`, and the one before it
is used. How good each step is stands in scores.json.

Of several processes the first looks into the folder and says what is there, damaged or saved already: each by itself
could see something else, on a file system that is slow to tell, and they would wait for each other.
"""

import errno
import itertools
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mapjax import paths
from mapjax.errors import UserError
from mapjax.runtime import checksum, distributed, managed, names, workdir
from mapjax.task import State, Variables

SCORES = "scores.json"  # {step: score}
UNFINISHED = ".orbax-checkpoint-tmp"  # after the name of a step that is being written
TIMES = "_CHECKPOINT_METADATA"  # of a save; Orbax writes the last of them after the checksums
# What the words of a failed save are looked through for; around it there are whole paragraphs.
REASONS = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)]
SLOW_S = 5.0  # training that waits longer than this for the save before is told
READ_S = 600.0  # for all processes to have read a checkpoint, where one of them could not
PROBE = 1 << 16  # bytes that must find room before several processes begin a save

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
        names.require_text(self.folder, "--workdir")
        self.failed: list[str] = []
        self.waited_s = 0.0  # that training waited for files to be written
        self._told_slow = False
        self._scores = _read_scores(self.folder / SCORES)
        if not read_only:  # whether a step was scored decides what all processes do next
            self._scores = {int(step): score for step, score in _first_says(self._scores).items()}
        policy = policies.AnyPreservationPolicy([policies.LatestN(n=keep), managed.Best(self._scores)])
        # Steps that could not be finished are cleaned up at the next start. Orbax calls `_sum` when all files of a step
        # are written, before it renames the folder.
        writing = {"cleanup_tmp_directories": True, "async_options": managed.async_options(self._sum)}
        reading = {"read_only": True, "create": False, "save_interval_steps": 0}  # else Orbax says that it sets them
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, **(reading if read_only else writing))
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = managed.Manager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """List the steps that are saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Give the step with the best score, or the last one where none was scored."""
        steps = self.steps()
        return managed.best_of(self._scores, steps) or max(steps, default=None)

    def score(self, step: int, value: float) -> None:
        """Note how good a step is; of all that are noted, the one with the highest value keeps its checkpoint."""
        self._scores[step] = value
        if jax.process_index() == 0:
            try:
                workdir.write_json(self.folder / SCORES, {str(step): score for step, score in self._scores.items()})
            except OSError as error:
                self._report(error)

    def is_scored(self, step: int) -> bool:
        """Say whether it is known how good a step is."""
        return step in self._scores

    def save(self, state: State, *, meta: dict[str, Any]) -> bool:
        """Start saving; training goes on while the files are written, and waits only for the save before this one.

        A save that fails (a full disk) is reported and counted in `failed`; what was saved before stays.
        """
        step = int(state.step)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta))
        self._wait_for_the_one_before()
        if _first_says(step in self.steps()):
            return True
        if distributed.joined() and (refusal := _first_says(self._refusal(state) if distributed.is_chief() else "")):
            return self._give_up(OSError(refusal))
        try:
            return self._manager.save(step, args=items, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            return self._give_up(error)

    def wait(self) -> bool:
        """Wait until everything is on disk; False when the last save failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            return self._give_up(error)
        return True

    def restore(self, like: State, step: int | None = None) -> tuple[State, dict[str, Any]] | None:
        """Restore the last whole checkpoint (or `step`), placed as `like`, a State of ShapeDtypeStructs.

        One that cannot be read is set aside, once an older one could be. All processes restore the same one.

        Returns:
          The state and the `meta` it was saved with; None where there is no checkpoint.

        Raises:
          UserError: there are checkpoints and none of them can be read, or they are of another network.
        """
        broken: list[tuple[int, str]] = []
        found: Any = None
        for candidate in [step] if step is not None else _first_says(self.steps())[::-1]:
            damage = _first_says(self._damage(candidate, like) if distributed.is_chief() else "")
            if not damage:
                found, failed = self._read(candidate, like)
                damage = next(filter(None, distributed.exchange("checkpoint read", failed, seconds=READ_S)), "")
            if damage:
                broken.append((candidate, damage))
                continue
            self._set_aside(broken)
            return State(**found["state"]), dict(found["meta"])
        if broken:
            number, damage = broken[0]
            raise UserError(
                f"none of the checkpoints in {self.folder} can be read ({number}: {damage}); "
                "nothing was changed there: restore the files, or start again with another --workdir."
            )
        return None

    def restore_variables(self, step: int) -> Variables:
        """Restore the parameters (averaged where they are) and statistics of a step onto the first device.

        Raises:
          UserError: that checkpoint cannot be read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            self._require_whole(step)
            shapes = self._manager.item_metadata(step)["state"]
            like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
            found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
        except Exception as error:  # as in restore
            raise UserError(f"checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}).") from error
        average = found.get("ema")
        return {"params": found["params"] if average is None else average, "stats": found.get("stats") or {}}

    def read_meta(self, step: int) -> dict[str, Any]:
        """Read the `meta` that a step was saved with; {} where it cannot be read."""
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"])
        except Exception:  # as in restore; what needs it goes without
            return {}

    def close(self) -> None:
        """Wait for the last save, and release the folder."""
        self.wait()
        self._manager.close()

    def _wait_for_the_one_before(self) -> None:
        began = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        self.waited_s += waited
        if waited > SLOW_S and not self._told_slow:
            self._told_slow = True
            logger.warning(
                "writing a checkpoint to %s takes %.0f s longer than the steps between two of them, and training waits "
                "for it; save less often (every.save), or to a faster disk",
                self.folder, waited,
            )  # fmt: skip

    def _sum(self) -> None:
        """Write the checksums of the step that is being finished; called by Orbax in its thread."""
        if jax.process_index() == 0:
            for unfinished in self.folder.glob("*" + UNFINISHED):
                checksum.write(unfinished, leave_out=[TIMES])

    def _require_whole(self, step: int) -> None:
        if damage := checksum.damage(self.folder / str(step)):
            raise OSError(damage)

    def _damage(self, step: int, like: State) -> str:
        """Say why a step cannot be restored; "" where its files are as they were written."""
        try:
            self._require_whole(step)
            self._require_alike(step, like)
        except UserError:
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged folder
            return _first_line(error)
        return ""

    def _read(self, step: int, like: State) -> tuple[Any, str]:
        """Read a step, together with the other processes; or say why it cannot be read."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), meta=ocp.args.JsonRestore())
        distributed.wait_to_see(self.folder / str(step))
        try:
            return self._manager.restore(step, args=items), ""
        except Exception as error:  # as in _damage
            return None, _first_line(error)

    def _refusal(self, state: State) -> str:
        """Say why a state cannot be written here now; "" where it can.

        A save that fails in one of several processes leaves the others waiting for it in Orbax for many minutes, so the
        usual reasons, a full disk and one that became read-only, are looked for before.
        """
        probe = self.folder / ("probe" + UNFINISHED)
        try:
            probe.mkdir(exist_ok=True)
            (probe / "probe").write_bytes(bytes(PROBE))
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return str(error)
        finally:
            shutil.rmtree(probe, ignore_errors=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        return os.strerror(errno.ENOSPC) if free < needed else ""

    def _report(self, error: Exception) -> None:
        reason = next((known for known in REASONS if known in str(error)), _first_line(error))
        self.failed.append(reason)
        logger.error("could not save a checkpoint to %s (%s); earlier ones stay, training goes on", self.folder, reason)

    def _give_up(self, error: Exception) -> bool:
        """Leave nothing of a save that failed: neither files, which would fill the disk further, nor errors."""
        self._report(error)
        self._manager.settle()
        if distributed.is_chief():
            for unfinished in self.folder.glob("*" + UNFINISHED):
                shutil.rmtree(unfinished, ignore_errors=True)
        return False

    def _require_alike(self, step: int, like: State) -> None:
        """Refuse a checkpoint whose arrays are not those of `like`: no damage, but another network or optimizer."""
        saved = self._manager.item_metadata(step)["state"]
        there, here = (
            {path: tuple(leaf.shape) for path, leaf in zip(paths.paths(values), jax.tree.leaves(values))}
            for values in (saved, like._asdict())
        )
        for path in sorted({**there, **here}):
            if there.get(path) != here.get(path):
                raise UserError(
                    f"checkpoint {self.folder / str(step)} holds another network: {path} is "
                    f"{there.get(path, 'missing')} there and {here.get(path, 'missing')} here; undo the change of the "
                    "code, or name another --workdir."
                )

    def _set_aside(self, broken: Sequence[tuple[int, str]]) -> None:
        for step, damage in broken if distributed.is_chief() else ():
            names = (self.folder / f"{step}.broken{number or ''}" for number in itertools.count())
            aside = next(path for path in names if not path.exists())
            (self.folder / str(step)).rename(aside)
            logger.warning(
                "checkpoint %s cannot be read (%s); it is set aside as %s and the one before it used",
                step, damage, aside.name,
            )  # fmt: skip
        _first_says(None)  # the others look again only now
        self._manager.reload()


def _read_scores(path: pathlib.Path) -> dict[int, float]:
    """Read scores.json; a damaged one costs only the knowledge of which step was the best."""
    try:
        return {int(step): float(value) for step, value in workdir.read_json(path).items()} if path.exists() else {}
    except (UserError, AttributeError, TypeError, ValueError):
        logger.warning("%s is damaged and passed over; which checkpoint was the best is no longer known", path)
        return {}


def _first_says(value: Any) -> Any:
    """Give the first process's `value`, plain JSON, to all; they go on when all have come here."""
    return json.loads(distributed.share("checkpoint", json.dumps(value)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
