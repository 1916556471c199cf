"""Which file servers are asked first: those that answer, and that may be expected to have what is wanted.

A server that failed one request is passed over until it gives a sign of life, for which it is asked each LOOK_S. A
server from which an answer is overdue is asked for one too, over another connection: one that stands still is known
after OVERDUE_S and SIGN_S, while one that is only slow is waited for.

Threads: `health` asks those that are passed over, as long as there are any. `_lock` guards which these are.
"""

import logging
import threading
import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.messages import Message, Nothing, Server
from dfsfuse.rpc import Rpc

log = logging.getLogger(__name__)

OVERDUE_S, SIGN_S = 0.7, 1.0
"""When an answer is overdue, and how long a sign of life may take then: four round trips of 200 ms, and a stall."""
LOOK_S = 0.5

Ranked = tuple[int, Server]
"""A server and its place in the group; that of the primary is 0."""


class Health:
    """`group` tells the servers as the directory knows them now."""

    def __init__(self, rpc: Rpc, group: Callable[[], list[Server]]):
        self._rpc, self._group = rpc, group
        self._lock = threading.Lock()
        self._passed_over: set[str] = set()
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def sorted(self, servers: list[Ranked]) -> list[Ranked]:
        """The same order, but servers that may lack chunks come later, and last those that failed lately or that the
        directory does not hear."""
        return sorted(servers, key=lambda ranked: (self.is_away(ranked[1]), ranked[1].syncing))

    def is_away(self, server: Server) -> bool:
        """It failed lately, or the directory does not hear it."""
        return not server.up or server.name in self._passed_over

    def failed(self, server: Server, error: errors.DfsError) -> None:
        with self._lock:
            if server.name in self._passed_over:
                return
            self._passed_over.add(server.name)
            if len(self._passed_over) == 1:
                threading.Thread(target=self._watch, name="health", daemon=True).start()
        log.warning("file server %s is passed over until it answers: %s", server.name, error)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_S):
            back = {server.name for server in self._group() if self._is_back(server)}
            with self._lock:
                self._passed_over -= back
                if not self._passed_over:
                    return

    def _is_back(self, server: Server) -> bool:
        return server.name in self._passed_over and self._gives_sign(server, SIGN_S)

    def is_silent(self, server: Server, within_s: float) -> Callable[[], bool]:
        """What is to be asked again and again while an answer of this server is waited for, `within_s` at most."""
        end = time.monotonic() + within_s
        look_at = time.monotonic() + OVERDUE_S

        def is_silent() -> bool:
            nonlocal look_at
            if time.monotonic() < look_at:
                return False
            silent = not self._gives_sign(server, min(SIGN_S, max(0.05, end - time.monotonic())))
            look_at = time.monotonic() + OVERDUE_S
            return silent

        return is_silent

    def _gives_sign(self, server: Server, within_s: float) -> bool:
        try:
            self._rpc.call(server.url, "ping", Message(), Nothing, within_s)
        except errors.DfsError:
            return False
        return True
