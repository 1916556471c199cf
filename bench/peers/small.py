"""Workloads of small files: their life, listings, appends, what editors and databases do."""

import os
import random

from bench.peers.measuring import (
    KIB,
    MIB,
    SMALL,
    content,
    drop_caches,
    now,
    percentile,
    read_file,
    remove_tree,
    write_file,
)


def small_files(bench, turn):
    """Workloads 1, 2, 4, 5, 6: the life of 1,000 files of 4 KiB in 10 directories."""
    base = os.path.join(bench.root, f"small-{turn}")
    count = bench.args.files
    names = [os.path.join(f"d{i % 10}", f"file-{i:04d}") for i in range(count)]
    for i in range(10):
        os.makedirs(os.path.join(base, f"d{i}"))
    path = {name: os.path.join(base, name) for name in names}
    first = {name: content("first " + name) for name in names}
    second = {name: content("second " + name) for name in names}

    def check_read(metric, root, wanted):
        def read_one(name):
            if read_file(os.path.join(root, name)) != wanted[name]:
                bench.error(metric, "bad content")

        return read_one

    names = bench.ops("create_1thread", names, lambda n: write_file(path[n], first[n]))

    drop_caches()
    bench.ops("stat_cold", names, lambda n: os.stat(path[n]))
    bench.ops("stat_warm", names, lambda n: os.stat(path[n]))

    drop_caches()
    bench.ops("read_small_cold", names, check_read("read_small_cold", base, first))
    bench.ops("read_small_warm", names, check_read("read_small_warm", base, first))

    flags = os.O_WRONLY | os.O_TRUNC
    rewritten = bench.ops("rewrite", names, lambda n: write_file(path[n], second[n], flags))
    drop_caches()
    check = check_read("rewrite", base, second)
    limit = now() + bench.budget
    for name in rewritten:
        check(name)
        if now() > limit:
            break

    if bench.second:
        metric = "read_small_other_client"
        other = os.path.join(bench.second, f"small-{turn}")
        bench.ops(metric, rewritten, check_read(metric, other, second))

    renamed = bench.ops("rename", names, lambda n: os.rename(path[n], path[n] + ".new"))
    bench.ops("unlink", renamed, lambda n: os.unlink(path[n] + ".new"))
    remove_tree(base)


def create_threads(bench, turn):
    """Workload 1 with 8 threads."""
    base = os.path.join(bench.root, f"threads-{turn}")
    names = [os.path.join(base, f"d{i % 10}", f"file-{i:04d}") for i in range(bench.args.files)]
    for i in range(10):
        os.makedirs(os.path.join(base, f"d{i}"))
    data = content("threads")
    bench.ops("create_8threads", names, lambda n: write_file(n, data), threads=8)
    remove_tree(base)


def listing(bench, turn):
    """Workload 3: scandir + stat of a directory of 5,000 files."""
    base = os.path.join(bench.root, "list")
    if turn == 0:
        os.makedirs(base)
        names = [os.path.join(base, f"entry-{i:05d}") for i in range(bench.args.entries)]
        made = bench.ops(
            "list_prepare_8threads",
            names,
            lambda n: write_file(n, b"x" * 16),
            threads=8,
            budget=2 * bench.budget,
        )
        if len(made) < len(names):
            bench.note("list_cold", f"directory of {len(made)} files only")
            bench.note("list_warm", f"directory of {len(made)} files only")
        bench.listed = len(made)

    def scan(metric):
        start = now()
        seen = 0
        with os.scandir(base) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                seen += 1
        bench.record(metric, "ops/s", seen / (now() - start))
        if seen != bench.listed:
            bench.error(metric, f"listed {seen} of {bench.listed}")

    drop_caches()
    scan("list_cold")
    scan("list_warm")
    if turn == bench.args.repeat - 1:
        remove_tree(base)


def append(bench, turn):
    """Workload 10: open(O_APPEND), write 100 bytes, close, 500 times."""
    path = os.path.join(bench.root, f"append-{turn}")
    write_file(path, b"")
    lines = [f"{i:08d} ".encode() + b"." * 90 + b"\n" for i in range(500)]
    flags = os.O_WRONLY | os.O_APPEND
    done = bench.ops("append_100B", lines, lambda line: write_file(path, line, flags))
    if read_file(path, MIB) != b"".join(done):
        bench.error("append_100B", "bad content")
    os.unlink(path)


def editor_save(bench, turn):
    """Workload 12: what vim does at :w (backup by rename), 100 times."""
    base = os.path.join(bench.root, f"editor-{turn}")
    os.makedirs(base)
    path = os.path.join(base, "text.c")
    backup = path + "~"
    write_file(path, content("editor", 20 * KIB))

    def save(i):
        os.stat(path)
        os.rename(path, backup)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, content(f"editor {i}", 20 * KIB))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.chmod(path, 0o644)
        os.unlink(backup)

    done = bench.ops("editor_save", range(100), save)
    if done and read_file(path) != content(f"editor {done[-1]}", 20 * KIB):
        bench.error("editor_save", "bad content")
    remove_tree(base)


def synced_writes(bench, turn):
    """Workload 14: latency of a 4 KiB write + fdatasync."""
    path = os.path.join(bench.root, f"sync-{turn}")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    times = []
    limit = now() + bench.budget
    try:
        for i in range(200):
            start = now()
            os.pwrite(fd, content(f"sync {i}"), i * SMALL)
            os.fdatasync(fd)
            times.append((now() - start) * 1000)
            if now() > limit:
                break
    finally:
        os.close(fd)
    cut = len(times) < 200
    bench.record("fdatasync_4k_p50", "ms", percentile(times, 0.5), cut)
    bench.record("fdatasync_4k_p99", "ms", percentile(times, 0.99), cut)
    os.unlink(path)


def random_writes(bench, turn):
    """Workload 9: 2,000 random 4 KiB writes in an existing 64 MiB file, close at the end."""
    path = os.path.join(bench.root, "random-write")
    size = 64 * MIB
    if turn == 0:
        with open(path, "wb") as stream:
            for _ in range(size // MIB):
                stream.write(bytes(MIB))
    chooser = random.Random(turn)
    offsets = [chooser.randrange(size // SMALL) * SMALL for _ in range(2000)]
    data = content(f"random {turn}")
    start = now()
    limit = start + bench.budget
    done = 0
    fd = os.open(path, os.O_RDWR)
    try:
        for offset in offsets:
            os.pwrite(fd, data, offset)
            done += 1
            if now() > limit:
                break
        written = now()
    finally:
        os.close(fd)
    closed = now()
    bench.record("random_write_4k", "ops/s", done / (closed - start), done < len(offsets))
    bench.record("random_write_close", "ms", (closed - written) * 1000)
    drop_caches()
    fd = os.open(path, os.O_RDONLY)
    try:
        for offset in offsets[:done][::20]:
            if os.pread(fd, SMALL, offset) != data:
                bench.error("random_write_4k", "bad content")
    finally:
        os.close(fd)
    if turn == bench.args.repeat - 1:
        os.unlink(path)
