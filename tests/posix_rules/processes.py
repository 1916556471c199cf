"""Rules that need another process or another user: children that are forked, bounded by a deadline, and reaped.

Threads: a forked child has the calling thread alone, and ends without the parent's handlers.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from support import wait_until

DEADLINE_S = 10.0
USER, OTHER_USER, GROUP, OTHER_GROUP = 54321, 54322, 54331, 54332
"""Numbers that no account of this machine has."""


def needs_root(rule: Callable[[Path], None]) -> Callable[[Path], None]:
    """Marks a rule that only root can try."""
    rule.needs_root = True
    return rule


class Peer:
    """The other one of two processes: what it says is heard in order."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def say(self, value: Any = None) -> None:
        self._connection.send(("said", value))

    def hear(self) -> Any:
        """What it says next; raises what it has ended with."""
        kind, value = self._next()
        if kind == "failed":
            _raise(value)
        assert kind == "said", f"it has ended, with {value!r}"
        return value

    def result(self) -> Any:
        """What its work returns; raises what it raises."""
        kind, value = self._next()
        if kind == "failed":
            _raise(value)
        assert kind == "returned", f"it has not ended, but said {value!r}"
        return value

    def silent(self) -> bool:
        """It has said nothing that was not heard."""
        return not self._connection.poll(0)

    def _next(self) -> tuple[str, Any]:
        assert self._connection.poll(DEADLINE_S), f"nothing heard within {DEADLINE_S:g} s"
        try:
            return self._connection.recv()
        except EOFError:
            raise AssertionError("it ended without a word") from None


def _raise(failure: tuple[int | None, str]) -> NoReturn:
    number, text = failure
    if number is not None:
        raise OSError(number, text)
    raise AssertionError(text)


class Child(Peer):
    """A forked process. `pid` is its number."""

    def __init__(self, connection: Connection, pid: int):
        super().__init__(connection)
        self.pid = pid
        self._status: int | None = None

    def sleeps(self) -> bool:
        """It waits in a system call."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def wait_asleep(self) -> None:
        wait_until(self.sleeps, "the child waits in a system call", DEADLINE_S)

    def kill(self) -> None:
        """SIGKILL, and its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.status()

    def status(self) -> int:
        """How it ended: the exit status, or minus the signal."""
        wait_until(self._reaped, f"process {self.pid} ends", DEADLINE_S)
        assert self._status is not None
        return self._status

    def _reaped(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None


@contextlib.contextmanager
def child(work: Callable[..., Any], *arguments: Any) -> Iterator[Child]:
    """A process that calls `work(parent, *arguments)`; it is ended with the block."""
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        _run(work, Peer(theirs), theirs, arguments)
    theirs.close()
    process = Child(ours, pid)
    try:
        yield process
    finally:
        process.kill()
        ours.close()


def _run(work: Callable[..., Any], parent: Peer, connection: Connection, arguments: tuple[Any, ...]) -> NoReturn:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()
    try:
        connection.send(("returned", work(parent, *arguments)))
    except OSError as error:
        connection.send(("failed", (error.errno, str(error))))
    except BaseException:
        connection.send(("failed", (None, f"in the child:\n{traceback.format_exc()}")))
    finally:
        os._exit(0)


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(*arguments)` returns or raises in a process of its own."""
    with child(lambda _: work(*arguments)) as process:
        return process.result()


def as_user(
    work: Callable[..., Any], *arguments: Any, uid: int = USER, gid: int = GROUP, groups: tuple[int, ...] = ()
) -> Any:
    """What `work(*arguments)` returns or raises in a process of this user."""

    def become_and_work() -> Any:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return work(*arguments)

    return in_child(become_and_work)
