"""Which file servers are asked first: those that answer, and that may be expected to have what is wanted.

A server that failed one request is passed over for PASS_OVER_S; then it is asked for a sign of life before anything is
sent to it again. A server from which an answer is overdue is asked for one too, over another connection: one that
stands still is known after a second or two, while one that is only slow is waited for.

Threads: `_failed_until` is a simple value whose races do no harm.
"""

import logging
import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.messages import Message, Nothing, Server
from dfsfuse.rpc import Rpc

log = logging.getLogger(__name__)

PASS_OVER_S = 1.0
OVERDUE_S, SIGN_S = 0.7, 1.0
"""When an answer is overdue, and how long a sign of life may take then."""
_RETURN_S = 0.5
"""How long it may take of a server that is passed over: a new connection and an answer over a link of 200 ms."""

Ranked = tuple[int, Server]
"""A server and its place in the group; that of the primary is 0."""


class Health:
    def __init__(self, rpc: Rpc):
        self._rpc = rpc
        self._failed_until: dict[str, float] = {}

    def sorted(self, servers: list[Ranked]) -> list[Ranked]:
        """The same order, but servers that may lack chunks come later, and last those that failed lately or that the
        directory does not hear."""
        return sorted(servers, key=lambda ranked: (self._is_away(ranked[1]), ranked[1].syncing))

    def _is_away(self, server: Server) -> bool:
        failed_until = self._failed_until.get(server.name)
        if not server.up or failed_until is None:
            return not server.up
        if failed_until < time.monotonic() and self._gives_sign(server, _RETURN_S):
            self._failed_until.pop(server.name, None)
            return False
        self._failed_until[server.name] = max(failed_until, time.monotonic() + PASS_OVER_S)
        return True

    def failed(self, server: Server, error: errors.DfsError) -> None:
        if server.name not in self._failed_until:
            log.warning("file server %s is passed over until it answers: %s", server.name, error)
        self._failed_until[server.name] = time.monotonic() + PASS_OVER_S

    def is_silent(self, server: Server) -> Callable[[], bool]:
        """What is to be asked again and again while an answer of this server is waited for."""
        look_at = time.monotonic() + OVERDUE_S

        def is_silent() -> bool:
            nonlocal look_at
            if time.monotonic() < look_at:
                return False
            silent = not self._gives_sign(server, SIGN_S)
            look_at = time.monotonic() + OVERDUE_S
            return silent

        return is_silent

    def _gives_sign(self, server: Server, within_s: float) -> bool:
        try:
            self._rpc.call(server.url, "ping", Message(), Nothing, within_s)
        except errors.DfsError:
            return False
        return True
