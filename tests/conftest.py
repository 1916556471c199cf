"""Fixtures of all tests. What a fixture has started, or a test in its folder, is ended also when the test fails."""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from descriptors import closed_afterwards, none_stays
from dfs_command import Dfs, running
from support import DRIVER, Mount, MountedCluster, clean_up, hung, mounted_cluster
from volume_checks import assert_whole
from volumes import Volume

from dfsfuse import mountpoint
from dfsfuse.cluster import find_or_start
from dfsfuse.endpoints import Endpoint
from servers.store.memory import MemoryStore

HUNG_S = 900.0 if os.environ.get("DFS_LONG") else 100.0

pytest.register_assert_rewrite("posix_rules")


@pytest.fixture(scope="module", autouse=True)
def _no_descriptors_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    with none_stays(request.node.name):
        yield


@pytest.fixture(autouse=True)
def _left_open_is_closed() -> Iterator[None]:
    with closed_afterwards():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name. Mounts below it and processes that name it are ended after the test."""
    made = Path(tempfile.mkdtemp(prefix="dfs-", dir="/tmp"))
    try:
        yield made
    finally:
        clean_up(made)
        shutil.rmtree(made)


@pytest.fixture
def home(folder: Path) -> Path:
    """The home of a cluster; it is not there yet."""
    return folder / "home"


@pytest.fixture
def cluster(home: Path) -> Iterator[Endpoint]:
    """The embedded cluster of `home`, running, and used until the test ends."""
    with find_or_start(home, 60) as endpoint:
        yield endpoint


# -- the command


@pytest.fixture(scope="module")
def dfs() -> Iterator[Dfs]:
    """The command, for a cluster that the tests of a module share."""
    with running() as command:
        yield command


@pytest.fixture
def top(request: pytest.FixtureRequest, dfs: Dfs) -> str:
    """A folder of the volume for one test."""
    path = f"/{request.node.name.replace('[', '-').replace(']', '')}"
    dfs("mkdir", path)
    return path


# -- real mounts


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skipped here, so that pytest folds all of them into one line."""
    if item.get_closest_marker("mounted") and not mountpoint.FUSE_DEVICE.exists():
        pytest.skip(f"NOT RUN: ALL TESTS ON REAL MOUNTS, as there is no {mountpoint.FUSE_DEVICE}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("drivers")
        drivers = marker.args if marker else (DRIVER,)
        wanted = [name for name in drivers if name == os.environ.get("DFS_TEST_DRIVER", name)]
        metafunc.parametrize("driver", wanted, indirect=True, scope="module")


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> str:
    """The driver of the mounts."""
    return request.param


@pytest.fixture(scope="module")
def shared(driver: str) -> Iterator[MountedCluster]:
    """One cluster for all tests of a module; they must leave it as they find it."""
    with mounted_cluster(driver) as cluster:
        yield cluster
        assert_whole(cluster.home, read=True)


@pytest.fixture
def fresh(driver: str) -> Iterator[MountedCluster]:
    """A cluster for one test, which may do to it what it wants."""
    with mounted_cluster(driver) as cluster, watched(cluster):
        yield cluster
        if cluster.stays_whole:
            assert_whole(cluster.home)


@pytest.fixture(scope="module")
def first(shared: MountedCluster) -> Mount:
    """The first client of the module's cluster."""
    return shared.mount()


@pytest.fixture(scope="module")
def second(shared: MountedCluster) -> Mount:
    """Another client of the same cluster, with a cache of its own."""
    return shared.mount()


@pytest.fixture
def mount(request: pytest.FixtureRequest, first: Mount) -> Iterator[Path]:
    """A folder for this test on a real mount."""
    folder = first.point / re.sub(r"\W+", "_", request.node.name)
    folder.mkdir()
    with watched(first.cluster):
        yield folder
    assert_whole(first.cluster.home)


@pytest.fixture
def two_mounts(first: Mount, second: Mount, mount: Path) -> tuple[Path, Path]:
    """The same folder on two real mounts."""
    return mount, second.point / mount.relative_to(first.point)


@contextlib.contextmanager
def watched(cluster: MountedCluster) -> Iterator[None]:
    """A call into a mount that never ends would hang the whole run."""
    watchdog = threading.Timer(HUNG_S, hung, [cluster.folder])
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


@pytest.fixture
def volume() -> Iterator[Volume]:
    """In memory; whole in the end."""
    made = Volume(MemoryStore())
    yield made
    made.check()
