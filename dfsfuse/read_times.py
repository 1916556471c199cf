"""When files were read here without asking the directory, until it is told, which is done with the next renewal.

As with relatime, the first open for reading after a change moves atime. Under promise nothing else of an open is the
directory's business, so it is not asked for that alone: this client goes by the new atime at once, and the directory
hears of it within a second. It is told which ctime the file had, and takes no atime for a file that has changed since,
as that may have been utimens(2).

Threads: `_mutex`; nothing is asked under it.
"""

import threading

import msgspec

from dfsfuse.messages import Attributes, ReadAt

NOTED_MAX = 1024
"""The directory is told of all at once, and answers nobody else meanwhile."""


class ReadTimes:
    """`_noted`: what is to be told, by inode number. `_telling`: what the directory is being told."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._noted: dict[int, ReadAt] = {}
        self._telling: dict[int, ReadAt] = {}

    def note(self, attributes: Attributes, atime_ns: int) -> bool:
        """A file with these attributes is read; False: there is no room, and the directory is to be asked."""
        with self._mutex:
            if len(self._noted) >= NOTED_MAX:
                return False
            self._noted[attributes.ino] = ReadAt(attributes.ino, atime_ns, attributes.ctime_ns)
            return True

    def applied(self, attributes: Attributes) -> Attributes:
        """The directory's answer, with the atime of which it had not heard."""
        read = self._noted.get(attributes.ino) or self._telling.get(attributes.ino)
        if read is None or read.ctime_ns != attributes.ctime_ns or read.atime_ns <= attributes.atime_ns:
            return attributes
        return msgspec.structs.replace(attributes, atime_ns=read.atime_ns)

    @property
    def any(self) -> bool:
        return bool(self._noted)

    def take(self) -> list[ReadAt]:
        """What to tell the directory now. One thread does, and calls `told` then."""
        with self._mutex:
            self._telling, self._noted = self._noted, {}
            return list(self._telling.values())

    def told(self, heard: bool) -> None:
        with self._mutex:
            if not heard:
                self._noted = self._telling | self._noted
            self._telling = {}
