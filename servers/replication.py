"""The primary-copy rule: who takes an upload, who gets copies of it, and when there are enough.

The group's servers stand in order; the first is the primary and takes uploads. A client that could not reach the
servers before this one says so (role "acting"), and then this one does what the primary would: chunks are immutable and
named by their hash, so it does no harm if both do. Role "copy" comes from a server that takes an upload: store, and
send no further.

Copies go to all other servers side by side. All that are not known to be silent are waited for, but once `copies_min`
servers have the content no longer than SPARE_S. A server that did not answer is silent: it is passed over, and asked by
`watch` until it answers. Where passing over would leave too few, silent servers are asked all the same.

Who acts for the servers before it waits for these DOUBTED_S only: a client has waited for them in vain already, and
must not wait for the same standstill twice.

The network is passed in, as `Peers` or what stands for it in a test.

Threads: none; coroutines of the server's event loop. `group` and `silent` change between awaits only.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dfsfuse import errors
from dfsfuse.messages import Cluster, Nothing, Receipt, Server, Stored, Sync, Synced
from servers.arriving import Arriving
from servers.peers import Peers

log = logging.getLogger(__name__)

PRIMARY, ACTING, COPY = "", "acting", "copy"
SPARE_S = 1.0
"""How long the last servers are waited for after copies_min have answered."""
DOUBTED_S = 0.25
"""The same for servers that a client could not reach; more than a round trip."""
ANSWER_S = 10.0
"""How long any server is waited for; a 4 MiB chunk takes 3.4 s at 10 Mbit/s."""
PROBE_S = 0.5

Outcome = dict[str, Any]
"""Server name -> what it answered, or the DfsError that it failed with."""


class _Answers:
    """What `expected` servers answer, and whether it is enough: all have, or some time has passed since `wanted` have
    without an error: SPARE_S, or DOUBTED_S while `doubted` servers alone are missing."""

    def __init__(self, expected: set[str], wanted: int, doubted: set[str]):
        self.outcome: Outcome = {}
        self._missing, self._wanted, self._doubted = set(expected), wanted, doubted
        self._loop = asyncio.get_running_loop()
        self._enough: asyncio.Future[None] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []

    async def note(self, name: str, work: Awaitable[Any]) -> None:
        try:
            self.has(name, await work)
        except errors.DfsError as error:
            self.has(name, error)

    def has(self, name: str, answer: Any) -> None:
        self.outcome[name] = answer
        self._missing.discard(name)
        if not self._missing:
            self._now_enough()
        elif self._good() >= self._wanted:
            wait_s = DOUBTED_S if self._missing <= self._doubted else SPARE_S
            self._timers.append(self._loop.call_later(wait_s, self._now_enough))

    def _good(self) -> int:
        return sum(not isinstance(answer, errors.DfsError) for answer in self.outcome.values())

    def _now_enough(self) -> None:
        if not self._enough.done():
            self._enough.set_result(None)

    async def enough(self) -> None:
        await self._enough
        for timer in self._timers:
            timer.cancel()


class Replication:
    """The placement group as the server called `name` sees it."""

    def __init__(self, name: str, peers: Peers):
        self._name = name
        self._peers = peers
        self._cluster: Cluster | None = None
        self._silent: set[str] = set()

    def update(self, cluster: Cluster) -> None:
        """The directory's newest word on who is in the group, and who is up. A cluster without servers is none."""
        self._cluster = cluster if cluster.files else None
        self._silent &= {server.name for server in cluster.files}

    def check_role(self, role: str) -> None:
        """Raises NotPrimary if this server must not take an upload in that role, and as `check_started`."""
        self.check_started()
        if role == PRIMARY and (primary := self._known().files[0]).name != self._name:
            raise errors.NotPrimary(f"{self._name} is a replica; uploads go to {primary.name}", primary.url)

    def check_started(self) -> None:
        """Raises Starting until the directory has answered: it counts no receipt of a start that it does not know."""
        self._known()

    async def copy(
        self, chunk: bytes, body: memoryview | bytes | Arriving, own: Callable[[], Awaitable[int]], synced: bool = False
    ) -> list[Receipt]:
        """Receipts of all servers that have the chunk once `own`, this server's store, and the others are through. A
        body that is arriving is sent on meanwhile, and it is `own` that lets it come. With `synced` the others answer
        when it is on their disks.

        `body` may be reused when this returns or raises. Raises what `own` raises if that is the caller's fault, and
        NotEnoughCopies (NoSpace if full disks alone are the cause).
        """

        def send(server: Server) -> Awaitable[Stored]:
            query = f"role={COPY}{'&sync' * synced}"
            return self._peers.put_chunk(server.url, chunk, body, ANSWER_S, query)

        async def keep() -> Stored:
            return Stored([Receipt(self._name, await own())])

        outcome = await self._all(keep, send)
        receipts = [answer.receipts[0] for answer in outcome.values() if isinstance(answer, Stored)]
        if len(receipts) < self._known().copies_min:
            raise self._not_enough(outcome, len(receipts))
        return receipts

    async def sync(self, own: Callable[[], Awaitable[Any]]) -> Synced:
        """The servers that have brought what they have to their disks, this one by `own`; whether they suffice is the
        caller's to judge."""

        async def ask(server: Server) -> None:
            await self._peers.call(server.url, "sync", Sync(alone=True), Synced, ANSWER_S)

        outcome = await self._all(own, ask)
        return Synced([name for name, answer in outcome.items() if not isinstance(answer, errors.DfsError)])

    async def watch(self) -> None:
        """For ever: ask silent servers until they answer."""
        while True:
            await asyncio.sleep(PROBE_S)
            silent = [server for server in self._others() if server.name in self._silent]
            await asyncio.gather(*(self._probe(server) for server in silent))

    # -- asking several servers at once

    async def _all(self, own: Callable[[], Awaitable[Any]], ask: Callable[[Server], Awaitable[Any]]) -> Outcome:
        """What this server and the others answered. Own work is never given up: it may be reading the body; it is not
        begun where the group is not known."""
        targets = self._targets()
        names = {self._name, *(server.name for server in targets)}
        answers = _Answers(names, self._known().copies_min, self._doubted())
        # The others have their request, and work on it, before this server turns to its own part.
        asked = {server.name: asyncio.ensure_future(ask(server)) for server in targets}
        for name, answer in asked.items():
            answer.add_done_callback(functools.partial(self._answered, answers, name))
        try:
            await answers.note(self._name, own())
            await answers.enough()
        finally:
            await _end([answer for answer in asked.values() if not answer.done()])
        if isinstance(answers.outcome[self._name], errors.CallerError):
            raise answers.outcome[self._name]
        return answers.outcome

    def _answered(self, answers: "_Answers", name: str, future: "asyncio.Future[Any]") -> None:
        """A server that is late or away is silent from now on; also one that was given up."""
        if future.cancelled():
            answer: Any = errors.TimedOut(f"{name}: too much later than the others")
        else:
            answer = _outcome_of(name, future)
        answers.has(name, answer)
        self._heard(name, not isinstance(answer, errors.Unreachable))

    def _not_enough(self, outcome: Outcome, count: int) -> errors.DfsError:
        failed = {name: answer for name, answer in outcome.items() if isinstance(answer, errors.DfsError)}
        passed_over = [server.name for server in self._others() if server.name not in outcome]
        said = [*(f"{name}: {error}" for name, error in failed.items()), *(f"{name}: is down" for name in passed_over)]
        full = bool(failed) and not passed_over and all(isinstance(error, errors.NoSpace) for error in failed.values())
        message = f"{count} of at least {self._known().copies_min} copies ({'; '.join(said)})"
        return (errors.NoSpace if full else errors.NotEnoughCopies)(message)

    # -- who is who

    def _known(self) -> Cluster:
        if self._cluster is None:
            raise errors.Starting(f"{self._name} has not heard from the directory yet")
        return self._cluster

    def _others(self) -> list[Server]:
        files = self._cluster.files if self._cluster else []
        return [server for server in files if server.name != self._name]

    def givers(self) -> list[Server]:
        """The others, those first that are likely to have a chunk and to answer."""
        return sorted(self._others(), key=lambda server: (server.name in self._silent, not server.up, server.syncing))

    def _targets(self) -> list[Server]:
        """The others that are not known to be silent; all of them if those would be too few. Whom the directory has not
        heard yet is tried all the same: it may have started a moment ago."""
        others = self._others()
        lively = [server for server in others if server.name not in self._silent]
        return lively if 1 + len(lively) >= self._known().copies_min else others

    def _doubted(self) -> set[str]:
        """Those before this one, which clients turn to first. One that is syncing they pass over for that alone."""
        before = itertools.takewhile(lambda server: server.name != self._name, self._known().files)
        return {server.name for server in before if not server.syncing}

    async def _probe(self, server: Server) -> None:
        try:
            await self._peers.call(server.url, "ping", Nothing(), Nothing, PROBE_S)
        except errors.DfsError:
            return
        self._heard(server.name, True)

    def _heard(self, name: str, answers: bool) -> None:
        if answers and name in self._silent:
            log.info("%s answers again", name)
            self._silent.discard(name)
        elif not answers and name not in self._silent:
            log.warning("%s does not answer; passed over until it does", name)
            self._silent.add(name)


def _outcome_of(name: str, future: "asyncio.Future[Any]") -> Any:
    """What a server answered, or the DfsError that it failed with."""
    error = future.exception()
    if error is None or isinstance(error, errors.DfsError):
        return error or future.result()
    log.error("asking %s", name, exc_info=error)
    return errors.Internal(f"{name}: {type(error).__name__}: {error}")


async def _end(late: "list[asyncio.Future[Any]]") -> None:
    """Nothing of what they were given is used any more when this returns."""
    for answer in late:
        answer.cancel()
    if late:
        await asyncio.gather(*late, return_exceptions=True)
