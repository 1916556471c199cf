"""Requests to the directory, wherever it is: asked again until they are answered.

An embedded cluster may have moved to another port, and of several directory servers another one may serve by now; who
stands still is not waited for once that is known.

Threads: any; `url` is a simple value, and a request that began with the former one begins anew.
"""

import time
from collections.abc import Callable
from typing import Any

from dfsfuse.messages import Message
from dfsfuse.patience import Patience
from dfsfuse.rpc import Rpc, unless_moved
from dfsfuse.waiting import never

_LATE_S = 0.7
"""A renewal that takes longer than this may be one that nobody answers."""
_LOOK_EVERY_S = 0.5


class ServingDirectory:
    """`refind` returns the URL of now when there is no answer; None: it is fixed. `another`, where there are several,
    returns who else serves meanwhile, or ""."""

    def __init__(
        self,
        rpc: Rpc,
        url: str,
        timeout_s: float,
        refind: Callable[[], str] | None,
        another: Callable[[], str] | None = None,
    ):
        self._rpc, self.url, self._refind, self._another = rpc, url, refind, another
        self._patience = Patience(timeout_s)

    def look_again(self) -> None:
        if self._refind is not None:
            self.url = self._refind()

    @property
    def has_others(self) -> bool:
        return self._another is not None

    def ask_and_look(self, operation: str, request: Message, reply: type, timeout_s: float) -> Any:
        """Once, without waiting for one that is silent when another one serves; `url` is that one then. Raises as
        `Rpc.call`."""
        url, look_s = self.url, time.monotonic() + _LATE_S

        def moved() -> bool:
            nonlocal look_s
            if self._another is not None and self.url == url and time.monotonic() >= look_s:
                self.url = self._another() or url
                look_s = time.monotonic() + _LOOK_EVERY_S
            return self.url != url

        return unless_moved(
            lambda given_up: self._rpc.call(url, operation, request, reply, timeout_s, given_up), moved, never
        )

    def until_answered(
        self,
        operation: str,
        request: Message,
        reply: type,
        interrupted: Callable[[], bool] | None = None,
        timeout_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """For what may be repeated. Raises what is answered, Unreachable, TimedOut and Interrupted."""

        def attempt(left_s: float) -> Any:
            url = self.url
            return unless_moved(
                lambda moved: self._rpc.call(url, operation, request, reply, left_s, moved, meanwhile),
                lambda: self.url != url,
                interrupted or never,
            )

        return self._patience.until_answered(attempt, timeout_s, interrupted, self.look_again)
