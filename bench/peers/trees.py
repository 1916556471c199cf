"""Workloads of a source tree, unpacked, kept in git, searched and removed, and of one large file."""

import hashlib
import os
import random
import subprocess
import sysconfig
import tarfile
from concurrent.futures import ThreadPoolExecutor

from bench.peers.measuring import KIB, MIB, SMALL, drop_caches, now, remove_tree
from bench.peers.seeing import wait_for


def make_archive(bench):
    """A deterministic tar of ~1,500 small files from Python's own library."""
    library = sysconfig.get_path("stdlib")
    chosen = []
    for folder, folders, files in os.walk(library):
        folders[:] = sorted(f for f in folders if f not in ("__pycache__", "site-packages"))
        for name in sorted(files):
            full = os.path.join(folder, name)
            if name.endswith((".py", ".txt", ".pem")) and os.path.getsize(full) <= 64 * KIB:
                chosen.append(full)
    chosen = chosen[: bench.args.tree_files]
    path = os.path.join(bench.scratch, "tree.tar")
    total = 0
    with tarfile.open(path, "w") as archive:
        for full in chosen:
            entry = tarfile.TarInfo(os.path.join("tree", os.path.relpath(full, library)))
            entry.size = os.path.getsize(full)
            entry.mtime = 1_600_000_000
            total += entry.size
            with open(full, "rb") as stream:
                archive.addfile(entry, stream)
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    bench.tree_info = {"files": len(chosen), "bytes": total, "sha256": digest}
    return path


def source_tree(bench, turn):
    """Workload 11: untar, git init + add + commit, grep -r, rm -rf."""
    if turn == 0:
        bench.archive = make_archive(bench)
    base = os.path.join(bench.root, f"tree-{turn}")
    os.makedirs(base)
    tree = os.path.join(base, "tree")
    home = os.path.join(bench.scratch, "home")
    os.makedirs(home, exist_ok=True)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "peers",
        "GIT_AUTHOR_EMAIL": "peers@localhost",
        "GIT_COMMITTER_NAME": "peers",
        "GIT_COMMITTER_EMAIL": "peers@localhost",
        "LC_ALL": "C",
    }
    limit = 12 * bench.budget

    def step(metric, *command):
        start = now()
        try:
            result = subprocess.run(command, env=env, cwd=base, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            bench.error(metric, f"stopped after {limit:.0f} s")
            bench.record(metric, "s", now() - start, cut=True)
            return False
        bench.record(metric, "s", now() - start)
        if result.returncode:
            bench.error(metric, f"exit {result.returncode}: {result.stderr.strip()[-200:]}")
        return result.returncode == 0

    git = "git -c gc.auto=0 -c safe.directory=* -C tree"
    made = step("tree_untar", "tar", "-xf", bench.archive)
    made = made and step(
        "tree_git",
        "sh",
        "-c",
        f"{git} init -q && {git} add -A && {git} commit -q -m all",
    )
    if made:
        drop_caches()
        check = subprocess.run(
            ["sh", "-c", f"{git} fsck --full && {git} status --porcelain"],
            env=env,
            cwd=base,
            capture_output=True,
            text=True,
        )
        if check.returncode or check.stdout.strip():
            text = (check.stderr.strip() + " " + check.stdout.strip()).strip()
            bench.error("tree_git", "git fsck/status: " + text[-200:])
    step("tree_grep", "grep", "-rc", "--exclude-dir=.git", "import", "tree")
    step("tree_rm", "rm", "-rf", tree)
    if os.path.exists(tree):
        bench.error("tree_rm", "something is left after rm -rf")
    remove_tree(base)


def big_file(bench, turn):
    """Workloads 7 and 8: 512 MiB written, read warm, at random, cold."""
    path = os.path.join(bench.root, f"big-{turn}")
    written = _write_big(bench, path)
    _read_big(bench, "big_read_warm", path, written)
    _read_anywhere(bench, path, written, turn)
    drop_caches()
    _read_big(bench, "big_read_cold", path, written)
    if bench.second:
        other = os.path.join(bench.second, f"big-{turn}")
        wait_for(other, 30)
        drop_caches()
        _read_big(bench, "big_read_other_client", other, written)
    os.unlink(path)


def _write_big(bench, path):
    """How many MiB were written: until close() has returned, and then fsync()."""
    blocks, written = bench.args.big_mib, 0
    body = random.Random(7).randbytes(MIB - 16)
    start = now()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        for i in range(blocks):
            os.write(fd, b"%016d" % i + body)
            written += 1
            if now() - start > 4 * bench.budget:
                break
    finally:
        os.close(fd)
    closed = now() - start
    bench.record("big_write_close", "MiB/s", written / closed, written < blocks)
    fd = os.open(path, os.O_RDWR)
    start = now()
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    bench.record("big_write_fsync", "MiB/s", written / (closed + now() - start), written < blocks)
    return written


def _read_big(bench, metric, path, written):
    start, done, limit_s = now(), 0, 4 * bench.budget
    with open(path, "rb", buffering=0) as stream:
        while block := _whole(stream):
            if block[:16] != b"%016d" % done:
                bench.error(metric, "bad content")
            done += 1
            if now() - start > limit_s:
                break
    seconds = now() - start
    bench.record(metric, "MiB/s", done / seconds, seconds > limit_s)
    if done != written and seconds <= limit_s:
        bench.error(metric, f"read {done} of {written} MiB")


def _whole(stream):
    """The next MiB; less at the end."""
    block = stream.read(MIB)
    while block and len(block) < MIB and (more := stream.read(MIB - len(block))):
        block += more
    return block


def _read_anywhere(bench, path, written, turn):
    """4 threads of random 4 KiB reads."""
    per_thread = 2000

    def reader(seed):
        chooser, limit, count = random.Random(seed), now() + bench.budget, 0
        fd = os.open(path, os.O_RDONLY)
        try:
            while count < per_thread and now() < limit:
                if len(os.pread(fd, SMALL, chooser.randrange(written * 256) * SMALL)) != SMALL:
                    bench.error("random_read_4k", "short read")
                count += 1
        finally:
            os.close(fd)
        return count

    start = now()
    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(reader, range(turn * 4, turn * 4 + 4)))
    bench.record("random_read_4k", "ops/s", done / (now() - start), done < 4 * per_thread)
