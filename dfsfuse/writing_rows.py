"""Open rows that the directory has for writing, without doubt: what is based on such a version is safe there if this
client is killed, so a file may be opened for writing once more without asking.

Of each inode that is one version, from the answer that has made the row, over commits, which move it, until the row is
closed, or is for reading, or the inode's promise ends. A directory that has lost its last second keeps no promise of
before; so what was answered before a promise ended says nothing.

Threads: `_mutex`; nothing is asked under it.
"""

import threading

from dfsfuse.messages import EVERYTHING


class WritingRows:
    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._versions: dict[int, int] = {}
        self._ends = 0

    def begins(self) -> int:
        """The directory is about to be asked for an open; for `opened`."""
        return self._ends

    def opened(self, begun: int, ino: int, version: int) -> None:
        """It has answered: this is a row for writing."""
        with self._mutex:
            if begun == self._ends:
                self._versions[ino] = version

    def committed(self, ino: int, base: int, version: int) -> None:
        with self._mutex:
            if self._versions.get(ino) == base:
                self._versions[ino] = version

    def has(self, ino: int, version: int) -> bool:
        return self._versions.get(ino, -1) == version

    def end(self, ino: int, version: int) -> None:
        """The directory is told that the row is closed, or is for reading."""
        with self._mutex:
            if self._versions.get(ino) == version:
                del self._versions[ino]

    def promise_ended(self, ino: int) -> None:
        """Of an inode, or EVERYTHING."""
        with self._mutex:
            self._ends += 1
            if ino == EVERYTHING:
                self._versions.clear()
            else:
                self._versions.pop(ino, None)

    def forget(self) -> None:
        """The session has ended."""
        self.promise_ended(EVERYTHING)
