"""The simulator of tests/simulation: thousands of runs keep every promise, and each can be repeated exactly."""

import os
import re
import subprocess
import sys

import pytest
from support import ROOT

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))


def simulate(*arguments: str) -> tuple[int, str]:
    """(exit status, output) of `python -m simulation` in tests/."""
    command = [sys.executable, "-m", "simulation", *arguments]
    ended = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, errors="replace", timeout=3600)
    return ended.returncode, ended.stdout + ended.stderr


def test_promises_are_kept() -> None:
    """Goal: S1 to S6, S8 to S10, S12, S13, S15: whatever fails, in whatever order, no promise is broken."""
    status, output = simulate("--seeds", str(SEEDS))
    assert status == 0, output


def test_what_ran_before_changes_nothing() -> None:
    """Goal: a failing seed is replayed alone, with its trace: it is the same run as after others in one process."""

    def each(row: int) -> list[str]:
        status, output = simulate("--seeds", "24", "--each", "--row", str(row))
        assert status == 0, output
        return sorted(line for line in output.splitlines() if line.startswith("seed "))

    together, alone = each(12), each(1)
    assert len(alone) == 24
    assert together == alone
    replayed = re.search(r"^digest (.+)$", simulate("--seed", "7")[1], flags=re.M)[1]
    assert next(line for line in alone if line.startswith("seed 7:")).endswith(f"; {replayed}")


@pytest.mark.parametrize("seed", ["3", "10"])
def test_a_seed_replays_exactly(seed: str) -> None:
    """Goal: a failure can be looked at again: two runs of a seed have the same trace to the last line."""
    first, second = simulate("--seed", seed), simulate("--seed", seed)
    assert first == second
    assert first[0] == 0
    assert "is healed" in first[1]
