"""What a file server's home has on its disk, seen past the server: files of chunks, and the records of packs."""

import os
from pathlib import Path
from typing import NamedTuple

from servers.pack_file import Record, Scan, pack_path, pack_sizes


class Kept(NamedTuple):
    """Where a chunk's bytes are, whether they are right or not."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.length, self.offset)

    def flip(self, at: int) -> None:
        """One bit is another one now, as on a bad disk."""
        with self.path.open("r+b") as file:
            (byte,) = os.pread(file.fileno(), 1, self.offset + at)
            os.pwrite(file.fileno(), bytes([byte ^ 1]), self.offset + at)


def records(home: Path, number: int) -> list[Record]:
    """Those of one pack."""
    folder = str(home / "packs")
    with open(pack_path(folder, number), "rb") as file:
        return list(Scan(file.fileno(), number, 0, pack_sizes(folder)[number]))


def kept(home: Path) -> dict[str, Kept]:
    """Every chunk in packs/ and chunks/: hexadecimal name -> where it is."""
    found = {}
    for number in sorted(pack_sizes(str(home / "packs"))):
        for name, place, _ in records(home, number):
            found[name.hex()] = Kept(Path(pack_path(str(home / "packs"), number)), place.offset, place.length)
    for file in (home / "chunks").glob("??/*"):
        found[file.name] = Kept(file, 0, file.stat().st_size)
    return found


def everything(home: Path) -> dict[str, bytes]:
    """As `kept`, with what is being written or was set aside: name -> bytes."""
    beside = {file.name: file.read_bytes() for folder in ("tmp", "corrupt") for file in (home / folder).iterdir()}
    return beside | {name: where.read() for name, where in kept(home).items()}


def damage(home: Path, name: bytes) -> None:
    """Flip one bit in the middle of a chunk: its length stays."""
    where = kept(home)[name.hex()]
    where.flip(where.length // 2)
