"""The rules of POSIX and Linux (tests/posix_rules), each on a folder of the local disk and on a real mount.

A rule that the local disk does not keep is wrong. One that the mount does not keep stands in known.py with the reason;
it fails the run as soon as the mount keeps it.
"""

import errno
import inspect
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from posix_rules.known import KNOWN
from posix_rules.processes import child, in_child
from posix_rules.registry import MODULES, RULES, Rule, room
from support import ROOT, Mount, MountedCluster, error

RULE_S = 30.0
RULES_MIN = 300
_SOURCE = re.compile(r"\((POSIX [\w/. ]+|[\w.]+\(\d\)[\w ]*)\)$")


def _cases(*, mounted: bool) -> list:
    cases = []
    for name, rule in RULES.items():
        marks = [pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it")] * hasattr(rule, "needs_root")
        if mounted and name in KNOWN:
            marks.append(pytest.mark.xfail(strict=True, reason=KNOWN[name]))
        cases.append(pytest.param(rule, id=f"{room(rule)}-{name}", marks=marks))
    return cases


@pytest.fixture(autouse=True)
def plain_process() -> Iterator[None]:
    """The usual umask, and an end to what waits for ever."""

    def too_long(*_: object) -> None:
        pytest.fail(f"not done within {RULE_S:g} s")

    mask, handler = os.umask(0o022), signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, RULE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        os.umask(mask)


def _is_plain_ext4(folder: Path) -> bool:
    """The rules are those of ext4 as Debian mounts it: an overlay of a container, or noatime, has others."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    device = os.stat(folder).st_dev
    here = [fields for fields in mounts if fields[2] == f"{os.major(device)}:{os.minor(device)}"]
    return any(fields[fields.index("-") + 1] == "ext4" and "relatime" in fields[5].split(",") for fields in here)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A folder on a local ext4, that every user may enter."""
    places = [Path(place) for place in (tempfile.gettempdir(), "/var/tmp", ROOT)]
    place = next(filter(_is_plain_ext4, places), None)
    if place is None:
        pytest.skip(f"NOT RUN: THE RULES OF POSIX ON THE LOCAL DISK, as none of {', '.join(map(str, places))} is ext4")
    with tempfile.TemporaryDirectory(prefix="dfs-", dir=place) as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@pytest.fixture
def local(disk: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for this test on the local disk."""
    folder = disk / re.sub(r"\W+", "_", request.node.name)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("rule", _cases(mounted=False))
def test_local_disk_keeps(rule: Rule, local: Path):
    """Goal: every rule is one that programs can rely on today."""
    rule(local)


@pytest.fixture(scope="module")
def first(shared: MountedCluster) -> Mount:
    """As a local disk is mounted: set-id bits and device nodes count."""
    return shared.mount(*["--suid", "--dev"] * (os.geteuid() == 0))


@pytest.mark.mounted
@pytest.mark.parametrize("rule", _cases(mounted=True))
def test_mount_keeps(rule: Rule, mount: Path):
    """Goal: programs cannot tell the mount from a local disk by any of these rules."""
    rule(mount)


def test_rules_are_stated():
    """Goal: each rule takes a folder, and says what it is and which page it is from."""
    assert len(RULES) >= RULES_MIN
    for name, rule in RULES.items():
        assert list(inspect.signature(rule).parameters) == ["folder"], name
        assert _SOURCE.search(" ".join((inspect.getdoc(rule) or "").split())), f"{name} names no page"


def test_a_rule_fails_with_its_children():
    """Goal: what fails in a child process, or does not come to an end there, fails the rule."""
    with error(errno.ENOENT):
        in_child(os.stat, "/none")
    with pytest.raises(AssertionError, match="in the child"):
        in_child(_wrong)
    with child(lambda parent: parent.hear()) as process:
        assert process.silent()
    assert process.status() == -signal.SIGKILL


def _wrong() -> None:
    assert os.getpid() == 0


def test_known_exceptions_are_rules():
    """Goal: the table of what a mount does not keep names rules that exist."""
    assert KNOWN.keys() <= RULES.keys()


def test_every_module_of_rules_is_listed():
    """Goal: no rule is forgotten because its module is not in the registry."""
    package = ROOT / "tests" / "posix_rules"
    helpers = {"__init__", "calls", "files", "known", "lists", "locking", "memory", "processes", "registry"}
    listed = {module.__name__.rpartition(".")[2] for module in MODULES}
    assert {module.stem for module in package.glob("*.py")} - helpers == listed
