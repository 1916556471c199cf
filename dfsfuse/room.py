"""Room on the cache's disk for what programs write past the client: there nobody evicts when the disk is full, and a
program would be told that it is, though most of what is on it can be fetched again.

So while there are such programs a thread looks how much is free, and evicts before it is too little. Where not even
that much can be made free nothing is given for writing any more, and who has something goes on until the disk is full.

Threads: any; one mutex guards whether somebody looks.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

AMPLE_BYTES = 256 << 20
"""More than what programs write from one look to the next."""
LOOK_S = 0.05


class Room:
    """On the disk of `folder`. `evict` makes some, `is_needed` says whether somebody may be writing."""

    def __init__(self, folder: Path, evict: Callable[[], int], is_needed: Callable[[], bool]):
        self._folder, self._evict, self._is_needed = folder, evict, is_needed
        self._mutex, self._looking = threading.Lock(), False

    def is_ample(self) -> bool:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize >= AMPLE_BYTES

    def keep(self) -> None:
        """Soon, and then as long as it is needed."""
        with self._mutex:
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="room", daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._mutex:
                if not self._is_needed():
                    self._looking = False
                    return
            if not self.is_ample():
                self._evict()
