#!/bin/bash
# dfsfuse with one file server and so one copy, default options of the client; each mount has a home of its own.
PEER=dfsfuse-one
PACKAGES=
. "$(dirname "$0")/peerlib.sh"
ROOT=$(realpath "$(dirname "$0")/../..")
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
PORT=${PEER_PORT:-24100}
DIRECTORY=http://127.0.0.1:$PORT
export PYTHONPATH=$ROOT

serve() {
    local name=$1
    shift
    mkdir -p "$STATE/$name"
    daemon "$name" "$PYTHON" -P -m servers "$@" --home "$STATE/$name" --token-file "$STATE/token"
}
servers_up() {
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$STATE/token"
    serve directory directory --port "$PORT" --copies 1
    wait_for 20 port_open "$PORT" || die "no directory service"
    serve locks locks --port $((PORT + 1)) --directory "$DIRECTORY"
    serve files files --port $((PORT + 2)) --directory "$DIRECTORY" --name A
    wait_for 20 port_open $((PORT + 1)) || die "no lock service"
    wait_for 20 port_open $((PORT + 2)) || die "no file server"
}
servers_down() { :; }
mount_client() {
    mkdir -p "$STATE/home-$2"
    cp "$STATE/token" "$STATE/home-$2/token"
    (cd "$ROOT" && "$PYTHON" mount.py --cluster "$DIRECTORY" --home "$STATE/home-$2" "$1") >>"$STATE/mount.log" 2>&1
}
peer_main "$@"
