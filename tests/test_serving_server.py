"""Requests from a server to the one that serves of several directory servers, over real HTTP."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support import served

from dfsfuse import errors
from dfsfuse.messages import Nothing, Serving
from servers.http import App, Operation
from servers.peers import Peers

TOKEN, URL = "a-token-of-this-test", "http://127.0.0.1"
LATE_S = 2.5


class Server:
    """It answers `sync` after `late_s`, where it `serves`; else it says that it stands by."""

    def __init__(self, late_s: float = 0.0, serves: bool = True):
        self.late_s, self.serves, self.url, self.asked = late_s, serves, "", 0
        self.app = App(TOKEN, {})
        self.app.replace({"sync": Operation(Nothing, self._sync), "serving": Operation(Nothing, self._tell)})

    def _tell(self, request: Nothing) -> Serving:
        return Serving(self.url if self.serves else "")

    async def _sync(self, request: Nothing) -> Nothing:
        self.asked += 1
        if not self.serves:
            raise errors.NotServing("this one stands by")
        await asyncio.sleep(self.late_s)
        return Nothing()


@pytest.fixture
def started() -> Iterator[Callable[..., str]]:
    """`started(server, ...)`: they listen; the URLs of all."""
    with ExitStack() as stack:

        def start(*servers: Server) -> str:
            for server in servers:
                server.url = f"{URL}:{stack.enter_context(served(server.app))}"
            return ",".join(server.url for server in servers)

        yield start


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of who takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"{URL}:{listening.getsockname()[1]}"


def ask(urls: str, timeout_s: float, *before: Callable[[], None]) -> float:
    """How long the answer took, in seconds. `before` is called half a second after the request."""

    async def run() -> float:
        peers, began = Peers(TOKEN), time.monotonic()
        for each in before:
            asyncio.get_running_loop().call_later(0.5, each)
        try:
            await peers.call(urls, "sync", Nothing(), Nothing, timeout_s)
            return time.monotonic() - began
        finally:
            await peers.close()

    return asyncio.run(run())


def test_a_long_answer_has_the_whole_time(started):
    """Goal: S8. Repair, collection and audit may take the directory seconds: what it is at work on is not given up, nor
    asked for again, while no other one serves."""
    standby, serving = Server(serves=False), Server(LATE_S)
    assert ask(started(standby, serving), 10.0) >= LATE_S
    assert (standby.asked, serving.asked) == (1, 1)


def test_who_stands_still_is_passed_over(started, silent):
    """Goal: who takes connections and does not answer is waited for no longer than until another one says that it
    serves."""
    serving = Server()
    assert ask(f"{silent},{started(serving)}", 10.0) < 2.0


def test_another_one_takes_over_meanwhile(started, silent):
    """Goal: the same where the other one serves only after the request was sent."""
    standby = Server(serves=False)
    assert 0.5 <= ask(f"{silent},{started(standby)}", 10.0, lambda: setattr(standby, "serves", True)) < 3.0


def test_nobody_serves(started, silent):
    """Goal: who asks hears of it within the time that it has given, once."""
    began = time.monotonic()
    with pytest.raises(errors.Unreachable):
        ask(f"{silent},{started(Server(serves=False))},{silent}", 1.0)
    assert time.monotonic() - began < 3.0
    with pytest.raises(errors.NotServing):
        ask(started(Server(serves=False), Server(serves=False)), 1.0)
