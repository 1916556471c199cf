"""What one client sees of what another one has just written."""

import errno
import os
import time

from bench.peers.measuring import SMALL, content, now, percentile, read_file, write_file


def wait_for(path, seconds):
    """Wait until a path exists (a second client may learn of it late)."""
    limit = now() + seconds
    while now() < limit:
        if os.path.exists(path):
            return True
        time.sleep(0.05)
    return False


def visibility(bench, turn):
    """Workload 13: how long until a second client sees a change."""
    if turn or not bench.second:
        return
    visible_change(bench)
    visible_new(bench)


def visible_change(bench):
    """An existing file is overwritten (same size); the other client polls open/read."""
    path = os.path.join(bench.root, "shared")
    other = os.path.join(bench.second, "shared")
    patience = bench.args.visibility_timeout
    old = b"%08d" % 0 + b"." * (SMALL - 8)
    write_file(path, old)
    if not wait_for(other, 60):
        bench.error("visible_p50", "second mount never saw the file")
        return
    times, stale, torn, timeouts = [], [], 0, 0
    limit = now() + 4 * bench.budget
    for i in range(1, 201):
        data = b"%08d" % i + b"." * (SMALL - 8)
        write_file(path, data, os.O_WRONLY | os.O_TRUNC)
        taken, others = _until_seen(bench, other, data)
        times.append(taken * 1000)
        stale.append(len(others))
        torn += sum(got != old for got in others)
        timeouts += taken > patience
        old = data
        if now() > limit:
            break
    cut = len(times) < 200
    bench.record("visible_p50", "ms", percentile(times, 0.5), cut)
    bench.record("visible_p99", "ms", percentile(times, 0.99), cut)
    bench.record("visible_stale_rounds_pct", "%", 100 * sum(map(bool, stale)) / len(times), cut)
    bench.record("visible_stale_reads", "count", sum(stale), cut)
    if timeouts:
        bench.note("visible_p50", f"{timeouts} of {len(times)} rounds not visible in {patience} s")
    if torn:
        bench.note("visible_stale_reads", f"{torn} reads were neither the old nor the new content")


def _until_seen(bench, path, data):
    """(seconds, what was read before); after --visibility-timeout nobody waits any longer."""
    start, others = now(), []
    while True:
        try:
            got = read_file(path)
        except OSError as exc:
            got = b""
            if exc.errno != errno.ENOENT:
                bench.error("visible_p50", exc)
        taken = now() - start
        if got == data:
            return taken, others
        others.append(got)
        if taken > bench.args.visibility_timeout:
            return taken, others
        time.sleep(0.0005)


def visible_new(bench):
    """A new name is created after the other client found it missing."""
    times = []
    patience = bench.args.visibility_timeout
    limit = now() + 2 * bench.budget
    missed = timeouts = 0
    for i in range(100):
        name = f"new-{i:03d}"
        other = os.path.join(bench.second, name)
        data = content(name)
        os.path.exists(other)
        write_file(os.path.join(bench.root, name), data)
        start = now()
        misses = 0
        while True:
            try:
                if read_file(other) == data:
                    break
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    bench.error("visible_new_p50", exc)
            misses += 1
            if now() - start > patience:
                timeouts += 1
                break
            time.sleep(0.0005)
        times.append((now() - start) * 1000)
        missed += misses > 0
        if now() > limit:
            break
    cut = len(times) < 100
    bench.record("visible_new_p50", "ms", percentile(times, 0.5), cut)
    bench.record("visible_new_p99", "ms", percentile(times, 0.99), cut)
    bench.record("visible_new_stale_rounds_pct", "%", 100 * missed / len(times), cut)
    if timeouts:
        bench.note("visible_new_p50", f"{timeouts} of {len(times)} not visible in {patience} s")
