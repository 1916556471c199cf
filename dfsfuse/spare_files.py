"""Files of contents that are gone, emptied and kept for those that come: programs make and remove files all the time.

ext4 passes over the inodes that were freed in the last minutes, one by one, when it makes a file (`recently_deleted` in
fs/ext4/ialloc.c): where thousands come and go, making one takes half a millisecond and more. Renaming one does not.

Threads: the cache's, which calls this under its mutex.
"""

import contextlib
import os
from pathlib import Path

from dfsfuse.lending import is_alone_at
from dfsfuse.private_folder import make_private_folder

SPARE_MAX = 1024


class SpareFiles:
    """In `folder`, which is made. What an earlier client has left there is used too."""

    def __init__(self, folder: str):
        self._folder = folder
        make_private_folder(Path(folder))
        self._names = [name for name in os.listdir(folder) if name.isdigit()]
        self._made = max(map(int, self._names), default=0)

    def give(self, path: str) -> None:
        """The file of a content that is gone; who has it mapped keeps what is in it. Raises OSError where its room
        cannot be freed."""
        if len(self._names) < SPARE_MAX and is_alone_at(path) and self._keep(path):
            return
        os.unlink(path)

    def _keep(self, path: str) -> bool:
        """False where the disk refuses, such as a full one whose folder needs a block."""
        self._made += 1
        try:
            os.truncate(path, 0)
            os.rename(path, f"{self._folder}/{self._made}")
        except FileNotFoundError:
            raise
        except OSError:
            return False
        self._names.append(str(self._made))
        return True

    def take(self, path: str) -> None:
        """Put an empty file there, if there is one to spare."""
        while self._names:
            with contextlib.suppress(OSError):
                os.rename(f"{self._folder}/{self._names.pop()}", path)
                return
