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

from simulation import contents, disasters, hosts, product, taps, threads
from simulation.contents import Torn
from simulation.history import Files, Violation
from simulation.loop import SimulatedLoop
from simulation.name_history import MARK, NAMES, NameHistory
from simulation.naming import IN
from simulation.network import Network
from simulation.programs import LOGS, TABLES, Program, Turns, place

WINDOW_S = 1.6
"""What a power cut may take: servers sync each second, and a sync takes a moment."""
HANG_S = 40.0
"""No call takes longer: there are time-outs of 6 s, which follow each other where an open meets several servers."""
SETTLE_S = 60.0
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
        self.commit_ids: set[bytes] = set()
        self.directory_cuts = 0
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
        hosts.wire_clients(self.network)
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

    def power_is_cut(self) -> None:
        """Of the directory, or of all servers: what was not synced is gone, also how far fences had been raised."""
        self.directory_cuts += 1
        self._cuts.append(self.now)
        since = self.servers.ran_s_ago("directory", WINDOW_S)
        young = {ino for ino, committed in self.committed.items() if committed > since}
        self.files.power_cut(since, young)
        self._taken |= young
        self.fences.clear()

    # -- the run

    def run(self) -> None:
        """Raises Violation, or whatever the product lets out."""
        with taps.installed(self):
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

    def _in_client(self, client: Any, work: Any, what: str) -> Any:
        """The result of `work`, done by a thread of the client's."""
        results: list[Any] = []
        self.loop.within(client.life, lambda: threads.spawn(lambda: results.append(work())))
        if not self._until(lambda: bool(results), SETTLE_S):
            raise Violation(f"S13: {client.name}: {what} has not ended within {SETTLE_S:g} s")
        return results[0]

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
        for client in self.clients:
            self._in_client(client, lambda c=client: self._write_all(c), "writing")
        seen = [self._in_client(client, lambda c=client: self._read_all(c), "reading") for client in self.clients]
        for client, other in zip(self.clients[1:], seen[1:], strict=True):
            if other != seen[0]:
                raise Violation(f"S2: in the end {client.name} reads {other} and {self.clients[0].name} {seen[0]}")
        self._each_chunk_is_everywhere()
        tables, records = self._in_client(self.clients[0], self._everything, "reading copies")
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

    def _write_all(self, client: Any) -> bool:
        """Each client can write every file again: no lock is stuck, no token too low."""
        program = Program(self, client, 100, client.turns, alone=True)
        for name in TABLES:
            self._must(program, "edit " + name, lambda n=name: program._edit(n, False))
        for name in LOGS:
            self._must(program, "append to " + name, lambda n=name: program._append(n, True))
        return True

    def _must(self, program: Program, what: str, do: Any) -> None:
        from dfsfuse import errors

        began = self.now
        while True:
            try:
                do()
                return
            except errors.DfsError as error:
                self.note(program.who, f"{what}: {type(error).__name__}: {error}")
                if self.now - began > SETTLE_S / 3:
                    raise Violation(
                        f"S9: {program.who} cannot {what} though all is healed: {type(error).__name__}: {error}"
                    ) from None
                threads.sleep(0.3)

    def _read_all(self, client: Any) -> list[Any]:
        program = Program(self, client, 101, client.turns, alone=True)
        found: list[Any] = []
        for name in TABLES:
            self._must(program, "read " + name, lambda n=name: found.append(program.check_table(n)))
        for name in LOGS:
            self._must(program, "read " + name, lambda n=name: found.append(program.check_log(n)))
        self._must(program, "list", program.naming.list)
        self._must(program, "look at names", program.naming.look_at_all)
        return found

    def _everything(self) -> tuple[dict[str, list[int]], dict[str, set[int]]]:
        """What tables and logs, and all copies of them, have in the end."""
        fs = self.clients[0].filesystem
        tables: dict[str, list[int]] = {name: [] for name in TABLES}
        records: dict[str, set[int]] = {name: set() for name in LOGS}
        for at, name in self._names_of_files(fs):
            file = name.partition(" ")[0]
            handle, _ = fs.open(at, 0, 1)
            data = fs.files.read(handle, 1 << 20, 0)
            fs.files.release(handle)
            try:
                if file in tables:
                    tables[file].append(contents.parse_table(data).tag)
                elif file in records:
                    records[file].update(contents.parse_log(data))
            except Torn as error:
                if file == name:
                    raise Violation(f"S3: in the end {name} is torn: {error}") from None
                if not self._is_told(name, handle.content.ino, error):
                    continue
                if file in tables:
                    tables[file] += contents.whole_header(data)
                else:
                    records[file].update(contents.whole_records(data))
        return tables, records

    def _is_told(self, name: str, ino: int, error: Torn) -> bool:
        """Is it known that a copy lacks something? One of what was closed must not lack it silently, unless it was made
        within the last second before a power cut (S10); a recovered one may be half written."""
        from servers import losses

        lost = {row.path.rpartition(b"/")[2].decode() for row in self.servers.directory_disk.store.read(losses.told)}
        self.note("world", f"{name}: {error}, and {'told' if name in lost else 'not told'}")
        if name not in lost and " (conflict " in name and ino not in self._taken:
            raise Violation(f"S4: the copy {name} is torn, and nobody is told: {error}")
        if name in lost and not self._cuts:
            raise Violation(f"S15: the copy {name} lacks something that no power cut has taken: {error}")
        return name in lost

    def _names_of_files(self, fs: Any) -> list[tuple[Any, str]]:
        found: list[tuple[Any, str]] = []
        folders: list[tuple[str, ...]] = [(), ("lost+found",)]
        for folder in folders:
            try:
                entries = list(fs.list_folder(place(*folder)))
            except Exception:
                continue
            for entry in entries:
                if stat.S_ISREG(entry.attributes.mode):
                    found.append((place(*folder, entry.name.decode()), entry.name.decode()))
        self.note("world", f"files in the end: {[name for _, name in found]}")
        return found
