"""How the product reaches the simulated network: stand-ins for the sockets below Rpc, Peers and the servers' HTTP.

`Rpc` and `Peers` are the product's own classes but for the exchange over one connection; a server's requests run
through its real App, from the token to the encoded reply.
"""

import asyncio
import functools
from collections.abc import Coroutine
from typing import Any

from simulation.network import Broken, Call, Network, Outcome, Refused, Reply
from simulation.product import now
from simulation.threads import Scheduler, Wait

TOKEN = "simulated"


class _Way:
    """The network of the present run. The classes are made once in a process, as Python learns of each anew."""

    network: Network


way = _Way()


class Exchange:
    """servers.connection.Exchange: a request that is there as a whole, and its reply."""

    __slots__ = (
        "_call", "method", "path", "query", "headers", "body", "length", "replied", "error", "_gone", "_status",
        "_parts",
    )  # fmt: skip

    def __init__(self, call: Call):
        self._call = call
        self.method, self.path, self.query, self.headers = _parsed(call.head)
        self.body = bytes(call.body)
        self.length: int | None = len(self.body)
        self.replied, self.error = False, None
        self._gone: asyncio.Future[None] | None = None
        self._status, self._parts = 0, []

    @property
    def gone(self) -> asyncio.Future:
        if self._gone is None:
            self._gone = Scheduler.loop.create_future()
            self._call.on_gone += (self._was_lost,)
            if self._call.is_gone:
                self._was_lost()
        return self._gone

    def _was_lost(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    async def receive_into(self, buffer: memoryview, stall_s: float) -> memoryview:
        buffer[: len(self.body)] = self.body
        return buffer[: len(self.body)]

    def reply(self, status: int, body: bytes, content_type: bytes) -> None:
        self.replied = True
        self._call.answer(Reply(status, body))

    def begin(self, status: int, length: int, content_type: bytes, more: Any = ()) -> None:
        self._status = status

    async def send(self, piece: bytes) -> None:
        self._parts.append(bytes(piece))

    def end(self, whole: bool = True) -> None:
        self.replied = True
        self._call.answer(Reply(self._status, b"".join(self._parts)) if whole else Broken("within the reply"))


@functools.cache
def _parsed(head: bytes) -> tuple[str, str, bytes, dict[bytes, bytes]]:
    """(method, path, query, headers)"""
    line, *lines = head.split(b"\r\n")
    method, target, _ = line.split(b" ")
    path, _, query = target.partition(b"?")
    headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines if line)}
    return method.decode(), path.decode(), query, headers


@functools.cache
def server() -> Any:
    """What stands for servers.http.serve: requests come from the network."""
    from dfsfuse import errors

    async def serve(app: Any, host: str, port: int, *background: Coroutine[Any, Any, None]) -> None:
        life = Scheduler.loop.life

        def handle(call: Call) -> None:
            exchange = Exchange(call)
            try:
                app.admit(exchange)
            except errors.DfsError as error:
                app.refuse(exchange, error)
                return
            app.run(exchange)

        way.network.listen(host, life, handle)
        running = [asyncio.ensure_future(work) for work in background]
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    return serve


@functools.cache
def peers_class() -> type:
    """servers.peers.Peers over the simulated network."""
    from dfsfuse import errors
    from servers import peers

    class SimulatedPeers(peers.Peers):
        def put_chunk(self, url: str, name: bytes, body: Any, timeout_s: float, query: str = "") -> asyncio.Future:
            line = f"PUT /v1/chunks/{name.hex()}{'?' * bool(query)}{query}"
            return asyncio.ensure_future(self.put_chunk_slowly(url, line, bytes(body), timeout_s))

        async def _exchange(self, address: tuple[str, int], head: bytes, body: Any) -> Any:
            answered: asyncio.Future[Outcome] = Scheduler.loop.create_future()

            def done(outcome: Outcome) -> None:
                if not answered.done():
                    answered.set_result(outcome)

            call = way.network.begin(Scheduler.loop.life, address[0], head, bytes(body), done)
            try:
                outcome = await answered
            finally:
                if not answered.done() or answered.cancelled():
                    call.close()
            if isinstance(outcome, Exception):
                raise errors.Unreachable(str(outcome))
            return peers.Reply(*outcome)

    return SimulatedPeers


class _Waiting:
    """A client's thread that waits for the outcome of its call."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._wait: Wait | None = None

    def done(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self._wait is not None:
            self._wait.end()

    def until(self, wait: Any) -> None:
        """As dfsfuse.http_connection.Wait tells. Raises TimeoutError, Interrupted."""
        began = now()
        end = wait.deadline if wait.stall_s is None else min(wait.deadline, began + wait.stall_s)
        while self.outcome is None:
            left_s = end - now()
            if left_s <= 0:
                raise TimeoutError
            self._wait = Wait()
            self._wait.until(left_s if wait.interrupted is None else min(left_s, wait.poll_s))
            if self.outcome is None and wait.interrupted is not None:
                wait.check(now())


@functools.cache
def rpc_class() -> type:
    """dfsfuse.rpc.Rpc over the simulated network."""
    from dfsfuse import errors, rpc

    class SimulatedRpc(rpc.Rpc):
        def _exchange(self, address: tuple[str, int], head: bytes, body: Any, wait: Any) -> tuple[int, bytes]:
            waiting = _Waiting()
            call = way.network.begin(Scheduler.loop.life, address[0], head, bytes(body), waiting.done)
            if wait.meanwhile is not None:
                wait.meanwhile()
            try:
                waiting.until(wait)
            finally:
                if waiting.outcome is None:
                    call.close()
            if isinstance(waiting.outcome, Refused):
                raise ConnectionRefusedError
            if isinstance(waiting.outcome, Broken):
                raise errors.Unreachable(str(waiting.outcome))
            return waiting.outcome

    return SimulatedRpc
