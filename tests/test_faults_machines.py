"""Several directory and lock servers and etcd on machines with networks of their own, which are cut, and die."""

import shutil
import subprocess
import sys

import pytest
from faults import sandbox
from support import ROOT

RUN_S = 300.0


@pytest.mark.mounted
def test_others_take_over() -> None:
    """Goal: S1, S2, S5, S9, S11. The machine whose directory serves is cut off from all, hears nobody, is cut off from
    the other machines alone, or dies: another directory serves within 5 s (and the time that etcd needs to elect a
    leader), and the former one answers nothing then. Programs on two mounts only wait, nobody ever has a file open for
    writing that another one has, and in the end both mounts have all that was acknowledged. What was cut off is as
    before without help. Without a machine whose directory stands by the same one serves on."""
    if why := sandbox.why_not():
        pytest.skip(f"NOT RUN: {why}")
    if shutil.which("etcd") is None:
        pytest.fail("there is no etcd: .ci/setup test installs it")
    command = sandbox.command(sys.executable, "-m", "faults.takeovers")
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=RUN_S, check=False)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr
