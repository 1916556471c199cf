"""How a server tells the directory that it is there: once at its start, then by heartbeats.

A heartbeat's reply carries the cluster, so every server learns of the others without asking. A directory that is away
is no error: the server goes on with what it knew, and says once that the directory went and once that it came back.

Threads: none; coroutines of the server's event loop.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from dfsfuse import errors
from dfsfuse.messages import Register, Registered, Server
from servers.peers import Peers

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
FORMING_S, FORMING_BEATS = 0.05, 100
TIMEOUT_S = 5.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 2.0


async def first_registration(peers: Peers, directory_url: str, server: Server, start: bool) -> Registered:
    """Ask until the directory answers, with a growing pause. Raises Unauthorized: no other try would help."""
    state, pause_s = _Directory(directory_url), PAUSE_FIRST_S
    while True:
        try:
            reply = await _register(peers, directory_url, server, start)
        except errors.Unauthorized:
            message = f"the directory at {directory_url} refuses this server's token; is it another cluster's?"
            raise errors.Unauthorized(message) from None
        except errors.DfsError as error:
            state.is_away(error)
        else:
            log.info("%s %s is registered at %s", server.kind, server.name, directory_url)
            return reply
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)


async def heartbeat(
    peers: Peers,
    directory_url: str,
    describe: Callable[[], Server],
    on_reply: Callable[[Registered], None],
    every_s: float = HEARTBEAT_S,
) -> None:
    """For ever: send what `describe` tells, and pass each reply on. While the group is forming it is asked for often,
    so that the first uploads find all of it."""
    state = _Directory(directory_url)
    forming = FORMING_BEATS
    while True:
        await asyncio.sleep(FORMING_S if forming else every_s)
        try:
            reply = await _register(peers, directory_url, describe(), start=False)
        except errors.DfsError as error:
            state.is_away(error)
        else:
            state.is_here()
            forming = max(0, forming - 1) if len(reply.cluster.files) < reply.cluster.copies else 0
            on_reply(reply)


async def _register(peers: Peers, directory_url: str, server: Server, start: bool) -> Registered:
    return await peers.call(directory_url, "register", Register(server=server, start=start), Registered, TIMEOUT_S)


class _Directory:
    """Whether the directory answers; a change is logged, its lasting is not."""

    def __init__(self, url: str):
        self._url = url
        self._away = False

    def is_away(self, error: errors.DfsError) -> None:
        if not self._away:
            log.warning("the directory at %s does not answer (%s); asking again until it does", self._url, error)
        self._away = True

    def is_here(self) -> None:
        if self._away:
            log.info("the directory at %s answers again", self._url)
        self._away = False


def reachable_url(host: str, port: int, directory_url: str) -> str:
    """The address under which others reach a server that listens on `host`.

    A server that listens on every address is reached under the one from which it reaches the directory.
    """
    if host in ("", "0.0.0.0", "::"):
        target = urlsplit(directory_url.partition(",")[0])
        family, kind, _, _, address = socket.getaddrinfo(target.hostname, target.port or 80, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            host = probe.getsockname()[0]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
