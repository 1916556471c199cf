"""What the workloads share: the parameters and results of a run, timed operations, and small helpers."""

import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

KIB = 1024
MIB = 1024 * 1024
SMALL = 4 * KIB
now = time.perf_counter


class TooManyErrors(Exception):
    """A measurement met so many errors that going on makes no sense."""


class Bench:
    """The parameters of a run, and the results collected so far."""

    MAX_ERRORS = 25

    def __init__(self, args):
        self.args = args
        self.budget = args.budget
        name = f"peers-{os.getpid()}"
        self.root = os.path.join(args.dir, name)
        self.second = args.second_mount and os.path.join(args.second_mount, name)
        self.scratch = tempfile.mkdtemp(prefix="peers-")
        self.metrics = {}
        self.groups = {}
        self.lock = threading.Lock()

    # -- results -----------------------------------------------------------

    def metric(self, name, unit="ops/s"):
        better = "higher" if unit in ("ops/s", "MiB/s") else "lower"
        return self.metrics.setdefault(
            name,
            {"unit": unit, "better": better, "runs": [], "cut": False, "errors": {}, "notes": []},
        )

    def record(self, name, unit, value, cut=False):
        entry = self.metric(name, unit)
        entry["unit"] = unit
        entry["better"] = "higher" if unit in ("ops/s", "MiB/s") else "lower"
        entry["runs"].append(value)
        entry["cut"] = entry["cut"] or cut

    def error(self, name, what):
        """Count an error of a metric; `what` is an OSError or a short text."""
        if isinstance(what, OSError):
            what = errno.errorcode.get(what.errno, str(what))
        with self.lock:
            errors = self.metric(name)["errors"]
            errors[what] = errors.get(what, 0) + 1
            if sum(errors.values()) > self.MAX_ERRORS:
                raise TooManyErrors(f"{name}: {errors}")

    def note(self, name, text):
        notes = self.metric(name)["notes"]
        if text not in notes:
            notes.append(text)

    # -- running operations ------------------------------------------------

    def ops(self, name, items, operation, threads=1, budget=None):
        """Do operation(item) for every item until the budget is used.

        Records operations per second and returns the items that were done.
        """
        budget = budget or self.budget
        start = now()
        limit = start + budget

        def work(part):
            done = []
            for item in part:
                try:
                    operation(item)
                    done.append(item)
                except OSError as exc:
                    self.error(name, exc)
                if now() > limit:
                    break
            return done

        if threads == 1:
            done = work(items)
        else:
            parts = [items[i::threads] for i in range(threads)]
            with ThreadPoolExecutor(threads) as pool:
                done = [item for part in pool.map(work, parts) for item in part]
        seconds = now() - start
        if done:
            self.record(name, "ops/s", len(done) / seconds, cut=seconds >= budget)
        return done


# -- small helpers ---------------------------------------------------------


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as control:
        control.write("3\n")


def write_file(path, data, flags=os.O_CREAT | os.O_WRONLY):
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read_file(path, size=64 * KIB):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def content(tag, size=SMALL):
    """Deterministic content which differs from one tag to the next."""
    head = hashlib.blake2b(tag.encode(), digest_size=32).digest()
    return (head * (size // len(head) + 1))[:size]


def percentile(values, fraction):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def remove_tree(path):
    """Remove a tree; a second try helps file systems that delete lazily."""
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.exists(path):
            return
        time.sleep(0.5)


def cpu_probe():
    """Milliseconds for a fixed piece of work: shows how busy the machine is."""
    start = now()
    sum(range(500_000))
    return (now() - start) * 1000


def busy_seconds():
    """CPU seconds used so far by everything on this machine."""
    with open("/proc/stat") as stat:
        fields = [int(value) for value in stat.readline().split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")
