"""How much room etcd has, and what is done for it by whoever serves.

etcd keeps each value that a key ever had until it is told to forget it (compaction), and takes nothing more, deletions
included, when its file has grown beyond its quota. So it is told regularly, and what would take more room is refused
well before; what makes room is not.

Threads: `run` in one of its own; `check` from any.
"""

import logging
import threading

from dfsfuse import errors
from servers.etcd.client import Compacted, EtcdClient

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
COMPACT_EVERY_S = 60.0
"""Whoever follows must have been away for so long before it has to load everything anew."""
_SHARE = 0.9


class Room:
    """`quota_bytes` is etcd's --quota-backend-bytes, which it tells nobody."""

    def __init__(self, client: EtcdClient, quota_bytes: int):
        self._client, self._quota_bytes = client, quota_bytes
        self._used_bytes, self._ending = 0, threading.Event()
        self._former_revision = 0
        self._thread = threading.Thread(target=self._run, name="room", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raises NoSpace."""
        if self._used_bytes > _SHARE * self._quota_bytes:
            raise errors.NoSpace(
                f"etcd has {self._used_bytes >> 20} of {self._quota_bytes >> 20} MiB in use, and takes no more; remove "
                "files, or give it more (--quota-backend-bytes, and ?quota= in its address here)"
            )

    def _run(self) -> None:
        looks = 0
        while not self._ending.wait(LOOK_EVERY_S):
            looks += 1
            try:
                self._used_bytes = self._client.used_bytes()
                if looks * LOOK_EVERY_S >= COMPACT_EVERY_S:
                    looks = 0
                    self.compact()
            except (errors.DfsError, Compacted) as error:
                log.warning("etcd's room: %s", error)

    def compact(self) -> None:
        """What was replaced before the last time this was done is forgotten."""
        former, self._former_revision = self._former_revision, self._client.revision()
        if former:
            self._client.compact(former)
