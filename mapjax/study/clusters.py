"""Running a study elsewhere: as an array of SLURM jobs, or by commands for TPU VMs, which are only printed."""

import ast
import pathlib
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runtime import workdir
from mapjax.study import runs, sweep


def run_all(study: sweep.Study, listed: Sequence[runs.Job], folder: pathlib.Path, asked: str) -> Iterator[runs.Outcome]:
    """Run what is not finished as one array of jobs, by submitit; give each outcome when it is there.

    The folder must be one that all nodes see.

    Args:
      folder: of the study.
      asked: the cluster, "slurm" or "local" (processes of this machine), and after a colon what submitit asks it for:
        "slurm:slurm_partition=gpu,gpus_per_node=1,timeout_min=240,slurm_array_parallelism=8".

    Raises:
      UserError: submitit is not there, or cannot take what is asked.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--cluster needs submitit: pip install 'mapjax[study]'.") from error
    kind, _, rest = asked.partition(":")
    options = _options(asked, rest)
    try:
        executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=kind)
        executor.update_parameters(name=folder.name, **options)
    except (ValueError, RuntimeError, NameError, TypeError) as error:
        raise UserError(f"--cluster {asked}: {error}") from error
    waiting = [job for job in listed if not runs.is_finished(job, study)]
    yield from (runs.Outcome(job, "", 0.0) for job in listed if job not in waiting)
    if not waiting:
        return
    try:
        with executor.batch():
            submitted = [executor.submit(runs.run_one, study, job) for job in waiting]
    except (RuntimeError, OSError) as error:
        raise UserError(f"--cluster {asked}: {error}") from error
    began = time.perf_counter()
    try:
        for job, sent in zip(waiting, submitted):
            yield _outcome(job, sent, began)
    finally:
        for sent in submitted:  # whatever ends this ends the jobs: a second start would train in their folders
            if not sent.done():
                sent.cancel()


def tpu_commands(study: sweep.Study, listed: Sequence[runs.Job], share: str) -> list[str]:
    """Give a command for each run that is not trained: a TPU VM of its own, which is deleted when it is done.

    The study's tests, and its tables, are made by the same study run where the folder is seen.

    Args:
      share: the folder of the study as the VMs see it, such as "/mnt/share/runs/ablate_augment".

    Raises:
      UserError: there are uncommitted changes, which the VMs would not have, or no commit at all.
    """
    file = study.experiment.partition(":")[0]
    file = file if file.endswith(".py") else str(configs.find(file))
    if listed[0].revision is None or listed[0].revision.endswith("+") or not workdir.is_committed(file):
        raise UserError(f"--tpu: the VMs install the last commit; commit {file} and all other changes first.")
    data = ["--data", study.data] if study.data else []
    commands = []
    for job in listed:
        if not (job.folder / "result.json").exists():
            given = {**sweep.as_text(job.cell.overrides), **study.more, "seed": str(job.seed)}
            options = [f"--config.{key}={value}" for key, value in given.items()]
            place = ["--workdir", str(pathlib.PurePosixPath(share) / job.folder.relative_to(_root(job)).as_posix())]
            run = shlex.join(["train", "--config", study.experiment, *data, *place, *options])
            # A name of Google's begins with a letter, and has 63 signs at most.
            asked = f"a-{job.cell.name[:40]}-{job.seed}-{job.key[:4]}".lower()
            name = "".join(sign if re.fullmatch("[a-z0-9]", sign) else "-" for sign in asked)
            program = "bash launch/tpu_vm.sh"
            commands.append(f"NAME={name} {program} {run} && NAME={name} {program} delete")
    mounted = "# first: export SHARE=ADDRESS:/EXPORT, what the VMs mount as /mnt/share; a VM whose run fails is kept"
    return [mounted, *commands] if commands else []


def _root(job: runs.Job) -> pathlib.Path:
    """Give the folder of the study: cells/NAME/RUN is in it."""
    return job.folder.parents[2]


def _options(asked: str, text: str) -> dict[str, Any]:
    found = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--cluster {asked}: {pair!r} is no KEY=VALUE, such as timeout_min=240.")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def _outcome(job: runs.Job, sent: Any, began: float) -> runs.Outcome:
    """Wait for a job that was submitted when the clock showed `began`; one that the cluster ended has failed."""
    try:
        return sent.result()
    except Exception as error:  # whatever submitit makes of a job that died
        return runs.Outcome(job, f"{type(error).__name__}: {str(error).strip()}", time.perf_counter() - began)
