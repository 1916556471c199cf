"""python -m programs [NAME ...]: run programs on two mounts of a new volume and on the local disk, and compare.

Run in tests/. Exit status 1 if one fails, or ends otherwise than on the local disk; a program that this machine does
not have is a failure too.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from support import mounted_cluster

from programs import Program, databases, files, missing, suites

ALL: dict[str, tuple[Program, tuple[str, ...]]] = {
    "git": (files.git, ("git",)),
    "tar": (files.tar, ("tar",)),
    "rsync": (files.rsync, ("rsync",)),
    "make": (files.make, ("make", "cc")),
    "venv": (files.venv, ()),
    "sqlite": (databases.sqlite, ()),
    "postgresql": (databases.postgresql, ()),
    "cpython": (suites.cpython, ()),
    "fio": (suites.fio, ("fio",)),
    "stress_ng": (suites.stress_ng, ("stress-ng",)),
}


def timed(program: Program, here: Path, there: Path) -> tuple[object, float]:
    begun = time.monotonic()
    return program(here, there), time.monotonic() - begun


def compare(name: str, local: Path, mounts: tuple[Path, Path]) -> bool:
    """Run one program in both places; prints how it went."""
    program, needed = ALL[name]
    if absent := missing(*needed):
        print(f"{name:12} NOT RUN: this machine lacks {', '.join(absent)}", flush=True)
        return False
    places = [[top / name for top in tops] for tops in ((local, local), mounts)]
    for here, _ in places:
        here.mkdir()
    try:
        expected, on_disk_s = timed(program, *places[0])
        got, on_mount_s = timed(program, *places[1])
    except Exception as error:
        print(f"{name:12} FAILED: {type(error).__name__}: {error}", flush=True)
        return False
    verdict = "ok" if got == expected else f"DIFFERS: {got!r:.2000} and not {expected!r:.2000}"
    print(f"{name:12} {verdict}; {on_mount_s:.1f} s, local disk {on_disk_s:.1f} s", flush=True)
    return got == expected


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m programs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; else all")
    names = parser.parse_args().names or list(ALL)
    if unknown := set(names) - set(ALL):
        parser.error(f"no program {', '.join(sorted(unknown))}")
    local = Path(tempfile.mkdtemp(prefix="dfs-", dir="/var/tmp"))
    local.chmod(0o755)
    try:
        with mounted_cluster() as cluster:
            mounts = (cluster.mount().point, cluster.mount().point)
            outcomes = [compare(name, local, mounts) for name in names]
            return 0 if all(outcomes) else 1
    finally:
        shutil.rmtree(local, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
