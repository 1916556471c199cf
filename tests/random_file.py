"""One file of a mount and the same as a bytearray: random calls on both, which have to agree after every step."""

import mmap
import os
import random
from pathlib import Path

from posix_rules.calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fallocate

SIZE_MAX = 600_000
STEPS = 150


class RandomFile:
    """One file through two descriptors of a mount, seen on another one at each close."""

    size_max = SIZE_MAX

    def __init__(self, here: Path, there: Path, seed: int):
        self.here, self.there, self.choose = here / "f", there / "f", random.Random(seed)
        self.model, self.done = bytearray(), []
        self.steps = [self.write, self.read, self.map_write, self.map_read, self.truncate, self.punch, self.zero]
        self.steps += [self.allocate, self.copy, self.reopen, self.append, self.sync]
        self.open()

    def open(self) -> None:
        self.fds = [os.open(self.here, os.O_CREAT | os.O_RDWR) for _ in range(2)]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    @property
    def fd(self) -> int:
        return self.choose.choice(self.fds)

    def range(self, end: int = 0) -> tuple[int, int]:
        end = end or self.size_max
        start = self.choose.randrange(end)
        start -= start % self.choose.choice([1, 1, 512, 4096])
        return start, min(self.choose.choice([1, 100, 4096, 70_000, self.choose.randrange(1, 200_000)]), end - start)

    def grow(self, end: int) -> None:
        self.model.extend(bytes(max(0, end - len(self.model))))

    def write(self) -> None:
        start, length = self.range()
        data = self.choose.randbytes(length)
        os.pwrite(self.fd, data, start)
        self.grow(start + length)
        self.model[start : start + length] = data
        self.done.append(("write", start, length))

    def append(self) -> None:
        data = self.choose.randbytes(self.choose.randrange(1, 5000))
        with self.here.open("ab", buffering=0) as file:
            file.write(data)
        self.model += data
        self.done.append(("append", len(data)))

    def read(self) -> None:
        start, length = self.range()
        assert os.pread(self.fd, length, start) == self.model[start : start + length]
        self.done.append(("read", start, length))

    def map_read(self) -> None:
        if self.model:
            start, length = self.range(len(self.model))
            with mmap.mmap(self.fd, 0) as mapped:
                assert mapped[start : start + length] == self.model[start : start + length]
            self.done.append(("map_read", start, length))

    def map_write(self) -> None:
        if self.model:
            start, length = self.range(len(self.model))
            data = self.choose.randbytes(length)
            with mmap.mmap(self.fd, 0) as mapped:
                mapped[start : start + length] = data
            self.model[start : start + length] = data
            self.done.append(("map_write", start, length))

    def truncate(self) -> None:
        size = self.range()[0]
        how = self.choose.choice([lambda: os.ftruncate(self.fd, size), lambda: os.truncate(self.here, size)])
        how()
        del self.model[size:]
        self.grow(size)
        self.done.append(("truncate", size))

    def _clear(self, mode: int) -> None:
        start, length = self.range()
        fallocate(self.fd, mode, start, length)
        self.grow(0 if mode & FALLOC_KEEP_SIZE else start + length)
        end = min(start + length, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))
        self.done.append(("clear", mode, start, length))

    def punch(self) -> None:
        self._clear(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE)

    def zero(self) -> None:
        self._clear(FALLOC_ZERO_RANGE | self.choose.choice([0, FALLOC_KEEP_SIZE]))

    def allocate(self) -> None:
        start, length = self.range()
        fallocate(self.fd, 0, start, length)
        self.grow(start + length)
        self.done.append(("allocate", start, length))

    def copy(self) -> None:
        (start, length), target = self.range(), self.range()[0]
        length = min(length, self.size_max - target)
        if length and abs(start - target) >= length:
            copied = os.copy_file_range(self.fd, self.fd, length, start, target)
            assert copied == max(0, min(length, len(self.model) - start))
            self.grow(target + copied if copied else 0)
            self.model[target : target + copied] = self.model[start : start + copied]
            self.done.append(("copy", start, target, length))

    def sync(self) -> None:
        os.fsync(self.fd)
        assert self.there.read_bytes() == self.model
        self.done.append(("sync",))

    def reopen(self) -> None:
        self.close()
        self.open()
        assert self.there.read_bytes() == self.model
        self.done.append(("reopen",))

    def check(self) -> None:
        size = os.fstat(self.fd).st_size
        assert size == len(self.model), f"{size} bytes, not {len(self.model)}"
        found = os.pread(self.fd, len(self.model) + 1, 0)
        wrong = next((i for i, (one, other) in enumerate(zip(found, self.model, strict=True)) if one != other), -1)
        assert wrong < 0, f"byte {wrong} is {found[wrong]}, not {self.model[wrong]}"


def walk(file: RandomFile) -> None:
    """Some random steps, which the file follows as its model does."""
    try:
        for _ in range(STEPS):
            file.choose.choice(file.steps)()
            file.check()
    except AssertionError as failure:
        raise AssertionError(f"{failure}; after {file.done[-6:]}") from failure
    finally:
        file.close()
    assert file.there.read_bytes() == file.model
