"""Clocks that are set back or forward by an hour while everything runs, on each party in turn: locks, leases, caches
and times go on as before."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clocks import Clocks
from lockers import programs
from support import MountedCluster, error, python, wait_until

from dfsfuse import home as homes

pytestmark = pytest.mark.mounted

ClockSet = contextlib.AbstractContextManager
HOUR_S = 3600
LEASE_S = 8.0
HELD_S = 2.5
SEEN_S = 2.0
SERVERS = {"directory": ("servers directory ", ["directory"]), "locks": ("servers locks ", ["locks"]),
           "file servers": ("servers files ", ["A", "B", "C"])}  # fmt: skip


class World:
    """Two mounts of one cluster, and the clocks of all its processes."""

    def __init__(self, cluster: MountedCluster):
        self.cluster, self.clocks = cluster, Clocks(cluster.folder / "clocks")
        cluster.environment = self.clocks.environment
        self.one, self.two = cluster.mount("--lock-wait", 20), cluster.mount("--lock-wait", 20)
        self._numbers = iter(range(1000))
        self.ctimes_ns: list[int] = []

    @contextlib.contextmanager
    def clock_set(self, party: str, seconds: int) -> Iterator[None]:
        """The block follows at once; where it is a client's clock, before the lock service could tell it anything."""
        with self.cluster.frozen("locks") if party == "client" else contextlib.nullcontext():
            self._set_clock(party, seconds)
            yield

    def _set_clock(self, party: str, seconds: int) -> None:
        if party == "client":
            self.clocks.set(f"{self.one.point} ", seconds, self.one.pid)
        elif party == "supervisor":
            self.clocks.set("servers all ", seconds, homes.read_cluster(self.cluster.home).supervisor_pid)
        else:
            who, names = SERVERS[party]
            self.clocks.set(who, seconds, *(self.cluster.servers()[name].pid for name in names))

    def file(self) -> str:
        return f"file{next(self._numbers)}"

    def token(self, name: str) -> int:
        rows = self.cluster.ask("locks", "locks")["locks"]
        return next((row["token"] for row in rows if row["path"] == f"/{name}"), 0)


def keeps(what: Callable[[], object], seconds: float = HELD_S) -> None:
    """It stays what it is, for longer than the parties need to notice each other."""
    before, until = what(), time.monotonic() + seconds
    while time.monotonic() < until:
        assert what() == before
        time.sleep(0.05)


def check_write_lock(world: World, clock_set: ClockSet) -> None:
    """Who writes goes on, others wait, whatever the clock says; then they are served, with the newest content."""
    name = world.file()
    with (world.one.point / name).open("wb", buffering=0) as writer:
        writer.write(b"one ")
        wait_until(lambda: world.token(name), "the lock is held")
        with clock_set, (world.one.point / name).open("ab") as more:
            more.write(b"more ")
        keeps(lambda: world.token(name))
        with error(errno.EAGAIN):
            os.open(world.two.point / name, os.O_WRONLY | os.O_NONBLOCK)
        writer.seek(0, os.SEEK_END)
        writer.write(b"goes on ")
        os.fsync(writer)
    with (world.two.point / name).open("ab", buffering=0) as writer:
        writer.write(b"two")
    assert (world.one.point / name).read_bytes() == b"one more goes on two"


def check_program_locks(world: World, clock_set: ClockSet) -> None:
    """fcntl locks hold between the mounts, and who waits is served."""
    name = world.file()
    (world.one.point / name).write_bytes(b"")
    with programs(2) as (holder, waiting):
        holder.open(world.one.point / name)
        holder.lock("w")
        waiting.open(world.two.point / name)
        holder.do("os.pwrite(fd, b'written', 0)")
        waiting.begin("lock(fd, 'w', how='SETLKW')")
        assert waiting.is_waiting()
        with clock_set:
            holder.do("os.pwrite(fd, b'goes on', 7)")
        assert waiting.is_waiting(HELD_S)
        holder.lock("u")
        waiting.result()
        assert waiting.do("os.pread(fd, 100, 0)") == b"writtengoes on"


