"""Which of a cluster's directory servers serves, where there are several: `--cluster URL,URL,URL`.

Each tells who does, as far as it knows. Who has just been elected may not answer yet, and who has just lost may not
know it yet: so who asks here asks again.

Threads: any; `_latest` is a simple value whose races do no harm.
"""

from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.messages import Nothing, Serving
from dfsfuse.rpc import Rpc

ASK_S = 1.0


class Directories:
    """`urls` are those of all; `now` is the one that served last, as far as is known."""

    def __init__(self, urls: list[str], token: str):
        self._urls, self._latest = urls, urls[0]
        self._rpc = Rpc(token)

    def find(self) -> str:
        """The URL of who serves now; where nobody tells, of the next one to try."""
        others = [url for url in self._urls if url != self._latest]
        for url in (*others, self._latest):
            if serving := self._asked(url):
                self._latest = serving
                return serving
        self._latest = (others or self._urls)[0]
        return self._latest

    def _asked(self, url: str) -> str:
        try:
            return self._rpc.call(url, "serving", Nothing(), Serving, ASK_S).url
        except errors.DfsError:
            return ""


def finder(url: str, token: str) -> Callable[[], str] | None:
    """What a client calls when the directory does not answer, or does not serve any more; None: there is one alone."""
    urls = url.split(",")
    return Directories(urls, token).find if len(urls) > 1 else None
