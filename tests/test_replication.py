"""The primary-copy rule by itself, without a network."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dfsfuse import errors
from servers.replication import Replication


@pytest.mark.parametrize("ask", [lambda to, own: to.copy(b"name", b"data", own), lambda to, own: to.sync(own)])
def test_nothing_is_begun_where_the_group_is_not_known(ask: Callable[[Replication, Any], Any]) -> None:
    """Goal: a server that has not heard of the directory since its start says so, and its own part is not begun."""
    begun: list[str] = []

    def own() -> Any:
        begun.append("own part")
        return asyncio.sleep(0, 1)

    with pytest.raises(errors.Starting):
        asyncio.run(ask(Replication("A", None), own))
    assert not begun
