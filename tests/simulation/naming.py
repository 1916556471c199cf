"""What programs do with names that all clients share, as the drivers ask for it.

    names     folders are made and removed, files are put in the place of others as editors save, names are moved and
              exchanged, opened, listed and looked at
    the mark  a file whose time of change is set, and looked at

Each file is a table that is written once, under a private name; so it is known by its number, whatever leads to it.
"""

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation import contents, threads
from simulation.contents import Table, Torn
from simulation.history import Violation
from simulation.name_history import MARK, NAMES
from simulation.orders import ABSENT, FOLDER, Answer, NameOp

if TYPE_CHECKING:
    from simulation.programs import Program

IN = "names"
_LATE_S = 0.5
STAT_AGE_S = 1.0
"""S14: how old what stat tells may be."""
READ_MAX = 1 << 20
SIZE = len(Table(1, 0, (1,)).render())
_CHANGES = ("make", "rmdir", "unlink", "rename", "exchange")
_OPENS_MAX = 4
_SECOND_NS = 10**9


class Naming:
    """A program's work on them. The Linux driver goes by the folder's inode, the other one by paths."""

    def __init__(self, program: "Program"):
        self._program, self._world, self._fs = program, program.world, program.fs
        self._random, self._who, self._pid = program.random, program.who, program.pid
        self._by_path = self._world.fork(f"{program.client.name} driver").random() < 0.2
        self._temporary = 0
        self._viewed: dict[str, Any] = {}

    def _place(self, name: str) -> tuple[int, tuple[bytes, ...]]:
        if self._by_path:
            return 1, (IN.encode(), name.encode())
        return self._world.names.inos[IN], (name.encode(),)

    # -- names

    def name(self) -> None:
        kind = self._random.choice((*_CHANGES, "rename", "list", "stat", "stat"))
        names = tuple(self._random.sample(NAMES, 2))
        if kind == "stat":
            self._stat(names[0])
        elif kind == "list":
            self.list()
        else:
            self._world.tell_followers(self._program.client, names[0])
            self._change(kind, *names)

    def list(self) -> None:
        def names() -> frozenset[str]:
            entries = self._fs.list_folder((1, (IN.encode(),)))
            return frozenset(entry.name.decode() for entry in entries).intersection(NAMES)

        self._answered("list", (), names)

    def look_at_all(self) -> None:
        """Nothing changes any more."""
        threads.sleep(STAT_AGE_S)
        for name in NAMES:
            self._stat(name)
        self.mark()

    def _change(self, kind: str, *both: str) -> None:
        names = both if kind in ("rename", "exchange") else both[:1]
        places = [self._place(name) for name in names]
        do: dict[str, Callable[[], Any]] = {
            "make": lambda: self._fs.make(places[0], stat.S_IFDIR | 0o755, 0, 0),
            "rmdir": lambda: self._fs.remove(places[0], folder=True),
            "unlink": lambda: self._fs.remove(places[0], folder=False),
            "rename": lambda: self._fs.rename(*places, flags=1),
            "exchange": lambda: self._fs.rename(*places, flags=2),
        }
        self._answered(kind, names, do[kind])
        self._soon(self._stat, self._random.choice(names))

    def _soon(self, look: Callable[[str], None], name: str) -> None:
        """Now and then a program looks again, when all that is not promised must be of after its change; in the end all
        do (`look_at_all`)."""
        if self._random.random() < 0.5 and not self._world.stopping:
            threads.sleep(STAT_AGE_S + 0.05 + 0.5 * self._random.random())
            if not self._world.stopping:
                look(name)

    def _stat(self, name: str) -> None:
        def value() -> int:
            found = self._fs.lookup(self._place(name))
            return FOLDER if stat.S_ISDIR(found.mode) else self._number_of(found.ino)

        self._answered("see", (name,), value, STAT_AGE_S)

    def _answered(
        self, kind: str, names: tuple[str, ...], do: Callable[[], Any], age_s: float = 0.0, value: int = 0
    ) -> Answer | None:
        """One operation; its answer goes into the history, also where there is none."""
        from dfsfuse import errors

        op = NameOp(kind, names, self._world.now - age_s, self._world.now, None, self._who, value)
        at, ops = len(self._world.names.ops), self._world.names.ops
        ops.append(op)
        answer: Answer | None = None
        try:
            answer = done if isinstance(done := do(), (int, frozenset)) else "ok"
        except errors.AlreadyExists:
            answer = "exists"
        except errors.NotFound:
            answer = ABSENT if kind == "see" else "missing"
        except errors.IsADirectory:
            answer = FOLDER if kind == "see" else "folder"
        except errors.NotADirectory:
            answer = "file"
        finally:
            ops[at] = op._replace(ended=self._world.now, answer=answer)
            self._world.note(self._who, f"{kind} {names} {value or ''} -> {answer}")
        return answer

    def _number_of(self, ino: int) -> int:
        if ino not in self._world.names.numbers:
            raise Violation(f"S1: {self._who} finds inode {ino} by a name that nobody has given it")
        return self._world.names.numbers[ino]

    # -- files

    def replace(self) -> None:
        self._replace(self._one_name())

    def _replace(self, name: str) -> None:
        """As editors save: written and closed under another name, which then becomes the file's. Some have it open
        still."""
        from dfsfuse import errors

        self._temporary += 1
        temporary = self._place(f"{self._who}-{self._temporary}")
        handle, number = self._write(temporary)
        try:
            self._fs.files.flush(handle, self._random.random() < 0.2)
        except errors.DfsError:
            self._fs.files.release(handle)
            self._fs.remove(temporary, folder=False)
            raise
        if self._random.random() < 0.5:
            self._view(name, handle)
        else:
            self._fs.files.release(handle)
        self._put(temporary, name, number)

    def _write(self, temporary: Any) -> tuple[Any, int]:
        handle, _ = self._fs.create(temporary, 0o100644, 0, 0, os.O_RDWR, self._pid)
        number = self._world.names.new_number()
        self._world.names.numbers[handle.content.ino] = number
        self._fs.files.write(handle, Table(number, 0, (number,)).render(), 0)
        return handle, number

    def _put(self, temporary: Any, name: str, number: int) -> None:
        cuts, before = self._world.directory_cuts, self._random.random() < 0.7
        if before:
            self._world.tell_followers(self._program.client, name)
        answer = self._answered("put", (name,), lambda: self._fs.rename(temporary, self._place(name)), value=number)
        if answer == "missing" and self._world.directory_cuts == cuts and not self._world.lately_cut():
            raise Violation(f"S1: {self._who}: file {number} was closed, and its private name is not there")
        if answer == "ok" and not before:
            self._world.tell_followers(self._program.client, name)
        self._soon(self._look_at, name)

    def _one_name(self) -> str:
        """Most go for the first one."""
        return self._random.choice((NAMES[0], NAMES[0], NAMES[0], *NAMES))

    def look(self) -> None:
        self._look_at(self._one_name())

    def _look_at(self, name: str) -> None:
        """As `tail -F`: what was opened last is looked at, and the name opened anew, where another file may be now."""
        if name in self._viewed:
            self._fstat(self._viewed[name])
        opened = self._open(name)
        if opened is not None:
            self._view(name, opened)
            self._soon(self._look_at, name)

    def _view(self, name: str, handle: Any) -> None:
        former = self._viewed.pop(name, None)
        self._viewed[name] = handle
        if former is not None:
            self._fs.files.release(former)

    def close(self) -> None:
        for handle in self._viewed.values():
            self._fs.files.release(handle)

    def follow(self, name: str) -> None:
        """Another program has just changed it, or is about to: this one does so too, or looks."""
        if name == MARK:
            (self.touch if self._random.random() < 0.7 else self.mark)()
            return
        kind = self._random.choice(("look", "look", "replace", "change"))
        if kind == "change":
            other = self._random.choice([other for other in NAMES if other != name])
            self._change(self._random.choice(_CHANGES), name, other)
        else:
            (self._look_at if kind == "look" else self._replace)(name)

    def _open(self, name: str) -> Any | None:
        """What the name leads to now, opened and read; None where that is no file."""
        opened: list[Any] = []

        def value() -> int:
            handle = self._opened(name)
            opened.append(handle)
            return self._number_of(handle.content.ino)

        answer = self._answered("see", (name,), value)
        for handle in opened:
            self._check_content(handle, answer)
        return opened[0] if opened else None

    def _opened(self, name: str) -> Any:
        """open(2) by the Linux driver: the name is looked up in its folder, and must, on the way from the root, lead to
        that inode still."""
        from dfsfuse import errors

        path = 1, (IN.encode(), name.encode())
        for _ in range(_OPENS_MAX):
            found = self._fs.lookup(self._place(name))
            if not stat.S_ISDIR(found.mode):
                try:
                    return self._fs.open(path, os.O_RDONLY, self._pid, ino=found.ino)[0]
                except (errors.Stale, errors.NotFound):
                    self._fs.forget_names()
            elif self._fs.open_folder(path) == found.ino:
                raise errors.IsADirectory(f"{name} is a folder")
        return self._fs.open(path, os.O_RDONLY, self._pid)[0]

    def _check_content(self, handle: Any, number: Answer | None) -> None:
        data = self._fs.files.read(handle, READ_MAX, 0)
        try:
            read = contents.parse_table(data).tag
        except Torn as error:
            if self._world.may_lack(handle.content.ino):
                return
            raise Violation(f"S3: {self._who} read a torn file {number}: {error}") from None
        if read != number:
            raise Violation(f"S2: {self._who} opened file {number} and read {read}")

    def _fstat(self, handle: Any) -> None:
        ino = handle.content.ino
        size = self._fs.lookup_open(ino).size
        if size != SIZE and not self._world.may_lack(ino):
            raise Violation(f"S14: {self._who} is told that file {self._number_of(ino)} has {size} bytes, not {SIZE}")

    # -- the mark

    def touch(self) -> None:
        number = self._world.names.new_number()
        place, began = (self._world.names.inos[MARK], ()), self._world.now
        self._world.tell_followers(self._program.client, MARK)
        self._answered(
            "put", (MARK,), lambda: self._fs.set_attributes(place, mtime_ns=number * _SECOND_NS) and None, value=number
        )
        if self._world.now - began > _LATE_S:
            self._world.tell_followers(self._program.client, MARK)
            self._open_mark()
        self._soon(self._look_at_mark, MARK)

    def mark(self) -> None:
        (self._open_mark if self._random.random() < 0.5 else self._look_at_mark)()

    def _look_at_mark(self, name: str = MARK) -> None:
        by_name = self._by_path or self._random.random() < 0.5
        place = (1, (name.encode(),)) if by_name else (self._world.names.inos[name], ())
        self._answered("see", (name,), lambda: self._fs.lookup(place).mtime_ns // _SECOND_NS, STAT_AGE_S)

    def _open_mark(self) -> None:
        """Who opens a file has its newest attributes too."""

        def value() -> int:
            handle, attributes = self._fs.open((1, (MARK.encode(),)), os.O_RDONLY, self._pid)
            self._fs.files.release(handle)
            return attributes.mtime_ns // _SECOND_NS

        self._answered("see", (MARK,), value)
