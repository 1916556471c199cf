"""Programs that test file systems, and Python's own tests: what fails here and not on the local disk."""

import importlib.util
import re
import sys
from pathlib import Path

from programs import attempt, run

CPYTHON = [
    "test_os", "test_shutil", "test_tempfile", "test_pathlib", "test_glob", "test_zipfile", "test_tarfile",
    "test_mailbox", "test_fileio", "test_io", "test_mmap", "test_fcntl", "test_sqlite3", "test_dbm", "test_shelve",
    "test_largefile",
]  # fmt: skip


def cpython(here: Path, there: Path, tests: list[str] | None = None) -> object:
    """Python's own tests with their temporary folder on the mount; the names of those that fail. Distributions leave
    some out."""
    there_are = [name for name in tests or CPYTHON if importlib.util.find_spec(f"test.{name}")]
    assert len(there_are) > len(tests or CPYTHON) // 2, f"{sys.executable} is without its own tests"
    command = (
        sys.executable,
        "-m",
        "test",
        "--tempdir",
        here,
        "-v",
        "--timeout",
        "600",
        "-u",
        "largefile",
        *there_are,
    )
    outcome = attempt(*command, cwd=here, timeout_s=3000, env={"TMPDIR": str(here)})
    said = outcome.stdout + outcome.stderr
    assert re.search(r"Tests result|== Tests result|Total duration", said), said[-3000:]
    return sorted(set(re.findall(r"^(?:FAIL|ERROR): (\S+ \(\S+\))", said, re.MULTILINE)))


def fio(here: Path, there: Path) -> object:
    """Random writes and reads of two jobs, then each block verified, through the page cache and through a mapping."""
    for engine in ("psync", "mmap"):
        run(
            "fio", "--name=verify", f"--directory={here}", f"--ioengine={engine}", "--rw=randrw", "--bs=16k",
            "--size=24m", "--numjobs=2", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fsync=64",
            "--group_reporting", "--randseed=7", cwd=here,
        )  # fmt: skip
    return None


def stress_ng(here: Path, there: Path, seconds: int = 2) -> object:
    """Each stressor of the class "filesystem" for some seconds; the names of those that fail."""
    outcome = attempt(
        "stress-ng", "--class", "filesystem", "--sequential", "1", "--timeout", f"{seconds}s", "--temp-path", here,
        "--verify", "--oomable", "--metrics-brief", cwd=here, timeout_s=1500,
    )  # fmt: skip
    said = outcome.stdout + outcome.stderr
    assert "successful run" in said or "unsuccessful run" in said or "skipped" in said, said[-3000:]
    return sorted(set(re.findall(r"^stress-ng: fail: +\[\d+\] (\w+):", said, re.MULTILINE)))
