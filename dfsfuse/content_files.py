"""The files of all contents: where each is, which are open, and what becomes of those whose contents are gone.

    contents/<last two hex digits of its number>/<number>    a content's file, with a row in the index
    spare/<number>                                           an empty file for a content that comes (spare_files.py)

Threads: the cache's, which calls this under its mutex.
"""

import contextlib
import os
from pathlib import Path

from dfsfuse.content import Content
from dfsfuse.content_file import ForgetPresent, close_file, open_file
from dfsfuse.private_folder import make_private_folder
from dfsfuse.spare_files import SpareFiles
from dfsfuse.warm_files import WarmFiles


class ContentFiles:
    """Below the folder `home` of a cache."""

    def __init__(self, home: Path):
        self._folder = str(home / "contents")
        self._folders: set[str] = set()
        make_private_folder(home / "contents")
        self._warm, self._spares = WarmFiles(), SpareFiles(str(home / "spare"))

    def take_stock(self, rows: set[int]) -> dict[int, os.stat_result]:
        """What is there, by number; what has no row, as a kill left it behind, goes."""
        found: dict[int, os.stat_result] = {}
        for entry in (entry for folder in os.scandir(self._folder) for entry in os.scandir(folder.path)):
            number = int(entry.name, 16)
            if number in rows:
                found[number] = entry.stat()
            else:
                os.unlink(entry.path)
        return found

    def path_of(self, number: int) -> str:
        folder = f"{self._folder}/{number & 0xFF:02x}"
        if folder not in self._folders:
            make_private_folder(Path(folder))
            self._folders.add(folder)
        return f"{folder}/{number:x}"

    def open(self, content: Content, forget_present: ForgetPresent, new: bool = False) -> None:
        """Raises OSError, NoSpace; then it is not open."""
        if not self._warm.take(content):
            if new:
                self._spares.take(content.path)
            open_file(content, forget_present)

    def close(self, content: Content) -> list[tuple[Content, int]]:
        """Nobody uses it any more: it may stay open for a while. What is closed in its place, with the bytes that it
        takes on the disk; that is known of contents which were only read."""
        if content.measured and not content.changed:
            return [(cold, _measure(cold)) for cold in self._warm.keep(content)]
        return [(content, _measure(content))]

    def close_all(self) -> None:
        for content in self._warm.take_all():
            close_file(content)

    def remove(self, number: int) -> None:
        """The content is gone."""
        self._warm.drop(number)
        with contextlib.suppress(FileNotFoundError):
            self._spares.give(self.path_of(number))


def _measure(content: Content) -> int:
    content.measured = True
    return close_file(content)
