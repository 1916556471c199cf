"""The simulated network: requests and replies between hosts, late, lost, doubled, reordered, or cut off.

It carries what HTTP/1.1 connections carry: the head and body of a request to the server that listens there, and status
and body of its reply to the caller. So everything above, from encoding to repetition, is the product's. What a caller
can meet:

    refused     no server runs on the host
    broken      the connection ended before the reply, whether the request was executed, will be, or not
    silence     nothing comes; a request that was stopped by a partition may arrive when that has healed

Requests overtake each other. A request is doubled where the caller's kernel has sent it over two connections.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from simulation.loop import Life, SimulatedLoop


class Reply(NamedTuple):
    status: int
    body: bytes


class Refused(Exception):
    """No server runs there."""


class Broken(Exception):
    """The connection ended before the reply."""


_ON_NAMES = tuple(b"POST /v1/%s " % operation for operation in (b"create", b"rename", b"remove", b"set_attributes"))
_UNHEARD, _LATE_S = 0.7, 2.5
"""The chance that the answer to a change is lost while some are, and how late that is found out."""

Outcome = Reply | Exception
Message = tuple[str, str, Life, Callable[[Any], None], Any]
"""(source, target, life, deliver, what): `deliver(what)` is an event of that life once it arrives at `target`."""
Handler = Callable[["Call"], None]


class Call:
    """A request on its way. The server sets `on_gone`, which is called when its caller has closed the connection; from
    then on it `is_gone`."""

    __slots__ = ("network", "caller", "host", "head", "body", "server", "done", "on_gone", "is_gone")

    def __init__(self, network: "Network", caller: Life, host: str, head: bytes, body: bytes):
        self.network, self.caller, self.host, self.head, self.body = network, caller, host, head, body
        self.server: Life | None = None
        self.done: Callable[[Outcome], None] | None = None
        self.on_gone: tuple[Callable[[], None], ...] = ()
        self.is_gone = False

    def answer(self, reply: Outcome) -> None:
        """The server's reply sets out."""
        self.network.answer(self, reply)

    def arrive(self, outcome: Outcome) -> None:
        done, self.done = self.done, None
        if isinstance(outcome, Broken):
            self.network.closed(self)
        else:
            self.network.over(self)
        if done is not None:
            done(outcome)

    def tell_gone(self) -> None:
        self.is_gone = True
        for tell in self.on_gone:
            tell()

    def close(self) -> None:
        """The caller waits no longer."""
        self.done = None
        self.network.closed(self)


