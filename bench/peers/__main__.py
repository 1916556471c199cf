"""One fixed set of workloads on any mounted directory, so that file systems can be compared.

    python -m bench.peers DIR [--second-mount DIR2] --json OUT [--label NAME]

DIR2, when given, is the same directory seen through a second mount of the same volume (a second client); it adds the
visibility and first-read-by-another-client workloads.

Every workload is repeated (--repeat) and its median is reported; the JSON holds every run. No measurement runs much
past --budget seconds: a slow file system does fewer operations, the rate is computed on what was done, and the metric
is marked "cut". A workload is not repeated once its group has used --group-seconds. What is read back is compared with
what was written; a difference is counted as "bad" under the metric's errors.

"cold" means: after sync and `echo 3 > /proc/sys/vm/drop_caches`. That empties the kernel's caches (client and, on one
machine, servers), not those which a file system's own processes keep in memory or in their cache directories.

Needs root for the cold workloads, and git, grep, tar and rm for the tree workload.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

from bench.peers.measuring import Bench, TooManyErrors, busy_seconds, cpu_probe, now, remove_tree
from bench.peers.seeing import visibility, wait_for
from bench.peers.small import append, create_threads, editor_save, listing, random_writes, small_files, synced_writes
from bench.peers.trees import big_file, source_tree

GROUPS = {
    "small": small_files,
    "threads": create_threads,
    "list": listing,
    "append": append,
    "editor": editor_save,
    "fdatasync": synced_writes,
    "randwrite": random_writes,
    "visibility": visibility,
    "tree": source_tree,
    "big": big_file,
}


def mount_of(path):
    """The /proc/mounts line that a path belongs to."""
    real = os.path.realpath(path)
    best = ""
    line_of_best = ""
    with open("/proc/mounts", errors="surrogateescape") as mounts:
        for line in mounts:
            point = line.split()[1]
            if (real + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, line_of_best = point, line.strip()
    return line_of_best


def run_group(bench, name, workload):
    started = now()
    cpu_before = busy_seconds()
    probes, error, turns, longest = [], None, 0, 0
    for turn in range(bench.args.repeat):
        if turn and now() - started + longest > bench.args.group_seconds:
            break
        turn_started = now()
        probes.append(cpu_probe())
        try:
            workload(bench, turn)
        except (OSError, TooManyErrors, subprocess.SubprocessError) as exc:
            error = f"{type(exc).__name__}: {exc}"
            print(f"  {name}: {error}", file=sys.stderr)
            break
        turns += 1
        longest = max(longest, now() - turn_started)
    bench.groups[name] = {
        "seconds": round(now() - started, 2),
        "turns": turns,
        "cpu_seconds": round(busy_seconds() - cpu_before, 2),
        "cpu_probe_ms": [round(p, 2) for p in probes],
        "error": error,
    }


def report(bench, started):
    for entry in bench.metrics.values():
        entry["median"] = statistics.median(entry["runs"]) if entry["runs"] else None
    return {
        "label": bench.args.label,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(now() - started, 1),
        "mount": mount_of(bench.args.dir),
        "second_mount": mount_of(bench.args.second_mount) if bench.second else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "settings": {key: value for key, value in vars(bench.args).items() if key != "json"},
        "tree": getattr(bench, "tree_info", None),
        "groups": bench.groups,
        "metrics": bench.metrics,
    }


def save(path, data):
    with open(path + ".part", "w") as stream:
        json.dump(data, stream, indent=1)
        stream.write("\n")
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", help="directory of the file system under test")
    parser.add_argument("--second-mount", help="the same directory through a second mount")
    parser.add_argument("--json", required=True, help="where to write the results")
    parser.add_argument("--label", help="name of the file system in tables (default: DIR's name)")
    parser.add_argument("--only", help="comma-separated groups: " + ",".join(GROUPS))
    parser.add_argument("--repeat", type=int, default=3, help="runs per workload (default 3)")
    parser.add_argument("--budget", type=float, default=10, help="seconds per measurement")
    parser.add_argument(
        "--group-seconds", type=float, default=45, help="no further repeat of a group after this many seconds"
    )
    parser.add_argument("--settle", type=float, default=1, help="pause between groups, seconds")
    parser.add_argument("--visibility-timeout", type=float, default=5)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=5000)
    parser.add_argument("--tree-files", type=int, default=1500)
    parser.add_argument("--big-mib", type=int, default=512)
    args = parser.parse_args()
    args.dir = os.path.abspath(args.dir)
    args.second_mount = args.second_mount and os.path.abspath(args.second_mount)
    args.label = args.label or os.path.basename(args.dir)
    chosen = args.only.split(",") if args.only else list(GROUPS)
    unknown = [name for name in chosen if name not in GROUPS]
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}")

    started = now()
    bench = Bench(args)
    os.makedirs(bench.root)
    try:
        if bench.second and not wait_for(bench.second, 60):
            print("second mount does not show the new directory; going on without", file=sys.stderr)
            bench.note("visible_p50", "second mount never showed the bench directory")
            bench.second = None
        for name in chosen:
            print(f"{args.label}: {name} ...", file=sys.stderr, flush=True)
            run_group(bench, name, GROUPS[name])
            save(args.json, report(bench, started))
            time.sleep(args.settle)
    finally:
        remove_tree(bench.root)
        shutil.rmtree(bench.scratch, ignore_errors=True)
    save(args.json, report(bench, started))
    for name, entry in bench.metrics.items():
        value = "-" if entry["median"] is None else f"{entry['median']:.2f}"
        marks = " (cut)" if entry["cut"] else ""
        extra = f"  {entry['errors'] or ''} {'; '.join(entry['notes'])}".rstrip()
        print(f"{name:32} {value:>12} {entry['unit']}{marks}{extra}")


if __name__ == "__main__":
    main()
