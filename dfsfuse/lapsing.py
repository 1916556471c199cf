"""The lease of promises ends by itself: then whoever was told of them is told that they are over, whatever the network
does. Above all the kernel, which goes on with what it was told, and asks nobody.

Threads: one of its own. It looks at least each LOOK_S, as a machine may have been asleep, and a doubt ends the lease at
once.
"""

import logging
import threading

from dfsfuse.attributes import AttributeTable

log = logging.getLogger(__name__)

LOOK_S = 1.0
_JOIN_S = 0.5


class Lapsing:
    """`start` begins, `stop` ends it."""

    def __init__(self, attributes: AttributeTable):
        self._attributes = attributes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_for_ever, name="lapse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _look_for_ever(self) -> None:
        left_s = 0.0
        while not self._stopping.wait(min(left_s or LOOK_S, LOOK_S)):
            try:
                left_s = self._attributes.lapse()
            except Exception:
                log.exception("nobody was told that promises are over")
                left_s = 0.0
