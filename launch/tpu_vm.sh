#!/usr/bin/env bash
# Train on a slice of Cloud TPU VMs, of one host or of many.
#
#   bash launch/tpu_vm.sh create                 ask for the slice, and wait until it is there
#   bash launch/tpu_vm.sh install                copy this repository to all hosts, install it, mount the shared folder
#   bash launch/tpu_vm.sh run --config …         the same command on all hosts; Ctrl-C leaves
#   bash launch/tpu_vm.sh train --config …       all three, and again whenever the slice is taken away or a host of it
#                                                dies, until it is done
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
PAUSE=${PAUSE:-30} # seconds between two looks at the slice, and before the next try
AGAIN=255          # the slice cannot be had, filled or reached now (ssh's own code too): not a mistake of the training
QUICK=600 TRIES=10 # so many tries one after the other that each end within so many seconds come to nothing

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
    --accelerator-type "$TYPE" --runtime-version "$VERSION" ${SPOT:+--spot} || return "$AGAIN"
  local now=
  while [ -z "$dry" ] && now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      FAILED | SUSPENDING | SUSPENDED | DELETING) # it will not become ACTIVE any more
        echo "error: the request for $TYPE in $ZONE is $now; why is told by: gcloud compute tpus queued-resources" \
          "describe $NAME --zone $ZONE" >&2
        return "$AGAIN"
        ;;
    esac
    echo "waiting for $TYPE in $ZONE: $now" && sleep "$PAUSE"
  done
}

install() {
  local archive
  archive=$(mktemp -d)/mapjax.tar.gz
  execute git archive --format=tar.gz --output "$archive" HEAD &&
    execute gcloud compute tpus tpu-vm scp "$archive" "$NAME:mapjax.tar.gz" --zone "$ZONE" --worker=all &&
    on_all "mkdir -p mapjax && tar -xzf mapjax.tar.gz -C mapjax && cd mapjax && python3 -m pip install -q --user uv &&
    ~/.local/bin/uv venv -q --clear --python 3.12 .venv &&
    ~/.local/bin/uv pip install -q --python .venv -c constraints.txt -e '.[tpu]'" || return "$AGAIN"
  if [ -n "$SHARE" ]; then
    on_all "sudo apt-get install -qq -y nfs-common && sudo mkdir -p /mnt/share &&
      { mountpoint -q /mnt/share || sudo mount -t nfs $(printf %q "$SHARE") /mnt/share; }" || return "$AGAIN"
  fi
}

run() {
  on_all "cd mapjax && exec .venv/bin/python launch/main.py$(printf ' %q' "$@")"
}

# A try whose connection was cut may still train; it saves, and leaves the chips.
halt() {
  on_all "pkill -TERM -f '[l]aunch/main[.]py'
    for _ in \$(seq 120); do pgrep -f '[l]aunch/main[.]py' > /dev/null || exit 0; sleep 1; done
    pkill -KILL -f '[l]aunch/main[.]py'; true"
}

# One try. What is installed and mounted is looked after each time: a host that was started again has no mount.
attempt() {
  if [ -z "$dry" ] && [ "$(state)" = ACTIVE ]; then
    halt || return "$AGAIN"
  else
    delete 2>/dev/null || true # what was taken away holds its name
    create || return
  fi
  install && run "$@"
}

train() {
  case " $* " in
    *" --workdir"*) ;;
    *) echo "error: --workdir DIR must be given, so that the next slice finds the run again." >&2 && exit 2 ;;
  esac
  local code quick=0 began
  while true; do
    code=0 began=$SECONDS
    attempt "$@" || code=$?
    case $code in
      0 | 2 | 126 | 127 | 130) return "$code" ;; # done, a mistake that the next try would repeat, or Ctrl-C
      1) if [ "$(state)" = ACTIVE ]; then return "$code"; fi ;; # a fault of the program; else gcloud lost the slice
    esac
    # Saved and stopped, killed, or a host is gone: 75 (LOST in mapjax/distributed.py), 129, 137, 143, 255 and others.
    if [ $((SECONDS - began)) -lt "$QUICK" ]; then quick=$((quick + 1)); else quick=0; fi
    if [ "$quick" -ge "$TRIES" ]; then
      echo "error: $TRIES tries one after the other came to nothing; the last stopped with code $code." >&2
      return "$code"
    fi
    echo "stopped with code $code; going on from the last checkpoint"
    sleep "$PAUSE"
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
