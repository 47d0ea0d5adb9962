#!/usr/bin/env bash
# Train on a SLURM cluster, one process a GPU; goes on by itself after a time limit, a preemption or a lost node.
#
#   sbatch launch/slurm.sh --config experiments/classify.py:imagenet --data folder:DIR --workdir runs/mine
#   sbatch --nodes 4 launch/slurm.sh …             (what stands below is only the default)
#   bash launch/slurm.sh --dry-run …               (prints what would be run)
#
# Submit from the repository, with .venv made there; the repository, the data and --workdir must be on a file system
# that all nodes share. Python finds the other processes from SLURM's variables.
#SBATCH --job-name=mapjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mapjax-%j.log
set -euo pipefail

dry=
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi

execute() {
  if [ -n "$dry" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

case " $* " in
  *" --workdir"*) ;;
  *) echo "error: --workdir DIR must be given, so that a requeued job finds its run again." >&2 && exit 2 ;;
esac

code=0
# --signal sends SIGTERM to the processes 120 s before the end: they save together and leave with 143.
execute srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" launch/main.py "$@" || code=$?
case $code in
  # Stopped and saved, killed, or another process died: again from the last checkpoint. A user's mistake (2) is not.
  75 | 129 | 137 | 143) execute scontrol requeue "${SLURM_JOB_ID:-JOB}" ;;
esac
exit "$code"