def check_caches(world: World) -> None:
    """What is cached is known by its version: content of the same size and mtime is seen at each open; names, sizes and
    modes within the second."""
    name = world.file()
    for turn in range(4):
        writer, reader = (world.one, world.two) if turn % 2 else (world.two, world.one)
        (writer.point / name).write_bytes(b"%010d" % turn)
        os.utime(writer.point / name, ns=(5, 5))
        assert (reader.point / name).read_bytes() == b"%010d" % turn
        os.chmod(writer.point / name, 0o600 + turn)
        os.mkdir(writer.point / f"{name}-{turn}")
        wait_until(lambda: _mode(reader.point / name) == 0o600 + turn, "the mode", SEEN_S)  # noqa: B023
        wait_until(lambda: f"{name}-{turn}" in os.listdir(reader.point), "the name", SEEN_S)  # noqa: B023


def _mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def check_times(world: World, client_shift_s: int) -> None:
    """mtime is by the clock of who wrote, the same on each mount; ctime moves on with each change, wherever it is made,
    and never back."""
    name, seen = "timed", world.ctimes_ns
    for turn in range(3):
        writer, other = (world.one, world.two) if turn % 2 else (world.two, world.one)
        (writer.point / name).write_bytes(b"x" * turn)
        expected = time.time() + (client_shift_s if writer is world.one else 0)
        assert abs(os.stat(writer.point / name).st_mtime - expected) < 10
        assert os.stat(writer.point / name).st_mtime_ns == _fresh(other.point / name).st_mtime_ns
        os.chmod(other.point / name, 0o640 + turn)
        seen.append(os.stat(other.point / name).st_ctime_ns)
        os.utime(writer.point / name, ns=(5, turn))
        seen.append(os.stat(writer.point / name).st_ctime_ns)
    assert seen == sorted(set(seen)), "ctime never moves back, nor stands still"


def _fresh(path: Path) -> os.stat_result:
    with path.open("rb") as file:
        return os.fstat(file.fileno())


def check_a_killed_client(world: World, jump: Callable[[], None]) -> None:
    """Its lock is free after a lease, and not before its time, whatever the clock says."""
    name, victim = world.file(), world.cluster.mount()
    writer = python("import sys; f = open(sys.argv[1], 'w'); print('held', flush=True); sys.stdin.read()",
                    victim.point / name, stdin=-1)  # fmt: skip
    assert writer.stdout.readline() == "held\n"
    victim.kill()
    killed_at = time.monotonic()
    jump()
    with (world.two.point / name).open("w") as file:
        waited_s = time.monotonic() - killed_at
        file.write("served")
    writer.communicate("")
    assert LEASE_S - 2.0 < waited_s < LEASE_S + 2.0


def assert_nothing_was_lost(world: World) -> None:
    """No lock, no session, no content; no party took another one for dead."""
    assert not [name for name in os.listdir(world.one.point) if "(" in name or name == "lost+found"]
    for client in (world.one, world.two):
        for trouble in ("is lost", "has ended at the directory", "Traceback"):
            assert trouble not in client.log, client.log


@pytest.mark.parametrize("party", ["client", "directory", "locks", "file servers", "supervisor"])
def test_a_clock_that_is_set(fresh, party):
    """Goal: the clock of one party is set forward by an hour, then back by two, each time while a lock is held and
    waited for: no lock, lease or cache heeds it."""
    world = World(fresh)
    check_times(world, 0)
    for shift_s in (HOUR_S, -HOUR_S):
        check_write_lock(world, world.clock_set(party, shift_s))
        check_caches(world)
        check_times(world, shift_s if party == "client" else 0)
    check_program_locks(world, world.clock_set(party, HOUR_S))
    assert_nothing_was_lost(world)


@pytest.mark.parametrize("shift_s", [HOUR_S, -HOUR_S])
def test_a_lease_by_a_clock_that_is_set(fresh, shift_s):
    """Goal: S7. The lock of a killed client is free after its lease, not at once where the clock of directory and lock
    service is set forward, and not an hour later where it is set back. What these are started with anew is no other."""
    world = World(fresh)

    def jump() -> None:
        servers = fresh.servers()
        world.clocks.set("servers ", shift_s, servers["directory"].pid, servers["locks"].pid)

    check_a_killed_client(world, jump)
    name = world.file()
    with (world.one.point / name).open("wb", buffering=0) as writer:
        writer.write(b"goes on")
        for server in ("locks", "directory"):
            pid = fresh.servers()[server].pid
            fresh.kill(server)
            fresh.wait_for(server, other_than=pid)
        wait_until(lambda: world.token(name), "the lock is asserted again")
        keeps(lambda: world.token(name))
        os.fsync(writer)
    assert (world.two.point / name).read_bytes() == b"goes on"
    assert_nothing_was_lost(world)
