"""Long random runs of commits, kills, power cuts and emptied disks: nothing that counts is lost, nothing useless stays.

File servers are those of model_servers.py. Steps of repair and of garbage collection of different servers come between
each other, and between the steps of everybody else.
"""

import contextlib
import random

import pytest
from model_checker import found_by_checker
from model_references import referenced
from model_servers import Servers
from volumes import Volume, piece

from dfsfuse import errors, messages
from dfsfuse.chunks import chunk_name
from servers.store.memory import MemoryStore

FILES = ("f", "g", "h")
STEPS = 120


class Run:
    """`committed`: what each file has had, oldest first; `safe`: how many of these a power cut of all may not undo.

    `hurt`: the server whose chunks may be gone; another one is hurt only after all is mended (a single failure).
    """

    def __init__(self, seed: int, blackouts: bool):
        self.random = random.Random(seed)
        self.volume = Volume(MemoryStore())
        self.servers = Servers(self.volume)
        self.committed: dict[str, list[bytes]] = {}
        self.safe: dict[str, int] = {}
        self.work: dict[str, messages.RepairWork] = {}
        self.asked: dict[str, tuple[int, messages.Garbage]] = {}
        self.sessions = [self.volume.begin() for _ in range(2)]
        self.opened: list[tuple[int, int, int, bytes]] = []
        self.hurt = ""
        self.fault = self.blackout if blackouts else self.one_is_hurt

    def step(self) -> None:
        weights = {
            self.commit: 30, self.remove: 2, self.open: 5, self.close: 5, self.beat: 15, self.sync: 5,
            self.repair_step: 25, self.ask: 10, self.delete: 10, self.settle: 15, self.kill: 4, self.away: 2,
            self.back: 8, self.restart_directory: 2, self.fault: 3, self.mend: 3, self.inventory: 2,
        }  # fmt: skip
        self.random.choices(list(weights), list(weights.values()))[0]()

    def up(self) -> str:
        return "".join(name for name, server in self.servers.of.items() if server.up)

    def one(self) -> str:
        return self.random.choice(self.up())

    # -- clients

    def commit(self) -> None:
        """On two servers or three, with receipts that may have been overtaken; a content may come again."""
        name = self.random.choice(FILES)
        data = b"%d" % self.random.randrange(12)
        on = "".join(
            self.random.sample(self.up(), self.random.choice((2, 3)) if len(self.up()) == 3 else len(self.up()))
        )
        receipts = self.servers.store(data, on)
        if self.random.random() < 0.3:
            self.step_of_others()
        if name not in self.committed:
            self.volume.make(name)
            self.committed[name], self.safe[name] = [b""], 0
        with contextlib.suppress(errors.ReceiptsVoid, errors.NotEnoughCopies, errors.Starting):
            self.volume.commit(self.volume.at(name).ino, data, receipts=[receipts])
            self.committed[name].append(data)

    def step_of_others(self) -> None:
        """What may come between an upload and its commit."""
        self.random.choice((self.beat, self.ask, self.delete, self.settle, self.kill, self.repair_step))()

    def remove(self) -> None:
        if self.committed:
            name = self.random.choice(sorted(self.committed))
            self.volume.remove(name)
            del self.committed[name], self.safe[name]

    def open(self) -> None:
        if self.committed:
            name = self.random.choice(sorted(self.committed))
            session, opening = self.random.choice(self.sessions), len(self.opened) + 1
            opened = self.volume.open(self.volume.at(name).ino, session, opening=opening).attributes
            self.opened.append((session, opened.ino, opened.version, self.content(name)))

    def close(self) -> None:
        if self.opened:
            number = self.random.randrange(len(self.opened))
            session, ino, version, _ = self.opened[number]
            same = [row for row in self.opened if row[:3] == (session, ino, version)]
            self.opened = [row for row in self.opened if row not in same]
            self.volume.close(session, ino, version, opening=1_000_000)

    # -- servers

    def beat(self) -> None:
        self.servers.register(self.one())

    def sync(self) -> None:
        self.servers.of[self.one()].sync()

    def repair_step(self) -> None:
        name = self.one()
        if name in self.work or self.servers.register(name).repair:
            work = self.work.get(name, messages.RepairWork())
            with contextlib.suppress(errors.NotFound):
                self.work[name] = self.servers.repair_step(name, work, self.random.randrange(1, 5))
            if self.work.get(name, work).complete:
                self.work.pop(name)

    def ask(self) -> None:
        """A server asks what is garbage, and deletes it later; also when it has heard nothing of it."""
        self._ask(self.one(), ())

    def inventory(self) -> None:
        name = self.one()
        self._ask(name, self.servers.of[name].chunks)

    def _ask(self, name: str, names: object) -> None:
        server = self.servers.of[name]
        if name not in self.asked:
            request = messages.Collect(
                server=name, next_number=server.number, names=[*names, *server.left], after=server.place, limit=3
            )
            self.servers.register(name)
            self.asked[name] = server.number, self.volume.collect(request)

    def delete(self) -> None:
        name = self.one()
        if name in self.asked:
            bound, reply = self.asked.pop(name)
            self.servers.delete(name, reply, bound)

    def settle(self) -> None:
        self.volume.core.settle(self.volume.now_s)

    # -- faults

    def kill(self) -> None:
        """The kernel still has what the server had not synced."""
        self._stop(self.one())

    def _stop(self, name: str, power_cut: bool = False) -> None:
        self.work.pop(name, None)
        self.asked.pop(name, None)
        self.servers.of[name].start(power_cut)
        if self.random.random() < 0.7:
            self.servers.register(name)

    def away(self) -> None:
        """With one hurt or away there have to be two others."""
        if len(self.up()) == 3 and not self.hurt:
            name = self.one()
            self.servers.of[name].up = False
            self.work.pop(name, None)
            self.asked.pop(name, None)

    def back(self) -> None:
        for name, server in self.servers.of.items():
            if not server.up:
                self.volume.now_s += 5
                self._stop(name)

    def restart_directory(self) -> None:
        self.volume.restart()

    def one_is_hurt(self) -> None:
        """A power cut of one server, or its disk is emptied."""
        if len(self.up()) == 3 and not self.hurt and not self._short():
            self.hurt = self.one()
            if self.random.random() < 0.5:
                self.servers.of[self.hurt].empty_disk()
            self._stop(self.hurt, power_cut=True)

    def _short(self) -> bool:
        """Is a chunk on fewer than two servers? Then a second failure would be the end of it."""
        needed = self.volume.store.read(referenced)
        return any(sum(chunk in s.chunks for s in self.servers.of.values()) < 2 for chunk in needed)

    def blackout(self) -> None:
        """A power cut of all."""
        for name in "ABC":
            self._stop(name, power_cut=True)
        self.mend()

    def mend(self) -> None:
        """All are back, and everything has come to rest."""
        self.back()
        self.work.clear()
        self.asked.clear()
        self.servers.settle()
        self.hurt = ""
        self.look()
        for name, contents in self.committed.items():
            self.safe[name] = len(contents) - 1

    # -- what must be so

    def content(self, name: str) -> bytes:
        """What the directory says that the file has, as one of the contents it has had."""
        entries = self.volume.open(self.volume.at(name).ino).manifest.entries
        (data,) = {data for data in self.committed[name] if entries == ([[piece(data)]] if data else [])}
        return data

    def look(self) -> None:
        for name, contents in self.committed.items():
            data = self.content(name)
            if self.fault == self.one_is_hurt:
                assert data == contents[-1], f"{name}: a single failure undid a commit"
            assert data in contents[self.safe[name] :], f"{name} has gone back behind what was on disks"
            self.committed[name] = [data] if data == contents[-1] else [*contents[: self.safe[name] + 1], data]
            self.safe[name] = min(self.safe[name], len(self.committed[name]) - 1)
            assert not data or self._has(data), f"no server has what {name} consists of"
        if self.fault == self.one_is_hurt:
            assert all(self._has(data) for *_, data in self.opened if data), "what is open is gone"

    def _has(self, data: bytes) -> bool:
        return any(chunk_name(data) in server.chunks for server in self.servers.of.values())

    def finish(self) -> None:
        """At rest each server has what is needed, and nothing else."""
        self.mend()
        while self.opened:
            self.close()
        self.servers.settle()
        for name in "ABC":
            self.servers.collect(name, inventory=True)
            assert set(self.servers.of[name].chunks) == self.volume.store.read(referenced), name
        self.volume.check()
        assert found_by_checker(self.servers) == []


@pytest.mark.parametrize("start", range(0, 400, 20))
@pytest.mark.parametrize("blackouts", [False, True])
def test_s9_s10_nothing_is_lost_and_nothing_useless_stays(start: int, blackouts: bool) -> None:
    """Goal: with one server hurt at a time each file has its last commit; with power cuts of all it has that, or one
    since everything was last on disks; and in the end every server has what is needed, and nothing else."""
    for seed in range(start, start + 20):
        run = Run(seed, blackouts)
        for _ in range(STEPS):
            run.step()
            if not blackouts:
                run.look()
        run.finish()
