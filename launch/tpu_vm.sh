#!/usr/bin/env bash
# Train on a slice of Cloud TPU VMs, of one host or of many.
#
#   bash launch/tpu_vm.sh create                 ask for the slice, and wait until it is there
#   bash launch/tpu_vm.sh install                copy this repository to all hosts, install it, mount the shared folder
#   bash launch/tpu_vm.sh run --config …         the same command on all hosts; Ctrl-C leaves
#   bash launch/tpu_vm.sh train --config …       all three, and again whenever the slice is taken away, until it is done
#   bash launch/tpu_vm.sh delete
#
# --dry-run as the first word prints the commands and does nothing. What is asked for comes from the environment:
#   NAME=mapjax ZONE=us-west4-a TYPE=v5litepod-16 SPOT=1
#   VERSION=v2-alpha-tpuv5-lite                  v5p: v2-alpha-tpuv5, v6e: v2-alpha-tpuv6e, v4: tpu-ubuntu2204-base
#   SHARE=10.0.0.2:/runs                         an NFS export (Filestore) with the data and --workdir, mounted as
#                                                /mnt/share on all hosts; a slice of one host can do without
# Python finds the other hosts from the TPU's metadata. Needs gcloud, with a project set.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=${NAME:-mapjax} ZONE=${ZONE:-us-west4-a} TYPE=${TYPE:-v5litepod-16} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-} SHARE=${SHARE:-}
STOPPED=75 # another process died: LOST in mapjax/distributed.py

dry=
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi

execute() {
  if [ -n "$dry" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

on_all() {
  execute gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" --format='value(state.state)' 2>/dev/null || true
}

create() {
  execute gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE" \
    --accelerator-type "$TYPE" --runtime-version "$VERSION" ${SPOT:+--spot}
  until [ -n "$dry" ] || [ "$(state)" = ACTIVE ]; do
    echo "waiting for $TYPE in $ZONE: $(state)" && sleep 30
  done
}

install() {
  local archive
  archive=$(mktemp -d)/mapjax.tar.gz
  execute git archive --format=tar.gz --output "$archive" HEAD
  execute gcloud compute tpus tpu-vm scp "$archive" "$NAME:mapjax.tar.gz" --zone "$ZONE" --worker=all
  on_all "mkdir -p mapjax && tar -xzf mapjax.tar.gz -C mapjax && cd mapjax && python3 -m pip install -q --user uv &&
    ~/.local/bin/uv venv -q --clear --python 3.12 .venv &&
    ~/.local/bin/uv pip install -q --python .venv -c constraints.txt -e '.[tpu]'"
  if [ -n "$SHARE" ]; then
    on_all "sudo apt-get install -qq -y nfs-common && sudo mkdir -p /mnt/share &&
      { mountpoint -q /mnt/share || sudo mount -t nfs $(printf %q "$SHARE") /mnt/share; }"
  fi
}

run() {
  on_all "cd mapjax && exec .venv/bin/python launch/main.py$(printf ' %q' "$@")"
}

train() {
  case " $* " in
    *" --workdir"*) ;;
    *) echo "error: --workdir DIR must be given, so that the next slice finds the run again." >&2 && exit 2 ;;
  esac
  local code
  while true; do
    if [ -n "$dry" ] || [ "$(state)" != ACTIVE ]; then
      delete 2>/dev/null || true # what was taken away holds its name
      create
      install
    fi
    code=0
    run "$@" || code=$?
    # Done, or a mistake that the next try would repeat; else the slice was taken away, or one of its hosts died.
    if [ "$code" = 0 ] || { [ "$(state)" = ACTIVE ] && [ "$code" != "$STOPPED" ] && [ "$code" != 143 ]; }; then
      return "$code"
    fi
    echo "stopped with code $code; going on from the last checkpoint"
  done
}

delete() {
  execute gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
}

command=${1:-}
case $command in
  create | install | run | train | delete) shift && "$command" "$@" ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
