"""Clients that are killed at random moments while programs write, and the next mount after each: what was acknowledged
is there, what was not is old or new and never torn, and nothing comes back that was dealt with."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import ROOT, Mount, alive, processes_of, wait_until

pytestmark = pytest.mark.mounted

ROUNDS = 100 if os.environ.get("DFS_LONG") else 7
SEED = int(os.environ.get("DFS_SEED", "11"))
WRITERS = 4
NAMES_EACH = 6
GOES_ON_S = 1.0


class File:
    """A name that one thread works on. `now`: what was acknowledged (None: there is no such file); `next`: what an
    operation that is under way makes of it, or has just not been acknowledged."""

    def __init__(self) -> None:
        self.now: bytes | None = None
        self.next: list[bytes | None] = []

    @contextlib.contextmanager
    def becomes(self, content: bytes | None):
        """The block is acknowledged with its end. A new file is made by its open, before it has content."""
        self.next += [content] if self.now is not None or content is None else [b"", content]
        yield
        self.now, self.next = content, []

    def settle(self, found: bytes | None) -> None:
        assert found == self.now or found in self.next, (
            f"{_told(found)}, but {_told(self.now)} was acknowledged, then {list(map(_told, self.next))} begun"
        )
        self.now, self.next = found, []


def _told(content: bytes | None) -> str:
    return "nothing" if content is None else f"{len(content)} bytes {content[:12]!r}...{content[-12:]!r}"


class Writer:
    """A thread that changes files of its own in all ways, one after the other, until the mount is dead."""

    def __init__(self, folder: Path, number: int, seed: str):
        self.folder, self._random = folder, random.Random(seed)
        self.files = {f"w{number}-{name}.txt": File() for name in range(NAMES_EACH)}
        self.temporary = File()
        self.temporary_name = f"w{number}.tmp"
        self.trouble: BaseException | None = None
        self._made = 0

    def work(self) -> None:
        ways = (self._replace, self._save, self._append, self._sync, self._patch, self._truncate, self._remove)
        try:
            while True:
                name = self._random.choice(sorted(self.files))
                self._random.choice(ways)(self.folder / name, self.files[name])
        except OSError:
            pass
        except BaseException as trouble:
            self.trouble = trouble

    def _content(self) -> bytes:
        """Every piece of it says where it is and of which write, so what is torn is seen."""
        self._made += 1
        pieces = self._random.choice((1, 300, 300, 9000, 80_000))
        return b"".join(b"%08d.%08d;" % (self._made, number) for number in range(pieces))

    def _replace(self, path: Path, file: File) -> None:
        with file.becomes(content := self._content()):
            path.write_bytes(content)

    def _save(self, path: Path, file: File) -> None:
        """As editors do it."""
        with self.temporary.becomes(content := self._content()):
            (self.folder / self.temporary_name).write_bytes(content)
        with self.temporary.becomes(None), file.becomes(content):
            os.rename(self.folder / self.temporary_name, path)

    def _append(self, path: Path, file: File) -> None:
        more = self._content()
        with file.becomes((file.now or b"") + more), path.open("ab") as handle:
            handle.write(more)

    def _sync(self, path: Path, file: File) -> None:
        first, second = self._content(), self._content()
        with contextlib.ExitStack() as closing:
            with file.becomes(first):
                handle = closing.enter_context(path.open("wb", buffering=0))
                handle.write(first)
                os.fsync(handle)
            with file.becomes(first + second):
                handle.write(second)
                closing.close()

    def _patch(self, path: Path, file: File) -> None:
        if file.now and len(file.now) > 1000:
            at = self._random.randrange(len(file.now) - 500)
            patched = file.now[:at] + b"PATCHED" * 50 + file.now[at + 350 :]
            with file.becomes(patched), path.open("r+b", buffering=0) as handle:
                handle.seek(at)
                handle.write(b"PATCHED" * 50)

    def _truncate(self, path: Path, file: File) -> None:
        if file.now:
            with file.becomes(file.now[: len(file.now) // 2]):
                os.truncate(path, len(file.now) // 2)

    def _remove(self, path: Path, file: File) -> None:
        if file.now is not None:
            with file.becomes(None):
                path.unlink()


class Load:
    """Several writers on one mount, and each time a file that is written and kept open; they know what must be there
    whenever it was killed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers = [Writer(folder, number, f"{SEED}-{number}") for number in range(WRITERS)]
        self._threads: list[threading.Thread] = []
        self._held: dict[str, File] = {}
        self._open = contextlib.ExitStack()

    def begin(self) -> None:
        self._hold(f"held-{len(self._held)}.txt", b"held" * 1000)
        self._threads = [threading.Thread(target=writer.work, daemon=True) for writer in self.writers]
        for thread in self._threads:
            thread.start()

    def _hold(self, name: str, content: bytes) -> None:
        self._held[name] = File()
        self._held[name].next = [b"", content]
        self._open.enter_context(contextlib.suppress(OSError))
        self._open.enter_context((self.folder / name).open("wb", buffering=0)).write(content)

    def end(self) -> None:
        """The mount is dead."""
        self._open.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a call into a dead mount hangs"
        for writer in self.writers:
            assert writer.trouble is None, writer.trouble

    def files(self) -> dict[str, File]:
        found = {name: file for writer in self.writers for name, file in writer.files.items()}
        return found | {writer.temporary_name: writer.temporary for writer in self.writers} | self._held

    def check(self) -> int:
        """What is there is what was acknowledged, or what was under way; how many recovered copies there are, which go.
        They are of what was under way alone, and have nothing but what was written."""
        files, there = self.files(), set(os.listdir(self.folder))
        copies = there - set(files)
        for copy in copies:
            name, kind, _ = copy.partition(" (recovered ")
            assert kind, f"{copy} is no recovered copy"
            (original,) = [known for known in files if known.rpartition(".")[0] == name]
            content = (self.folder / copy).read_bytes()
            begun = [b"", *filter(None, [files[original].now, *files[original].next])]
            assert any(whole.startswith(content) for whole in begun), f"{copy} has {_told(content)}"
            assert files[original].next, f"nobody was writing to {original}"
            os.unlink(self.folder / copy)
        for name, file in files.items():
            file.settle((self.folder / name).read_bytes() if name in there else None)
        return len(copies)


