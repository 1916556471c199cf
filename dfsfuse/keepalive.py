"""When a connection is given up whose other side a cut network has silenced.

TCP repeats what nobody has acknowledged after 0.2 s, 0.4 s, 0.8 s, and so on, up to two minutes apart: a connection
that was in use during a cut stays silent for as long again after it. One that is given up is made anew as soon as the
network is whole. A process that stands still is another matter: its kernel goes on acknowledging.

Threads: none.
"""

import socket

CUT_S = 5.0
"""For so long nothing was acknowledged. It is also how long a server that lives may leave a body unread."""

_OPTIONS = {
    "TCP_KEEPIDLE": 2,
    "TCP_KEEPALIVE": 2,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": int(CUT_S * 1000),
}
"""In seconds, and the last in milliseconds. Not every system has all: TCP_KEEPALIVE is macOS's name for TCP_KEEPIDLE,
and TCP_USER_TIMEOUT is Linux's, where it counts in the place of TCP_KEEPCNT."""


def give_up_when_cut(connection: socket.socket) -> None:
    """The kernel ends it with ETIMEDOUT when the other side's has acknowledged nothing for CUT_S, be it data or, where
    nothing is on its way, a sign of life that was asked for."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
