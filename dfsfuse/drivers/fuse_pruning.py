"""The kernel is asked to forget nodes where it remembers very many: each costs memory here, and it keeps them for as
long as its own memory lasts.

Only nodes that nobody uses go: the kernel passes over those that are open, that a program is in, or that have something
below them which stays. It answers with FORGET. What is forgotten is looked up when it is needed again, and its pages
are gone.

Linux 6.18 or newer knows how (FUSE_NOTIFY_PRUNE, version 7.45 of the protocol); an older one is asked once.

Threads: its own, as what answers requests must not wait for the kernel, which may wait for answers meanwhile.
"""

import logging
import threading

from dfsfuse.drivers.fuse_channel import Notifier
from dfsfuse.drivers.fuse_nodes import Nodes

log = logging.getLogger(__name__)

PRUNED_AT_ONCE = 500
PAUSE_S, PAUSE_S_MAX = 0.2, 2.0
"""Between two tries, for FORGET to come; longer and longer while there are too many all the same."""


class Pruning:
    """`start` begins, `stop` ends."""

    def __init__(self, nodes: Nodes, notifier: Notifier):
        self._nodes, self._notifier = nodes, notifier
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._prune_for_ever, name="fuse-prune", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._nodes.crowded.set()
        self._thread.join()

    def _prune_for_ever(self) -> None:
        pause_s = PAUSE_S
        while self._nodes.crowded.wait() and not self._stopping.is_set():
            if not self.prune():
                log.info("this kernel cannot be asked to forget nodes; it remembers them while its memory lasts")
                return
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX) if self._nodes.crowded.is_set() else PAUSE_S

    def prune(self) -> bool:
        """Ask once; False: the kernel does not know how."""
        surplus = self._nodes.surplus()
        return all(
            self._notifier.prune(surplus[start : start + PRUNED_AT_ONCE])
            for start in range(0, len(surplus), PRUNED_AT_ONCE)
        )
