"""A request that waits at a server all the time for what it has to tell: asked again as soon as it is answered.

Threads: one of its own, which calls `ask`.
"""

import logging
import threading
from collections.abc import Callable

from dfsfuse import errors

log = logging.getLogger(__name__)

_PAUSE_S = 0.05
_JOIN_S = 0.5


class LongPoll:
    """`ask` asks once, and waits for the answer; it raises DfsError. `silence` tells the log what it means if there is
    none. `start` begins, `stop` ends it; a request that waits ends with its session."""

    def __init__(self, name: str, ask: Callable[[], None], silence: str):
        self._name, self._ask, self._silence = name, ask, silence
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask_for_ever, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _ask_for_ever(self) -> None:
        silent = False
        while not self._stopping.is_set():
            try:
                self._ask()
                silent = False
            except errors.DfsError as error:
                if not silent and not self._stopping.is_set():
                    log.info("%s: %s", self._silence, error)
                silent = True
                self._stopping.wait(_PAUSE_S)
            except Exception:
                log.exception("%s failed", self._name)
                self._stopping.wait(_PAUSE_S)
