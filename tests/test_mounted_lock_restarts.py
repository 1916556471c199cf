"""The lock service is killed, and stands still, while real clients contend: one holder at a time, tokens that only
rise, waiters in their places."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support import DEADLINE_S, Mount, MountedCluster, python, wait_until

pytestmark = pytest.mark.mounted

ROUNDS = 20 if os.environ.get("DFS_LONG") else 4
SEED = int(os.environ.get("DFS_SEED", "7"))
CONTENDERS = 3
LEASE_S = 8.0

COUNTING = """
import os, random, sys, time
path, diary, name = sys.argv[1:]
random.seed(name)
diary = os.open(diary, os.O_WRONLY | os.O_APPEND)
def write(*words): os.write(diary, (' '.join(map(str, (name, *words))) + chr(10)).encode())
print('ready', flush=True)
while os.getppid() != 1:
    try: file = os.open(path, os.O_RDWR)
    except OSError as error:
        write('refused', error.errno)
        continue
    write('enter')
    number = int(os.pread(file, 20, 0)) + 1
    time.sleep(random.random() / 50)
    os.pwrite(file, b'%20d' % number, 0)
    write('leave', number)
    try: os.close(file)
    except OSError as error: write('failed', error.errno)
    # Else the lock stays on this mount.
    time.sleep(0.02 + random.random() / 20)
"""

OPENING = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
os.write(file, sys.argv[2].encode())
os.close(file)
"""


class Tokens:
    """Looks at the lock service all the time: for each inode the tokens and their holders, as they are seen."""

    def __init__(self, cluster: MountedCluster):
        self._cluster, self._ended = cluster, threading.Event()
        self.seen: dict[int, list[tuple[int, int]]] = {}
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            with contextlib.suppress(requests.RequestException, AssertionError):
                for row in self._cluster.ask("locks", "locks")["locks"]:
                    seen, now = self.seen.setdefault(row["ino"], []), (row["token"], row["session"])
                    if row["token"] and now != (seen[-1] if seen else None):
                        seen.append(now)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        for seen in self.seen.values():
            tokens = [token for token, _ in seen]
            assert all(former < later for former, later in zip(tokens, tokens[1:], strict=False)), "they only rise"


@contextlib.contextmanager
def contenders(clients: list[Mount], diary: Path) -> Iterator[None]:
    """A program on each mount takes the file in turn with the others, and counts in it."""
    running: list[subprocess.Popen] = []
    try:
        for number, client in enumerate(clients):
            running.append(python(COUNTING, client.point / "counter", diary, f"p{number}"))
        for program in running:
            assert program.stdout.readline() == "ready\n"
        yield
    finally:
        for program in running:
            program.kill()
            program.communicate()


def lines_of(diary: Path, word: str) -> list[str]:
    return [line for line in diary.read_text().splitlines() if line.split()[1] == word]


def check_diary(diary: Path) -> int:
    """Nobody was in while another one was; nobody's close() failed. How far they have counted."""
    assert lines_of(diary, "failed") == lines_of(diary, "refused") == []
    inside, number = "", 0
    for line in diary.read_text().splitlines():
        who, what, *more = line.split()
        if what == "enter":
            assert not inside, f"{who} came in while {inside} was"
            inside = who
        else:
            assert (what, who, int(more[0])) == ("leave", inside, number + 1), "what one counted the next one has read"
            inside, number = "", number + 1
    return number


def restart(cluster: MountedCluster) -> None:
    pid = cluster.servers()["locks"].pid
    os.kill(pid, signal.SIGKILL)
    cluster.wait_for("locks", other_than=pid)


def stand_still(cluster: MountedCluster, seconds: float) -> None:
    """SIGSTOP, and SIGCONT when the time is over."""
    with cluster.frozen("locks"):
        time.sleep(seconds)


def test_one_holder_at_a_time_whatever_the_lock_service_does(fresh):
    """Goal: S5, S7. Programs on three mounts count in one file while the lock service is killed, and stands still for
    shorter than its lease and for longer: none meets another one, none misses what another one has written, no open or
    close fails, and tokens only rise. Moments are random; DFS_SEED chooses others, DFS_LONG=1 does more."""
    moments, diary = random.Random(SEED), fresh.folder / "diary"
    clients = [fresh.mount("--lock-wait", 60) for _ in range(CONTENDERS)]
    (clients[0].point / "counter").write_bytes(b"%20d" % 0)
    diary.touch()
    tokens = Tokens(fresh)
    try:
        with contenders(clients, diary):
            for number in range(ROUNDS):
                restart(fresh)
                time.sleep(moments.random() / 2)
                stand_still(fresh, LEASE_S + 1.0 if number == 1 else moments.random())
                counted = len(lines_of(diary, "leave"))
                wait_until(lambda counted=counted: len(lines_of(diary, "leave")) > counted + 5, "they go on", 40)
            time.sleep(0.2)
    finally:
        tokens.end()
    counted = check_diary_of_the_killed(diary)
    assert counted > 5 * ROUNDS
    tokens.check()
    assert len(tokens.seen) >= 1
    assert max(map(len, tokens.seen.values())) > ROUNDS, "enough of the tokens were seen"


def check_diary_of_the_killed(diary: Path) -> int:
    """The last line may be of one who was killed inside."""
    text = diary.read_text().splitlines()
    while text and text[-1].split()[1] == "enter":
        text.pop()
    diary.write_text("\n".join(text) + "\n")
    return check_diary(diary)


@pytest.mark.parametrize("how", ["killed", "stood still"])
def test_waiters_have_their_places_again(fresh, how):
    """Goal: S5. Four mounts wait in a known order while a fifth one writes; the lock service is killed three times, or
    stands still for longer than a lease: they are served in that order, the writer keeps its lock."""
    clients = [fresh.mount("--lock-wait", 60) for _ in range(5)]
    (clients[0].point / "file").write_text("")
    order, waiting = [3, 1, 4, 2], []

    def waiters() -> list[int]:
        with contextlib.suppress(requests.RequestException, AssertionError):
            rows = [row for row in fresh.ask("locks", "locks")["locks"] if row["path"] == "/file"]
            return [waiter["pid"] for row in rows for waiter in row["waiters"]]
        return []

    with (clients[0].point / "file").open("r+") as writer:
        for place in order:
            waiting.append(python(OPENING, clients[place].point / "file", f"{place} "))
            wait_until(lambda: len(waiters()) == len(waiting), "it waits")
        pids = waiters()
        if how == "killed":
            for _ in range(3):
                restart(fresh)
                wait_until(lambda: len(waiters()) == len(pids), "all wait again")
                assert waiters() == pids
        else:
            stand_still(fresh, LEASE_S + 2.0)
        writer.write("writer ")
    for program in waiting:
        _, complaint = program.communicate(timeout=DEADLINE_S)
        assert program.returncode == 0, complaint
    assert (clients[0].point / "file").read_text().split() == ["writer", *map(str, order)]
