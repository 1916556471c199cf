"""Walks of the directory over all metadata, asked for page by page."""

import secrets
from collections.abc import Iterator
from typing import Any

from dfsfuse.commands.reach import Metadata


def survey(asked: Metadata, operation: str, request: Any, reply: type) -> Iterator[Any]:
    """All pages of one walk. `request(key, page)` asks for one; each page tells whether there are more."""
    key, number, more = secrets.token_bytes(16), 0, True
    while more:
        page = asked.ask(operation, request(key=key, page=number), reply)
        yield page
        more, number = page.more, number + 1
