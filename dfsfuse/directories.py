"""Which of a cluster's directory servers serves, where there are several: `--cluster URL,URL,URL`.

Each tells who does, as far as it knows. Who has just been elected may not answer yet, and who has just lost may not
know it yet; those that stand by name one that was cut off until another one is elected. So who asks here asks again,
and what is asked meanwhile goes to one that stands by and says so at once, rather than to one that is silent.

Threads: any; `_latest` and the values of `_silent` are simple, and their races do no harm.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from dfsfuse.messages import Nothing, Serving
from dfsfuse.rpc import Rpc

ASK_S = 1.0
_SPARED_S = 1.0
"""One that has not answered is not asked again for so long."""


class Directories:
    """`urls` are those of all; `latest` is the one that served last, as far as is known."""

    def __init__(self, urls: list[str], token: str, clock: Callable[[], float] = time.monotonic):
        self._urls, self._latest, self._clock = urls, urls[0], clock
        self._rpc = Rpc(token)
        self._silent: dict[str, float] = {}

    def find(self) -> str:
        """The URL of who serves now; where nobody tells, of the next one to try."""
        latest = self._latest
        found = self.another() or (latest if self._asked(latest) == latest else "")
        self._latest = found or self._next_to_try(latest)
        return self._latest

    def another(self) -> str:
        """Whom those other than the latest name, if that is not the latest itself, nor one that is silent; else ""."""
        latest = self._latest
        for url in sorted(self._urls, key=lambda url: url in self._silent):
            named = self._asked(url) if url != latest else ""
            if named and named != latest and (named == url or named not in self._silent):
                self._latest = named
                return named
        return ""

    def _next_to_try(self, latest: str) -> str:
        at = self._urls.index(latest) + 1 if latest in self._urls else 0
        in_turn = self._urls[at:] + self._urls[:at]
        return min(in_turn, key=lambda url: url in self._silent)

    def _asked(self, url: str) -> str:
        if self._clock() < self._silent.get(url, 0.0):
            return ""
        if url in self._silent:
            # One thread waits for it in vain, and not all of them.
            self._silent[url] = self._clock() + ASK_S + _SPARED_S
        try:
            told = self._rpc.call(url, "serving", Nothing(), Serving, ASK_S).url
        except errors.DfsError:
            self._silent[url] = self._clock() + _SPARED_S
            return ""
        self._silent.pop(url, None)
        return told


class Finders(NamedTuple):
    """What a client calls when the directory does not answer, or does not serve any more, for whom to ask then; and
    while it is silent, for who serves in its place. None: there is one alone."""

    refind: Callable[[], str] | None = None
    another: Callable[[], str] | None = None


def finders(url: str, token: str) -> Finders:
    urls = url.split(",")
    if len(urls) == 1:
        return Finders()
    directories = Directories(urls, token)
    return Finders(directories.find, directories.another)
