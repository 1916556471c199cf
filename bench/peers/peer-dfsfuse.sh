#!/bin/bash
# dfsfuse: three copies, default options, one cluster for all its mounts.
PEER=dfsfuse
PACKAGES=
. "$(dirname "$0")/peerlib.sh"
ROOT=$(realpath "$(dirname "$0")/../..")
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}

servers_up() { mkdir -p "$STATE/home"; }
servers_down() { wait_for 20 cluster_ended || say "the cluster is still there"; }
cluster_ended() { flock --nonblock "$STATE/home/supervisor.lock" true; }
mount_client() { (cd "$ROOT" && "$PYTHON" mount.py --home "$STATE/home" "$1") >>"$STATE/mount.log" 2>&1; }
peer_main "$@"
