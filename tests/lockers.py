"""Programs that tests make do things one after the other, each in a process of its own: opening, locking, dying."""

import ast
import contextlib
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import DEADLINE_S, python

_LOOP = """
import ctypes, errno, fcntl, mmap, os, signal, struct, sys
signal.signal(signal.SIGINT, lambda number, frame: None)
signal.siginterrupt(signal.SIGINT, True)
_libc = ctypes.CDLL(None, use_errno=True)

def lock(fd, kind, start=0, length=0, how='SETLK'):
    'fcntl locks by F_SETLK, F_SETLKW, F_GETLK, or F_OFD_... : (kind, start, length, pid) that came back.'
    number = {'SETLK': 6, 'SETLKW': 7, 'GETLK': 5, 'OFD_GETLK': 36, 'OFD_SETLK': 37, 'OFD_SETLKW': 38}[how]
    kind = {'r': fcntl.F_RDLCK, 'w': fcntl.F_WRLCK, 'u': fcntl.F_UNLCK}[kind]
    answer = ctypes.create_string_buffer(struct.pack('hhqqi4x', kind, 0, start, length, 0))
    # Not fcntl.fcntl, which begins again after a signal.
    if _libc.fcntl(fd, number, answer) != 0:
        raise OSError(ctypes.get_errno(), 'fcntl')
    kind, _, start, length, pid = struct.unpack('hhqqi4x', answer.raw[:32])
    return {fcntl.F_RDLCK: 'r', fcntl.F_WRLCK: 'w', fcntl.F_UNLCK: 'u'}[kind], start, length, pid

def flock(fd, operation):
    if _libc.flock(fd, operation) != 0:
        raise OSError(ctypes.get_errno(), 'flock')

def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), 'a system call')
    return answer

names = dict(globals())
print('ready', flush=True)
for line in sys.stdin:
    try:
        try:
            answer = eval(line, names)
        except SyntaxError:
            answer = exec(line, names)
        print(repr((0, answer)), flush=True)
    except OSError as error:
        print(repr((error.errno, str(error))), flush=True)
    except Exception as error:
        print(repr((-1, repr(error))), flush=True)
"""


class Program:
    """`do` runs one line of Python in the process; `begin` does not wait for its end, for which `result` does."""

    def __init__(self) -> None:
        self.process = python(_LOOP, stdin=-1)
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def begin(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def is_waiting(self, seconds: float = 0.15) -> bool:
        """Nothing has come for so long."""
        return not select.select([self.process.stdout], [], [], seconds)[0]

    def result(self, deadline_s: float = DEADLINE_S) -> Any:
        """Raises OSError with the errno that the line has ended with."""
        assert not self.is_waiting(deadline_s), f"no answer within {deadline_s:g} s"
        number, answer = ast.literal_eval(self.process.stdout.readline())
        assert number >= 0, answer
        if number:
            raise OSError(number, answer)
        return answer

    def do(self, line: str, deadline_s: float = DEADLINE_S) -> Any:
        self.begin(line)
        return self.result(deadline_s)

    def open(self, path: Path, flags: str = "O_RDWR", name: str = "fd") -> None:
        self.do(f"{name} = os.open({str(path)!r}, os.{flags.replace('|', '|os.')}, 0o644)")

    def lock(self, kind: str, start: int = 0, length: int = 0, how: str = "SETLK", name: str = "fd") -> Any:
        return self.do(f"lock({name}, {kind!r}, {start}, {length}, {how!r})")

    def interrupt(self) -> float:
        """SIGINT; how long it takes until the line ends, with EINTR."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            self.result()
        except InterruptedError:
            return time.monotonic() - started
        raise AssertionError("it was not interrupted")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def programs(count: int) -> Iterator[list[Program]]:
    """They end with the block, whatever they are doing."""
    running: list[Program] = []
    try:
        running += [Program() for _ in range(count)]
        yield running
    finally:
        for program in running:
            program.process.kill()
        for program in running:
            program.process.communicate(timeout=DEADLINE_S)