def mount_that_is_killed(client: Mount, moments: random.Random) -> None:
    """mount.py on a dead mount; its client is killed again at some moment of its start, or after it."""
    command = [sys.executable, ROOT / "mount.py", client.point, "--home", client.home]
    command += ["--driver", client.cluster.driver]
    starting = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    daemons = lambda: [p for p, line in processes_of(client.point).items() if "--ready-fd" in line]  # noqa: E731
    (pid,) = wait_until(daemons, "the client begins")
    time.sleep(moments.random())
    os.kill(pid, signal.SIGKILL)
    starting.communicate(timeout=30)
    wait_until(lambda: not alive(pid), "the client is gone")


def wait_until_nothing_is_left(client: Mount, begun_in_vain: int) -> None:
    """What the next mount had no time for before it answered, it does within seconds; of the dead clients nothing is
    left at the directory, save sessions of those that were killed when they had just begun one, and held nothing."""
    status = lambda: Dfs(client.cluster).json("status")  # noqa: E731
    wait_until(lambda: status()["uploads"] == [], "all is sent, or kept as a copy", 20)
    assert [row["mountpoint"] for row in status()["sessions"]].count(str(client.point)) <= 1 + begun_in_vain


def test_killed_at_any_moment(fresh):
    """Goal: S4, S15. Four programs write, save, append, sync, patch, cut and remove while their client is killed, at
    random moments, some of them with the file servers standing still, so that much waits, and some in the start of the
    next client. After each the next mount has all that was acknowledged; what was under way is old or new; what nobody
    had closed is a recovered copy; there are no conflicts, as nobody else writes. Another mount sees the same. DFS_SEED
    chooses other moments, DFS_LONG=1 does 100 rounds."""
    moments, client, other = random.Random(SEED), fresh.mount(), fresh.mount()
    load = Load(client.point / "work")
    load.folder.mkdir()
    for number in range(ROUNDS):
        load.begin()
        time.sleep(moments.random() * GOES_ON_S)
        with fresh.frozen("A", "B", "C") if number % 3 == 1 else contextlib.nullcontext():
            time.sleep(moments.random() / 5)
            client.kill()
        load.end()
        if number % 3 == 2:
            mount_that_is_killed(client, moments)
        client = fresh.mount(point=client.point)
        wait_until_nothing_is_left(client, begun_in_vain=(number + 1) // 3)
        assert load.check(), "what was open is kept"
        seen = {name: (other.point / "work" / name).read_bytes() for name in os.listdir(other.point / "work")}
        assert seen == {name: file.now for name, file in load.files().items() if file.now is not None}
    assert sum(writer._made for writer in load.writers) > 10 * ROUNDS
    assert not (other.point / "lost+found").exists()


def test_the_next_client_ends_the_killed_ones_session(fresh):
    """Goal: S7, S11. With the next mount on its mountpoint a killed client's locks are free, and what it had open
    without a name is gone, both at once: not after the lease, and not after the ten minutes for which open files are
    kept."""
    client, other = fresh.mount(), fresh.mount()
    status = lambda: Dfs(fresh).json("status")  # noqa: E731
    before = status()["inodes"]
    handles = [written_and_open(client.point / name) for name in ("held", "unlinked")]
    os.unlink(client.point / "unlinked")
    known = status()
    assert known["inodes"] == before + 2
    (dead,) = (row["session"] for row in known["sessions"] if row["pid"] == client.pid)
    client.kill()
    for handle in handles:
        with pytest.raises(OSError):  # noqa: PT011 - ECONNABORTED for the first, then ENOTCONN
            os.close(handle)
    fresh.mount(point=client.point)
    assert dead not in {row["session"] for row in status()["sessions"]}
    assert dead not in {row["session"] for row in fresh.ask("locks", "locks")["locks"] if row["token"]}
    assert status()["inodes"] == before + 1
    with (other.point / "held").open("r+b") as file:
        file.write(b"WRITTEN")
    assert (client.point / "held").read_bytes() == b"WRITTEN"


def written_and_open(path: Path) -> int:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"written")
    os.fsync(handle)
    return handle
