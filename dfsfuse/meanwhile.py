"""Work on this machine that is done while a server is at work on a request.

Threads: one, the one that makes the request.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Meanwhile(Generic[Result]):
    """`work` is done once, at the first call or with `result`, which is where its error comes out: the request that is
    under way must be answered all the same. `value` is what it has brought, None as long as it has brought nothing."""

    def __init__(self, work: Callable[[], Result]):
        self._work: Callable[[], Result] | None = work
        self.value: Result | None = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                self.value = work()
            except BaseException as error:
                self._error = error

    def result(self) -> Result:
        self()
        if self._error is not None:
            raise self._error
        return self.value  # type: ignore[return-value]
