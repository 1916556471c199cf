"""Work that is done one piece after the other by a thread of its own, as who finds it must not wait.

Threads: `put` is for any.
"""

import logging
import queue
import threading
from collections.abc import Callable

from dfsfuse import errors

log = logging.getLogger(__name__)


class Errands:
    """`start` begins, `close` ends it once all is done. `failed` is what a failure means, for people."""

    def __init__(self, name: str, failed: str):
        self._name, self._failed = name, failed
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run, name=name, daemon=True)
        self.start = self._worker.start

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def close(self) -> None:
        self._work.put(None)
        if self._worker.is_alive():
            self._worker.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except errors.DfsError as error:
                log.warning("%s: %s", self._failed, error)
            except Exception:
                log.exception("%s failed", self._name)
