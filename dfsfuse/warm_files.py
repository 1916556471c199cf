"""Files of contents that nobody uses just now, kept open for a while: the next open finds them as they were.

Threads: the cache's, which calls this under its mutex.
"""

import os
from collections import OrderedDict

from dfsfuse.content import Content

WARM_MAX = 64


class WarmFiles:
    """By their numbers in the index; those that were used last."""

    def __init__(self) -> None:
        self._contents: OrderedDict[int, Content] = OrderedDict()

    def keep(self, content: Content) -> list[Content]:
        """The file stays open. The contents whose files are to be closed in its place."""
        self.drop(content.row)
        self._contents[content.row] = content
        return [self._contents.popitem(last=False)[1]] if len(self._contents) > WARM_MAX else []

    def take(self, content: Content) -> bool:
        """It comes into use again; False if its file is not open."""
        if self._contents.get(content.row) is not content:
            return False
        del self._contents[content.row]
        return True

    def drop(self, number: int) -> None:
        """The file goes, or another object stands for the content by now."""
        content = self._contents.pop(number, None)
        if content is not None:
            os.close(content.fd)
            content.fd = -1

    def take_all(self) -> list[Content]:
        contents = list(self._contents.values())
        self._contents.clear()
        return contents