class Network:
    """`loss` and `doubling` are the chances of a message. `cut` has the directed pairs of hosts between which nothing
    arrives. `unheard` counts the answers to changes of names that will be lost, which is found out late. `far` is a
    host to and from which everything takes up to `far_s`. `on_begin` is told of each request before it is sent."""

    def __init__(self, loop: SimulatedLoop, source: random.Random):
        self._loop, self.random = loop, source
        self._listening: dict[str, tuple[Life, Handler]] = {}
        self.cut: set[tuple[str, str]] = set()
        self.dark: set[str] = set()
        self.loss = self.doubling = 0.0
        self.slow_s = self.far_s = 0.0
        self.unheard, self.far = 0, ""
        self.on_begin: Callable[[Call], None] | None = None
        self._held: list[Message] = []
        self._power_cuts = 0
        self._latest_cut: dict[str, int] = {}
        self._under_way: dict[str, dict[Call, None]] = {}
        self._waiting: dict[Life, dict[Call, None]] = {}

    # -- servers

    def listen(self, host: str, life: Life, handler: Handler) -> None:
        self._listening[host] = (life, handler)

    def died(self, host: str) -> None:
        """The server's kernel ends its connections, if the host has power."""
        self._listening.pop(host, None)
        for call in self._under_way.pop(host, ()):
            if host not in self.dark:
                self._carry(host, call.caller.name, call.caller, call.arrive, Broken("reset"))

    def lost_power(self, host: str) -> None:
        """What is on its way from it or to it belongs to connections that nobody knows of any more."""
        self.dark.add(host)
        self._power_cuts += 1
        self._latest_cut[host] = self._power_cuts
        self.died(host)

    def heal(self, pairs: set[tuple[str, str]] | None = None) -> None:
        """These links carry again; what they have held back arrives, or is lost with its connection. Or all do, and
        all of it arrives."""
        self.cut -= pairs if pairs is not None else set(self.cut)
        held, self._held = self._held, []
        for message in held:
            if self._blocked(*message[:2]):
                self._held.append(message)
            elif pairs is None or self.random.random() < 0.5:
                self._carry(*message)

    def _blocked(self, source: str, target: str) -> bool:
        return (source, target) in self.cut or source in self.dark or target in self.dark

    # -- messages

    def delay_s(self, *hosts: str) -> float:
        chance, slow_s = self.random.random(), self.slow_s
        if self.far and self.far in hosts:
            slow_s = self.far_s
        return 0.0002 + 0.003 * chance * chance + (self.random.random() * slow_s if slow_s else 0.0)

    def _carry(self, source: str, target: str, life: Life, deliver: Callable[[Any], None], what: Any) -> None:
        """`deliver(what)` is an event of `life`, if it arrives."""
        loop, delay_s = self._loop, self.delay_s(source, target)
        loop.for_life(loop.world, delay_s, self._arrive, source, target, life, deliver, what, self._power_cuts)

    def _arrive(
        self, source: str, target: str, life: Life, deliver: Callable[[Any], None], what: Any, power_cuts: int
    ) -> None:
        """`power_cuts`: how many there had been when it set out."""
        if self._power_cuts > power_cuts and self._has_lost_power(power_cuts, source, target):
            return
        if (self.cut or self.dark) and self._blocked(source, target):
            self._held.append((source, target, life, deliver, what))
        else:
            self._loop.hand_over(life, deliver, what)

    def _has_lost_power(self, since: int, *hosts: str) -> bool:
        return any(self._latest_cut.get(host, 0) > since for host in hosts)

    def begin(self, caller: Life, host: str, head: bytes, body: bytes, done: Callable[[Outcome], None]) -> Call:
        """`done(outcome)` comes once, as an event of the caller's; or never, in silence."""
        call = Call(self, caller, host, head, body)
        call.done = done
        self._waiting.setdefault(caller, {})[call] = None
        if self.on_begin is not None:
            self.on_begin(call)
        self._send(call)
        if self.doubling and self.random.random() < self.doubling:
            self._send(call)
        return call

    def _send(self, call: Call) -> None:
        if self.loss and self.random.random() < self.loss:
            if self.random.random() < 0.7:
                self._carry(call.caller.name, call.caller.name, call.caller, call.arrive, Broken("reset"))
            if self.random.random() < 0.5:
                return
        self._carry(call.caller.name, call.host, self._loop.world, self._deliver, call)

    def _deliver(self, call: Call) -> None:
        life, handler = self._listening.get(call.host, (None, None))
        if life is None or not life.alive:
            self._carry(call.host, call.caller.name, call.caller, call.arrive, Refused(call.host))
            return
        self._under_way.setdefault(call.host, {})[call] = None
        call.server = life
        self._loop.hand_over(life, handler, call)
        if call.done is None:
            self._tell_gone(call)

    def answer(self, call: Call, reply: Outcome) -> None:
        self._under_way.get(call.host, {}).pop(call, None)
        if self.loss and self.random.random() < self.loss:
            reply = Broken("reset")
        if self.unheard and call.head.startswith(_ON_NAMES) and self.random.random() < _UNHEARD:
            self.unheard -= 1
            broken = call.host, call.caller.name, call.caller, call.arrive, Broken("silence")
            self._loop.for_life(self._loop.world, _LATE_S * self.random.random(), self._carry, *broken)
            return
        self._carry(call.host, call.caller.name, call.caller, call.arrive, reply)

    def over(self, call: Call) -> None:
        self._waiting.get(call.caller, {}).pop(call, None)

    def closed(self, call: Call) -> None:
        """The caller's end of the connection is closed; the server hears of it where the link carries."""
        self.over(call)
        if call.server is not None:
            self._tell_gone(call)

    def caller_died(self, caller: Life) -> None:
        """Its kernel closes all of its connections."""
        for call in list(self._waiting.pop(caller, {})):
            call.close()

    def _tell_gone(self, call: Call) -> None:
        self._carry(call.caller.name, call.host, call.server, Call.tell_gone, call)
