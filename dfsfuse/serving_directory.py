"""Requests to the directory, wherever it is: asked again until they are answered.

An embedded cluster may have moved to another port, and of several directory servers another one may serve by now; who
stands still is not waited for once that is known.

Threads: any; `url` is a simple value, and a request that began with the former one begins anew.
"""

from collections.abc import Callable
from typing import Any

from dfsfuse.messages import Message
from dfsfuse.patience import Patience
from dfsfuse.rpc import Rpc, unless_moved
from dfsfuse.waiting import never


class ServingDirectory:
    """`refind` returns the URL of now when there is no answer; None: it is fixed."""

    def __init__(self, rpc: Rpc, url: str, timeout_s: float, refind: Callable[[], str] | None):
        self._rpc, self.url, self._refind = rpc, url, refind
        self._patience = Patience(timeout_s)

    def look_again(self) -> None:
        if self._refind is not None:
            self.url = self._refind()

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
