#!/bin/bash
# runall.sh PASS NAME...: each peer once, with two clients; the results
# go to results/NAME-PASS.json.  PEERS_OPTIONS are passed to python -m bench.peers.
# Peers are run one after the other; several passes put the runs of one peer
# (which compare.py pools) apart in time, so that noise does not hit one of them.
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
state=${PEERS_STATE:-${TMPDIR:-/tmp}/peers}
pass=$1
shift
mkdir -p "$state/results"
for peer; do
    mnt=$state/mnt/$peer
    echo "$(date +%T) $peer pass $pass, load $(cut -d' ' -f1-3 /proc/loadavg)"
    began=$SECONDS
    if bash "$here/peer-$peer.sh" start "$mnt" && bash "$here/peer-$peer.sh" start "$mnt.2"; then
        # shellcheck disable=SC2086
        PYTHONPATH=$root timeout -k 20 "${PEERS_LIMIT:-600}" python3 -m bench.peers "$mnt" --second-mount "$mnt.2" \
            --label "$peer" --json "$state/results/$peer-$pass.json" $PEERS_OPTIONS \
            >"$state/results/$peer-$pass.txt" 2>&1 || echo "$peer: the benchmark ended with $?"
    else
        echo "$peer: did not start"
    fi
    bash "$here/peer-$peer.sh" stop "$mnt"
    bash "$here/peer-$peer.sh" stop "$mnt.2"
    echo "$(date +%T) $peer took $((SECONDS - began)) s"
done
