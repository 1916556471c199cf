"""HTTP for all servers: route -> check the token -> decode -> core -> encode; errors become status codes.

A bare ASGI application under uvicorn: every layer above it costs more than the operations themselves
(docs/PERFORMANCE.md). `POST /v1/<operation>` carries msgpack, or JSON both ways where the request says
`application/json`; an empty body counts as JSON `{}`. What is not of this form (chunk bodies) is served by a `raw`
handler under `/v1/<first part>/...`.
"""

import asyncio
import contextlib
import hmac
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from inspect import isawaitable
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from dfsfuse import errors
from dfsfuse.messages import BODY_BYTES_MAX, Message, from_json, from_msgpack, to_json, to_msgpack

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Raw = Callable[[Scope, str, Receive, Send], Awaitable[None]]

_JSON = b"application/json"
_MSGPACK = b"application/msgpack"


class Gone:
    """Tells a waiting operation that its caller has closed the connection."""

    def __init__(self, receive: Receive):
        self._receive = receive

    async def wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Operation(NamedTuple):
    """`handler(request)` returns the reply, or an awaitable of it. With `waits` it is given (request, Gone)."""

    request: type[Message]
    handler: Callable[..., Any]
    waits: bool = False


class App:
    """The ASGI application of one server. `token` is the cluster's; `operations` and `raw` are its routes."""

    def __init__(self, token: str, operations: dict[str, Operation], raw: dict[str, Raw] | None = None):
        self._authorization = b"Bearer " + token.encode()
        self._operations = operations
        self._raw = raw or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        as_json = headers.get(b"content-type", _MSGPACK).startswith(_JSON) or headers.get(b"content-length") == b"0"
        try:
            self._authorize(headers)
            name, _, rest = _route(scope["path"])
            if name in self._raw:
                await self._raw[name](scope, rest, receive, send)
                return
            reply = await self._run(scope["method"], name + ("/" + rest if rest else ""), as_json, headers, receive)
            await respond(send, 200, to_json(reply) if as_json else to_msgpack(reply), as_json)
        except errors.DfsError as error:
            await respond_error(send, error, as_json)
        except Exception as error:
            log.exception("%s %s", scope["method"], scope["path"])
            await respond_error(send, errors.Internal(f"{type(error).__name__}; see the server's log"), as_json)

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._authorization):
            raise errors.Unauthorized("the cluster's token is missing or wrong: Authorization: Bearer <token>")

    async def _run(
        self, method: str, name: str, as_json: bool, headers: dict[bytes, bytes], receive: Receive
    ) -> Message:
        operation = self._operations.get(name)
        if operation is None:
            raise errors.NoSuchOperation(f"no operation {name!r}; there are: {', '.join(sorted(self._operations))}")
        if method != "POST":
            raise errors.MethodNotAllowed(f"{name}: use POST, not {method}")
        body = await read_body(headers, receive, BODY_BYTES_MAX)
        request = (from_json if as_json else from_msgpack)(body, operation.request)
        reply = operation.handler(request, Gone(receive)) if operation.waits else operation.handler(request)
        return await reply if isawaitable(reply) else reply


def _route(path: str) -> tuple[str, str, str]:
    if not path.startswith("/v1/"):
        raise errors.NoSuchOperation(f"{path!r}: operations are below /v1/")
    return path[4:].partition("/")


async def read_body(headers: dict[bytes, bytes], receive: Receive, bytes_max: int) -> bytes:
    """The whole body; BodyTooLarge as soon as it is known to exceed `bytes_max`."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > bytes_max:
        raise errors.BodyTooLarge(f"the body has {int(announced)} bytes; at most {bytes_max} are taken")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise errors.BadRequest("the connection was closed before the body")
    body = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise errors.BadRequest("the connection was closed within the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bytes_max:
            raise errors.BodyTooLarge(f"the body has more than {bytes_max} bytes")
    return b"".join(parts)


async def respond(send: Send, status: int, body: bytes, as_json: bool = False, content_type: bytes = b"") -> None:
    headers = [
        (b"content-type", content_type or (_JSON if as_json else _MSGPACK)),
        (b"content-length", str(len(body)).encode()),
    ]
    with _in_one_write(send):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Gathering:
    """Stands in for a transport: what is written leaves together, with `flush`."""

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@contextlib.contextmanager
def _in_one_write(send: Send) -> Iterator[None]:
    """uvicorn writes a reply's head and body by two system calls; each wakes the one who waits for the reply, and
    that is most of what a small request costs. Another server's `send` is left as it is."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    transport = cycle.transport
    gathering = cycle.transport = _Gathering(transport)
    try:
        yield
    finally:
        cycle.transport = transport
        gathering.flush()


class ErrorReply(Message):
    """What travels of an error."""

    code: str
    message: str
    detail: str = ""


async def respond_error(send: Send, error: errors.DfsError, as_json: bool) -> None:
    reply = ErrorReply(**errors.to_wire(error))
    await respond(send, error.status, to_json(reply) if as_json else to_msgpack(reply), as_json)


async def serve(app: App, host: str, port: int, *background: Coroutine[Any, Any, None]) -> None:
    """Serve until SIGTERM or SIGINT; `background` coroutines run beside it and are cancelled at the end."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        date_header=False,
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    tasks = [asyncio.create_task(_guarded(work)) for work in background]
    try:
        await server.serve()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """A background task that fails ends the whole process, so that its supervisor starts it anew."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("a background task failed; this server ends")
        signal.raise_signal(signal.SIGTERM)
