"""HTTP for all servers: route -> check the token -> decode -> core -> encode; errors become status codes.

`POST /v1/<operation>` carries msgpack, or JSON both ways where the request's content-type says `application/json`; who
accepts JSON gets it. An empty body is JSON's `{}`. What is not of this form (chunk bodies) is served by a `raw` handler
under `/v1/<first part>/...`. How requests come about and replies leave is in `servers/connection.py`.

Threads: none; everything belongs to the event loop.
"""

import asyncio
import hmac
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from dfsfuse import errors
from dfsfuse.messages import BODY_BYTES_MAX, Message, from_json, from_msgpack, to_json, to_msgpack
from servers.connection import Connection
from servers.exchange import Exchange

log = logging.getLogger(__name__)

JSON = b"application/json"
MSGPACK = b"application/msgpack"

IDLE_S_MAX = 600.0
_GRACE_S = 1.0
_BACKLOG = 1024


class Operation(NamedTuple):
    """`handler(request)` returns the reply, or an awaitable of it. With `waits` it is given (request, gone), where
    `gone` is done when the caller has closed the connection."""

    request: type[Message]
    handler: Callable[..., Any]
    waits: bool = False


class Raw(NamedTuple):
    """`handler(exchange, rest of the path)` replies by itself, at once or in what it returns to be awaited. Bodies of
    up to `small_bytes` are taken in beforehand; it receives larger ones."""

    handler: Callable[[Exchange, str], Awaitable[None] | None]
    small_bytes: int


class App:
    """The operations of one server. `token` is the cluster's; `operations` and `raw` are its routes."""

    def __init__(self, token: str, operations: dict[str, Operation], raw: dict[str, Raw] | None = None):
        self._authorization = b"Bearer " + token.encode()
        self._operations = operations
        self._raw = raw or {}
        self._otherwise: Callable[[], errors.DfsError] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def replace(self, operations: dict[str, Operation], otherwise: Callable[[], errors.DfsError] | None = None) -> None:
        """These are served from now on. `otherwise()` is what all others are refused with; None: they do not exist."""
        self._operations, self._otherwise = operations, otherwise

    # -- what a connection asks of its application

    def admit(self, exchange: Exchange) -> int:
        if not hmac.compare_digest(exchange.headers.get(b"authorization", b""), self._authorization):
            raise errors.Unauthorized("the cluster's token is missing or wrong: Authorization: Bearer <token>")
        name, _, _ = _route(exchange.path)
        if name not in self._raw:
            return BODY_BYTES_MAX
        if exchange.length is None:
            raise errors.BadRequest(f"{name}: the length of the body is announced by content-length, or there is none")
        small = self._raw[name].small_bytes
        return small if exchange.length <= small else -1

    def run(self, exchange: Exchange) -> None:
        name, _, rest = _route(exchange.path)
        try:
            if name in self._raw:
                work = self._raw[name].handler(exchange, rest)
                if work is not None:
                    self._later(exchange, work)
                return
            reply = self._answer(exchange, name + ("/" + rest if rest else ""))
            if isinstance(reply, Message):
                respond(exchange, 200, reply)
            else:
                self._later(exchange, _reply_when_there(exchange, reply))
        except errors.DfsError as error:
            self.refuse(exchange, error)
        except Exception as error:
            self._failed(exchange, error)

    def refuse(self, exchange: Exchange, error: errors.DfsError) -> None:
        respond(exchange, error.status, ErrorReply(**errors.to_wire(error)))

    def _answer(self, exchange: Exchange, name: str) -> Any:
        operation = self._operations.get(name)
        if operation is None and self._otherwise is not None:
            raise self._otherwise()
        if operation is None:
            raise errors.NoSuchOperation(f"no operation {name!r}; there are: {', '.join(sorted(self._operations))}")
        if exchange.method != "POST":
            raise errors.MethodNotAllowed(f"{name}: use POST, not {exchange.method}")
        request = (from_json if _is_json(exchange) else from_msgpack)(exchange.body, operation.request)
        return operation.handler(request, exchange.gone) if operation.waits else operation.handler(request)

    def _later(self, exchange: Exchange, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded(exchange, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, exchange: Exchange, work: Awaitable[None]) -> None:
        try:
            await work
        except errors.DfsError as error:
            self.refuse(exchange, error)
        except Exception as error:
            self._failed(exchange, error)

    def _failed(self, exchange: Exchange, error: Exception) -> None:
        log.error("%s %s", exchange.method, exchange.path, exc_info=error)
        self.refuse(exchange, errors.Internal(f"{type(error).__name__}; see the server's log"))

    async def end(self, grace_s: float) -> None:
        """Wait so long for what is running, then cancel it."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in self._running:
            task.cancel()


async def _reply_when_there(exchange: Exchange, reply: Awaitable[Message]) -> None:
    respond(exchange, 200, await reply)


def _route(path: str) -> tuple[str, str, str]:
    if not path.startswith("/v1/"):
        raise errors.NoSuchOperation(f"{path[:80]!r}: operations are below /v1/")
    return path[4:].partition("/")


def _is_json(exchange: Exchange) -> bool:
    """Whether the request is."""
    if exchange.headers.get(b"content-type", b"").startswith(JSON):
        return True
    return exchange.length == 0 and exchange.method == "POST"


class ErrorReply(Message):
    """What travels of an error."""

    code: str
    message: str
    detail: str = ""


def respond(exchange: Exchange, status: int, reply: Message) -> None:
    """In JSON where the request was, or accepts it."""
    as_json = _is_json(exchange) or exchange.headers.get(b"accept", b"").startswith(JSON)
    body = to_json(reply) if as_json else to_msgpack(reply)
    exchange.reply(status, body, JSON if as_json else MSGPACK)


class Listener:
    """Listens on `host` and `port` from `start` to `close`, for `app`. Port 0 is any free one; `port` tells which."""

    def __init__(self, app: App, host: str, port: int):
        self._app, self._host, self.port = app, host, port
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._app, self._connections), self._host, self.port, backlog=_BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """What is being answered is answered first, for _GRACE_S at most."""
        self._server.close()
        await self._app.end(_GRACE_S)
        for connection in list(self._connections):
            connection.close()

    async def close_idle(self) -> None:
        """For ever: end connections over which nothing comes."""
        while True:
            await asyncio.sleep(IDLE_S_MAX / 10)
            oldest = asyncio.get_running_loop().time() - IDLE_S_MAX
            for connection in [c for c in self._connections if c.active is None and c.last_used < oldest]:
                connection.close()


async def serve(app: App, host: str, port: int, *background: Coroutine[Any, Any, None]) -> None:
    """Serve until SIGTERM or SIGINT; `background` coroutines run beside it and are cancelled at the end."""
    loop, ended, listener = asyncio.get_running_loop(), asyncio.Event(), Listener(app, host, port)
    await listener.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tasks = [asyncio.create_task(_background(work)) for work in (*background, listener.close_idle())]
    try:
        await ended.wait()
        await listener.close()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _background(work: Coroutine[Any, Any, None]) -> None:
    """A background task that fails ends the whole process, so that its supervisor starts it anew."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("a background task failed; this server ends")
        signal.raise_signal(signal.SIGTERM)
