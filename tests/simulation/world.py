"""One simulated run: a cluster, its clients and their programs, what goes wrong, and the end, at which all is settled.

Everything follows from the seed. After the work everything is healed; then programs end, what is unsent is sent,
each client reads and writes every file, and all must see the same.
"""

import os
import pathlib
import random
import shutil
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from simulation import disasters, hosts, product, taps, threads
from simulation.ending import SETTLE_S, Ending
from simulation.history import Files, Violation
from simulation.loop import SimulatedLoop
from simulation.name_history import MARK, NAMES, NameHistory
from simulation.naming import IN
from simulation.network import Network
from simulation.programs import LOGS, TABLES, Program, Turns, place

WINDOW_S = 1.0
"""What a power cut may take (S10). A sync begins each half second and takes 20 ms at most here; and of the contents
that follow each other within a quarter of a second the last one is kept: 0.8 s in all."""
HANG_S = 40.0
"""No call takes longer: there are time-outs of 6 s, which follow each other where an open meets several servers."""
LOOK_S = 0.03


class World:
    def __init__(self, seed: int, traced: bool = False, disaster: str = ""):
        self.seed, self._traced = seed, traced
        self.trace: list[str] = []
        self.random = random.Random(seed)
        self.profile = disasters.draw_profile(self.fork("profile"), disaster)
        self.healed = self.stopping = False
        self.files = Files(LOGS)
        self.names = NameHistory()
        self.on_grant: Callable[[str, int], None] | None = None
        self.fences: dict[int, int] = {}
        self.heard: dict[tuple[Any, str], float] = {}
        self.missed: dict[str, set[bytes]] = {}
        self.commit_ids: set[bytes] = set()
        self.power_cuts = self.directory_cuts = 0
        self._cuts: list[float] = []
        self.committed: dict[int, float] = {}
        self._taken: set[int] = set()
        self._violation: Violation | None = None
        self._programs = 0
        self.given_up = False
        self._build()

    def _build(self) -> None:
        disk, yields = self.fork("disk"), self.fork("yields")
        product.Randomness.source = self.fork("secrets")
        self.loop = SimulatedLoop(lambda: 0.0003 + 0.02 * disk.random() ** 4)
        threads.begin(self.loop, yields)
        self.network = Network(self.loop, self.fork("network"))
        self.network.far_s = self.profile.far_s
        self.servers = hosts.Servers(self.loop, self.network, self.fork("servers"), self.profile.collects)
        hosts.wire_clients()
        self.home = pathlib.Path(tempfile.mkdtemp())
        names = [f"client{number}" for number in range(1, self.profile.clients + 1)]
        self.clients = [hosts.Client(n, self.loop, self.network, self.home, self.fork(n)) for n in names]

    # -- for all parts

    def fork(self, what: str) -> random.Random:
        """A source of its own for each part, so that one that draws more does not change the others."""
        return random.Random(f"{self.seed} {what}")

    def drawn(self) -> str:
        """Two runs in which anything happened differently differ in it."""
        sources = self.network.random, self.servers.random, product.Randomness.source
        return " ".join(f"{source.getrandbits(32):08x}" for source in sources)

    @property
    def now(self) -> float:
        return self.loop.now

    def note(self, who: str, what: str) -> None:
        if self._traced:
            self.trace.append(f"{self.loop.now - 1000:9.4f}  {who:10}  {what}")

    def broken(self, violation: Violation) -> None:
        """The run ends with it, wherever it was raised."""
        self._violation = self._violation or violation
        self.loop.stop()
        raise violation

    def check_copies(self, ino: int) -> None:
        taps.check_copies(self, ino)

    def may_lack(self, ino: int) -> bool:
        """Whether a power cut may have taken what was committed of it."""
        return ino in self._taken

    def tell_followers(self, writer: Any, file: str) -> None:
        """A program of `writer` has closed it, or put another one in its place, or is about to: those of other clients
        that wait for that go on."""
        for client in self.clients:
            turns = getattr(client, "turns", None)
            if turns is not None and turns.life is client.life and client is not writer:
                self.loop.within(turns.life, lambda turns=turns: turns.tell(file))

    def took(self, who: str, what: str, began: float) -> None:
        if self.now - began > HANG_S:
            raise Violation(f"S13: {who}: {what} took {self.now - began:.1f} s")

    def lately_cut(self) -> bool:
        return bool(self._cuts) and self.now - self._cuts[-1] < HANG_S

    # -- hosts

    def start_server(self, name: str) -> None:
        self.note(name, "starts")
        self.servers.start(name)

    def start_client(self, client: Any) -> None:
        if client.life is None:
            self.note(client.name, "starts")
            client.start(lambda: self._start_programs(client))

    def _start_programs(self, client: Any) -> None:
        self.note(client.name, "is mounted")
        turns = client.turns = Turns(client.life)
        client.filesystem.on_broken(lambda ino, name: self._called_back(turns, ino, name))
        for number in range(0 if self.stopping else self.profile.programs):
            program = Program(self, client, number, turns)
            threads.spawn(lambda program=program: self._run(program))

    def _called_back(self, turns: Turns, ino: int, name: bytes) -> None:
        if ino == self.names.inos[MARK]:
            turns.tell(MARK, heard=True)
        elif ino == self.names.inos[IN] and name.decode() in NAMES:
            turns.tell(name.decode(), heard=True)

    def _run(self, program: Program) -> None:
        """Killed with its client, it never ends; what is counted are those that should."""
        client, life = program.client, program.client.life
        client.running = getattr(client, "running", {})
        client.running[program.who] = life
        program.run()
        del client.running[program.who]

    def power_is_cut(self, names: tuple[str, ...] = ("directory",)) -> None:
        """Of the directory, of all servers, or of these: what was not synced is gone, and with the directory's how far
        fences had been raised."""
        self.power_cuts += 1
        if "directory" in names:
            self.directory_cuts += 1
            self._cuts.append(self.now)
            self.fences.clear()
        since = min(self.servers.ran_s_ago(name, WINDOW_S) for name in names)
        young = {ino for ino, committed in self.committed.items() if committed > since}
        self.files.power_cut(since, young)
        self._taken |= young

    # -- the run

    def run(self) -> None:
        """Raises Violation, or whatever the product lets out."""
        taps.watch(self)
        try:
            self._start()
            disasters.Disasters(self).schedule()
            self._pass(self.profile.work_s)
            self._heal()
            self._settle()
            self.given_up = not self.names.check(self._cuts[-1] if self._cuts else None)
            self.loop.forget_done()
            self._check_failures()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _until(self, done: Any, seconds: float) -> bool:
        """Whether it came true, looking every LOOK_S."""
        end = self.now + seconds
        while not (came := done()) and self.now < end:
            self._pass(min(end - self.now, LOOK_S))
        return came

    def _pass(self, seconds: float) -> None:
        """A violation ends everything."""
        self.loop.run_until(self.now + seconds)
        self._check_failures()

    def _check_failures(self) -> None:
        if self._violation is not None:
            raise self._violation
        if self.loop.failures:
            raise Violation(f"a task failed: {self.loop.failures[0]}")

    def _in_client(self, client: Any, work: Callable[[], Any], what: str) -> Any:
        """The result of `work`, done by a thread of the client's."""
        return self._in_clients([client], lambda _: work(), what)[0]

    def _in_clients(self, clients: list[Any], work: Callable[[Any], Any], what: str) -> list[Any]:
        """The results of `work(client)`, done by a thread of each client's at the same time."""
        results: dict[Any, Any] = {}

        def run(client: Any) -> None:
            results[client] = work(client)

        for client in clients:
            self.loop.within(client.life, lambda client=client: threads.spawn(lambda: run(client)))
        if not self._until(lambda: len(results) == len(clients), SETTLE_S):
            late = [client.name for client in clients if client not in results]
            raise Violation(f"S13: {late}: {what} has not ended within {SETTLE_S:g} s")
        return [results[client] for client in clients]

    def _start(self) -> None:
        for name in hosts.SERVERS:
            self.start_server(name)
        if not self._until(self._is_formed, 30.0):
            raise Violation("the cluster does not come up")
        first = self.clients[0]
        first.start(lambda: self._begin_with(first))
        if not self._until(lambda: hasattr(first, "turns"), 30.0):
            raise Violation("the cluster does not come up")
        for client in self.clients[1:]:
            self.start_client(client)
        self.network.far = self.clients[-1].name if self.profile.far_s else ""

    def _is_formed(self) -> bool:
        """As dfsfuse.cluster waits for it: who meets half a group cannot know its primary."""
        known = self.servers.directory_disk.store.values
        return all(b"v" + name.encode() in known for name in hosts.SERVERS[1:])

    def _begin_with(self, client: Any) -> None:
        from dfsfuse import errors

        try:
            self._make_files(client)
        except errors.DfsError as error:
            raise Violation(f"S9: nothing has failed, and files are not made: {error!r}") from None
        self._start_programs(client)

    def _make_files(self, client: Any) -> None:
        program = Program(self, client, 99, Turns(client.life))
        flags = 0o100644, 0, 0, os.O_RDWR, program.pid
        for name in TABLES:
            # A cut of all power within the first second would leave the content before, and there is none.
            program.write_anew(name, lambda at: client.filesystem.create(at, *flags), durable=True)
        for name in LOGS:
            handle, _ = client.filesystem.create(place(name), *flags)
            client.filesystem.files.release(handle)
        self.names.inos[IN] = client.filesystem.make(place(IN), stat.S_IFDIR | 0o755, 0, 0).ino
        handle, made = client.filesystem.create(place(MARK), *flags)
        client.filesystem.files.release(handle)
        self.names.inos[MARK] = made.ino
        self.loop.within(client.life, client.filesystem.session.sync)

    # -- the end

    def _heal(self) -> None:
        self.note("world", "is healed")
        self.healed, self.stopping, self.on_grant = True, True, None
        network, servers = self.network, self.servers
        network.on_begin, network.unheard, network.far = None, 0, ""
        network.loss = network.doubling = network.slow_s = 0.0
        network.heal()
        for disk in (servers.directory_disk, *servers.chunk_disks.values()):
            disk.full = False
        for name in hosts.SERVERS:
            self.servers.start(name)
        for life in (*servers.lives.values(), *(client.life for client in self.clients if client.life)):
            if life.paused:
                self.loop.resume(life)
        for client in self.clients:
            self.start_client(client)

    def _settle(self) -> None:
        def ended() -> bool:
            return all(c.filesystem is not None and not self._running(c) for c in self.clients)

        if not self._until(ended, SETTLE_S):
            running = [who for client in self.clients for who in self._running(client)]
            raise Violation(f"S13: these programs do not end: {running}")
        if not self._until(lambda: not any(map(self._unsent, self.clients)), SETTLE_S):
            raise Violation(f"S4: still unsent: {[(c.name, self._unsent(c)) for c in self.clients]}")
        ending = Ending(self)
        for client, files in zip(self.clients, ending.shares(), strict=True):
            self._in_client(client, lambda c=client, f=files: ending.write(c, f), "writing")
        seen = self._in_clients(self.clients, ending.read, "reading")
        for client, other in zip(self.clients[1:], seen[1:], strict=True):
            if other != seen[0]:
                raise Violation(f"S2: in the end {client.name} reads {other} and {self.clients[0].name} {seen[0]}")
        self._each_chunk_is_everywhere()
        tables, records = self._in_clients(self.clients[:1], ending.read_copies, "reading copies")[0]
        self.files.nothing_is_lost(tables, records)

    def _each_chunk_is_everywhere(self) -> None:
        """What files have is whole on every file server, and what nobody needs is nowhere."""
        end = self.now + SETTLE_S
        while wrong := self._wrong_chunks():
            if self.now > end:
                raise Violation(f"S8: {SETTLE_S:g} s after the last write, {'; '.join(wrong)}")
            self._pass(0.2)

    def _wrong_chunks(self) -> list[str]:
        needed, read, wrong = self.servers.needed(), self.servers.read_by_files(), []
        for name, disk in self.servers.chunk_disks.items():
            missing = [chunk.hex()[:8] for chunk in read if not disk.is_whole(chunk)]
            collected = self.profile.collects
            surplus = [chunk.hex()[:8] for chunk in disk.chunks if chunk not in needed and collected]
            if missing or surplus:
                wrong.append(f"{name} lacks {missing} and has {surplus} for nobody")
        return wrong

    def _running(self, client: Any) -> list[str]:
        return [who for who, life in getattr(client, "running", {}).items() if life.alive]

    def _unsent(self, client: Any) -> int:
        return client.parts("_unsent").count()
