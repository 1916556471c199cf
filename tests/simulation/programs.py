"""The programs that run on simulated clients: each does one thing after another, and what it saw is checked at once.

    tables   read, change a part, close; also cut, grow, and written anew without reading
    logs     records appended with O_APPEND
    names    that all clients share (naming.py)
    private  names that only one program uses, where every answer is known beforehand

What was read, or was committed before, they bring to the disks now and then by fsync, after a while in which servers
may lose power.

Programs of one client that write the same table take turns, as programs of one machine would; what one reads while
another of its client writes is not checked, as on a local disk.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from simulation import contents, threads
from simulation.contents import Table, Torn
from simulation.history import Violation, Write
from simulation.loop import Life
from simulation.naming import READ_MAX, Naming

if TYPE_CHECKING:
    from simulation.world import World

TABLES = ("t1", "t2")
LOGS = ("log",)
THINK_S = 0.2
SYNCS = 0.25
"""How often fsync follows, of those times at which it can."""
FOLLOW_S, TOLD_S = 1.0, 0.0001
"""How long one waits for another's close(), and how soon it hears of that: sooner than any message of the product."""


class Turns:
    """Who writes which table on one client, so that its other programs know; and who waits there for `closed`, the
    file that a program of another client has closed last, or that the client has just heard of."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.followers, self.closed, self._heard = threads.Waiters(), "", False
        self.locks = {name: threads.Lock() for name in TABLES}
        self.active = dict.fromkeys(TABLES, 0)
        self.begun = dict.fromkeys(TABLES, 0)

    def tell(self, file: str, heard: bool = False) -> None:
        self.closed, self._heard = file, heard
        self.followers.wake(len(self.followers))

    def told_after_s(self, source: Random) -> float:
        """How long the programs take to hear of it; of what the client has heard the kernel knows at once."""
        return 0.0 if self._heard else TOLD_S + source.choice((0.0, 0.01, 0.3)) * source.random()

    def quiet(self, name: str) -> Callable[[], bool]:
        """Asked later, tells whether nobody has been writing since now."""
        active, begun = self.active[name], self.begun[name]
        return lambda: not active and self.begun[name] == begun

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        with self.locks[name]:
            self.active[name] += 1
            self.begun[name] += 1
            try:
                yield
            finally:
                self.active[name] -= 1


class Program:
    """One thread of a client. `pid` is no process of this machine. `alone`: no other program runs."""

    def __init__(self, world: "World", client: Any, number: int, turns: Turns, alone: bool = False):
        self.world, self.client, self.turns, self._alone = world, client, turns, alone
        self.fs = client.filesystem
        self.who = f"{client.name}.{client.starts}.{number}"
        self.pid = 5_000_000 + number
        self.random = world.fork(self.who)
        self._private = 0
        self.naming = Naming(self)

    def run(self) -> None:
        while not self.world.stopping:
            threads.sleep(self.random.expovariate(1 / THINK_S))
            if not self.world.stopping:
                self.do(self.random.choices(*self.world.profile.mix)[0])
        self.naming.close()

    def do(self, kind: str) -> bool:
        """One operation; False if it had an error, which is the product's own kind."""
        from dfsfuse import errors

        began = self.world.now
        try:
            getattr(self if hasattr(self, kind) else self.naming, kind)()
        except errors.DfsError as error:
            self.world.note(self.who, f"{kind}: {type(error).__name__}: {error}")
            self.world.took(self.who, kind, began)
            return False
        self.world.took(self.who, kind, began)
        return True

    # -- tables

    def read_table(self) -> None:
        self.check_table(self.random.choice(TABLES))

    def follow(self) -> None:
        """Opens a file at the moment at which a program elsewhere has closed it, as one who is told of it would, or is
        about to put another one in its place; or when its client is called back about it."""
        if self.turns.followers.wait(FOLLOW_S):
            threads.sleep(self.turns.told_after_s(self.random))
            (self.check_table if self.turns.closed in TABLES else self.naming.follow)(self.turns.closed)

    def check_table(self, name: str) -> Table | None:
        """Open, read twice, close; None where a program of this client was writing meanwhile."""
        began, quiet = self.world.now, self.turns.quiet(name)
        handle, _ = self.fs.open(place(name), os.O_RDONLY, self.pid)
        try:
            first = self.fs.files.read(handle, READ_MAX, 0)
            self._pause()
            second = self.fs.files.read(handle, READ_MAX, 0)
            if first == second:
                self._sync_read(handle, name, first, quiet)
        finally:
            self.fs.files.release(handle)
        if not quiet():
            return None
        if first != second:
            raise Violation(f"S3: {self.who} read {name} twice through one descriptor, and it had changed")
        return self._parsed(name, first, began)

    def _sync_read(self, handle: Any, name: str, data: bytes, quiet: Callable[[], bool]) -> None:
        """Of what others here are writing fsync would send a part."""
        if self._alone or self.random.random() > SYNCS:
            return
        self._linger()
        with self.turns.locks[name]:
            if quiet():
                self._fsync(handle, name, contents.whole_header(data))

    def _fsync(self, handle: Any, file: str, numbers: list[int]) -> None:
        """From now on no power cut takes these from the file."""
        self.fs.files.flush(handle, True)
        self.world.note(self.who, f"has brought {file} with {numbers} to the disks")
        self.world.files.fsynced(numbers, self.world.now)

    def _parsed(self, name: str, data: bytes, began: float) -> Table:
        try:
            table = contents.parse_table(data)
        except Torn as error:
            raise Violation(f"S3: {self.who} read a torn {name}: {error}") from None
        self.world.note(self.who, f"reads version {table.tag} of {name}, made from {table.base}")
        self.world.files.saw_table(name, table.tag, began, self.who)
        return table

    def edit_table(self) -> None:
        self._edit(self.random.choice(TABLES))

    def _edit(self, name: str, durable: bool | None = None) -> Write | None:
        """Now and then it is opened for writing, and nothing is written."""
        with self.turns.writing(name):
            began = self.world.now
            handle, _ = self.fs.open(place(name), os.O_RDWR, self.pid)
            try:
                table = self._parsed(name, self.fs.files.read(handle, READ_MAX, 0), began)
                self._pause()
                if durable is None and self.random.random() < 0.15:
                    self._sync_later(handle, name, table.tag)
                    return None
                return self._change(handle, name, table, began, durable)
            finally:
                self.fs.files.release(handle)

    def _change(self, handle: Any, name: str, table: Table, began: float, durable: bool | None) -> Write:
        write = self.world.files.begin(name, self.who, self.world.now, table.tag, began)
        count, files = len(table.slots), self.fs.files
        if count > 4 and self.random.random() < 0.15:
            new = table.cut(write.number, self.random.randrange(1, count))
            files.resize(handle, contents.place_of_slot(len(new.slots)))
        else:
            index = self.random.randrange(min(count + 1, contents.SLOTS_MAX))
            mark = self.random.choice((write.number, 1, 2))
            new = table.edited(write.number, index, mark)
            files.write(handle, new.slot(index), contents.place_of_slot(index))
        files.write(handle, new.header, 0)
        self._pause()
        self._flush(handle, write, self.random.random() < 0.2 if durable is None else durable)
        return write

    def _flush(self, handle: Any, write: Write, durable: bool) -> None:
        from dfsfuse import errors

        write.ino = handle.content.ino
        try:
            self.fs.files.flush(handle, durable)
        except errors.DfsError as error:
            self.world.note(self.who, f"write {write.number} to {write.file}: {type(error).__name__}: {error}")
            write.returned = self.world.now
            raise
        self.world.note(self.who, f"write {write.number} to {write.file}, on {write.base}: ok{' durably' * durable}")
        self.world.files.acked(write, self.world.now, durable)
        self.world.check_copies(handle.content.ino)
        if write.file in TABLES:
            self.world.tell_followers(self.client, write.file)
        if not durable:
            self._sync_later(handle, write.file, write.number)

    def _sync_later(self, handle: Any, file: str, number: int) -> None:
        """Of what was committed through the same descriptor, or before it was opened."""
        if not self._alone and self.random.random() < SYNCS:
            self._linger()
            self._fsync(handle, file, [number])

    def rewrite_table(self) -> None:
        """With O_TRUNC, so without reading what was there."""
        self.write_anew(self.random.choice(TABLES), lambda at: self.fs.open(at, os.O_WRONLY | os.O_TRUNC, self.pid))

    def write_anew(self, name: str, open_file: Callable[[Any], tuple[Any, Any]], durable: bool = False) -> None:
        with self.turns.writing(name):
            began = self.world.now
            handle, _ = open_file(place(name))
            try:
                write = self.world.files.begin(name, self.who, self.world.now, 0, began)
                # Of a few contents, but for the header: so chunks that nobody needed any more are needed again.
                table = Table(write.number, 0, (self.random.choice((1, 2)),) * self.random.choice((5, 14)))
                self.fs.files.write(handle, table.render(), 0)
                self._flush(handle, write, durable)
            finally:
                self.fs.files.release(handle)

    # -- logs

    def append(self) -> None:
        self._append(self.random.choice(LOGS))

    def _append(self, name: str, durable: bool = False) -> Write:
        began = self.world.now
        handle, _ = self.fs.open(place(name), os.O_WRONLY | os.O_APPEND, self.pid)
        try:
            write = self.world.files.begin(name, self.who, began)
            self.fs.files.write(handle, contents.record(write.number), 0, append=True)
            self._pause()
            self._flush(handle, write, durable)
            return write
        finally:
            self.fs.files.release(handle)

    def read_log(self) -> None:
        self.check_log(self.random.choice(LOGS))

    def check_log(self, name: str) -> list[int]:
        began = self.world.now
        handle, _ = self.fs.open(place(name), os.O_RDONLY, self.pid)
        try:
            data = self.fs.files.read(handle, READ_MAX, 0)
            if not self._alone and self.random.random() < SYNCS:
                self._linger()
                self._fsync(handle, name, contents.whole_records(data))
        finally:
            self.fs.files.release(handle)
        try:
            numbers = contents.parse_log(data)
        except Torn as error:
            raise Violation(f"S12: {self.who} read a torn {name}: {error}") from None
        self.world.note(self.who, f"reads {name}: {numbers}")
        self.world.files.saw_log(name, numbers, began, self.who)
        return numbers

    # -- private names

    def private(self) -> None:
        """Made, renamed, linked and removed: nobody else knows the names, so each step must succeed, and once."""
        from dfsfuse import errors

        self._private += 1
        old, new = (f"{self.who}-{self._private}-{part}" for part in ("old", "new"))
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("make", lambda: self.fs.make(place(old), stat.S_IFIFO | 0o600, 0, 0)),
            ("rename", lambda: self.fs.rename(place(old), place(new))),
            ("link", lambda: self.fs.link(place(new), place(old))),
            ("remove", lambda: self.fs.remove(place(new), folder=False)),
            ("remove", lambda: self.fs.remove(place(old), folder=False)),
        ]
        for step, do in steps:
            cuts = self.world.directory_cuts
            try:
                do()
            except errors.OutOfSequence as error:
                raise Violation(f"S1: {self.who}: {step} of a private name was given up: {error}") from None
            except (errors.NotFound, errors.AlreadyExists, errors.Stale) as error:
                if self.world.directory_cuts == cuts and not self.world.lately_cut():
                    raise Violation(f"S1: {self.who}: {step} of a private name: {type(error).__name__}") from None
                raise

    def _linger(self) -> None:
        threads.sleep(self.random.random() * self.random.choice((0.0, 0.1, 2.5)))

    def _pause(self) -> None:
        """Others come between, now and then for long."""
        chance = self.random.random()
        if chance < 0.3 and not self._alone:
            threads.sleep(self.random.random() * (2.5 if chance < 0.05 else 0.05))


def place(*names: str) -> tuple[int, tuple[bytes, ...]]:
    return 1, tuple(name.encode() for name in names)
