"""What goes wrong in a run: drawn from the seed before it begins, as a list of what happens when.

Each run has a few kinds of trouble and not all, so that combinations differ between seeds. Every disaster ends: by
itself after a while, or when the world is healed.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from simulation.hosts import FILE_SERVERS, SERVERS
from simulation.loop import Life
from simulation.network import Call

if TYPE_CHECKING:
    from simulation.world import World

KINDS = (
    "kill_server", "kill_locks", "kill_client", "partition", "one_way", "stall_holder", "pause_client", "pause_server",
    "flaky", "slow", "full", "bit_flips", "directory_power", "chunk_power", "all_power",
    "new_disk", "unheard", "crowd", "files_power",
)  # fmt: skip
"""Of which each run has some."""


_RARE = {"stall_holder": 0.12, "crowd": 0.1}
"""How often a kind is among those of a run, where that is not one in five: such a run takes long."""


class Profile(NamedTuple):
    """What a seed is about: `kinds` of disasters, how many clients and programs, for how long, and what they do.
    `collects`: garbage is looked for; as that voids receipts, commits that come late are refused for it already.
    `far_s`: how long each message from or to the last client takes at most, where that is far away."""

    kinds: tuple[str, ...]
    clients: int
    programs: int
    work_s: float
    mix: tuple[list[str], list[float]]
    collects: bool = True
    far_s: float = 0.0


_WORK = {
    "read_table": 3.0, "edit_table": 4.0, "rewrite_table": 1.5, "append": 2.5, "read_log": 1.0, "name": 2.0,
    "private": 0.7, "follow": 1.5, "replace": 1.5, "look": 1.5, "touch": 0.7, "mark": 0.7,
}  # fmt: skip
_CROWD = {
    **dict.fromkeys(_WORK, 0.2),
    "name": 4.0,
    "follow": 6.0,
    "replace": 4.0,
    "look": 4.0,
    "touch": 6.0,
    "mark": 3.0,
}
"""Of the runs in which many change the same names."""


def draw_profile(source: random.Random, wanted: str = "") -> Profile:
    """`wanted` is a kind of disaster that it must have."""
    kinds = tuple(kind for kind in KINDS if source.random() < _RARE.get(kind, 0.22) or kind == wanted)
    weights = [weight * source.choice((0.3, 1.0, 1.0, 2.5)) for weight in _WORK.values()]
    work_s = 14.0 if "stall_holder" in kinds else source.choice((3.0, 3.0, 4.0, 6.0))
    clients, programs = source.choice((2, 2, 3)), source.choice((1, 2, 2))
    collects = source.random() > (0.5 if "stall_holder" in kinds else 0.15)
    far_s = source.choice((0.0, 0.0, 0.0, 0.0, 0.05, 0.2, 0.4))
    if "crowd" in kinds:
        weights, clients, programs, far_s = list(_CROWD.values()), 3, 2, source.choice((0.05, 0.2, 0.4))
        work_s = 12.0
        kinds = tuple(dict.fromkeys((*kinds, "unheard")))
    return Profile(kinds, clients, programs, work_s, (list(_WORK), weights), collects, far_s)


class Disasters:
    """Schedules them all in the world's own life."""

    def __init__(self, world: "World"):
        self._world, self._random = world, world.fork("disasters")

    def schedule(self) -> None:
        profile = self._world.profile
        for kind in profile.kinds:
            # What comes of it comes a lease later.
            latest = profile.work_s * (0.4 if kind == "stall_holder" else 1.0)
            for _ in range(self._random.choice((1, 1, 2, 3))):
                self._at(self._random.uniform(0.3, latest), getattr(self, kind))

    def _at(self, delay: float, do: Callable[[], None]) -> None:
        loop = self._world.loop

        def unless_over() -> None:
            if not self._world.healed:
                do()

        loop.for_life(loop.world, delay, unless_over)

    def _for_a_while(self, shortest: float, longest: float) -> float:
        """Short ones are more frequent."""
        return shortest + (longest - shortest) * self._random.random() ** 2

    # -- processes and hosts

    def kill_server(self) -> None:
        self._restart(self._random.choice(SERVERS), self._world.servers.kill, self._for_a_while(0.05, 5.0))

    def kill_locks(self) -> None:
        self._restart("locks", self._world.servers.kill, self._for_a_while(0.05, 2.0))

    def _restart(self, name: str, end: Callable[[str], None], after: float) -> None:
        self._world.note(name, f"{end.__name__}; starts again in {after:.2f} s")
        end(name)
        self._at(after, lambda: self._world.start_server(name))

    def kill_client(self) -> None:
        client = self._random.choice(self._world.clients)
        after = self._for_a_while(0.1, 12.0)
        self._world.note(client.name, f"kill; starts again in {after:.2f} s")
        client.kill()
        self._at(after, lambda: self._world.start_client(client))

    def pause_client(self) -> None:
        self._at(self._for_a_while(0.5, 14.0), self._pause(self._random.choice(self._world.clients).life))

    def stall_holder(self) -> None:
        """Whoever is granted a write lock next stands still, or is cut off, for about as long as its lease lasts; or
        whoever commits next, whose request may arrive when another one has the lock."""
        if self._random.random() < 0.5:
            self._world.on_grant = self._stall
        else:
            self._world.network.on_begin = self._hold_commit

    def _stall(self, name: str, ino: int) -> None:
        self._world.on_grant = None
        client = next(client for client in self._world.clients if client.name == name)
        if self._random.random() < 0.6:
            go_on = self._pause(client.life)
        else:
            servers = SERVERS if self._random.random() < 0.5 else ("locks",)
            go_on = self._cut_pairs(name, {(name, server) for server in servers})
        self._at(self._random.uniform(7.0, 13.0), go_on)

    def _hold_commit(self, call: Call) -> None:
        """Until another one has been granted the file's lock, and is about to open it or to commit."""
        from dfsfuse import messages

        if not call.head.startswith(b"POST /v1/commit "):
            return
        self._world.network.on_begin = None
        name, ino = call.caller.name, messages.from_msgpack(call.body, messages.Commit).ino
        go_on = self._cut_pairs(name, {(name, server) for server in SERVERS})

        def granted(who: str, granted_ino: int) -> None:
            if who != name and granted_ino == ino:
                self._world.on_grant = None
                self._at(self._random.random() * 0.05, go_on)

        self._world.on_grant = granted
        self._at(14.0, go_on)

    def pause_server(self) -> None:
        name = self._random.choice(SERVERS)
        self._at(self._for_a_while(0.2, 6.0), self._pause(self._world.servers.lives.get(name)))

    def _pause(self, life: Life | None) -> Callable[[], None]:
        """What makes it go on."""
        if life is None:
            return lambda: None
        self._world.note(life.name, "paused")
        life.pause(self._world.now)
        return lambda: self._world.loop.resume(life)

    # -- the network

    def partition(self) -> None:
        """A client, or a server, is cut off from some of the others."""
        self._cut(both=True)

    def one_way(self) -> None:
        self._cut(both=False)

    def _cut(self, both: bool) -> None:
        hosts = [*SERVERS, *(client.name for client in self._world.clients)]
        one = self._random.choice(hosts)
        others = [host for host in hosts if host != one and self._random.random() < 0.6]
        pairs = {(one, other) for other in others}
        if self._random.random() < 0.5:
            pairs = {(target, source) for source, target in pairs}
        if both:
            pairs |= {(target, source) for source, target in pairs}
        self._at(self._for_a_while(0.1, 14.0), self._cut_pairs(one, pairs))

    def _cut_pairs(self, one: str, pairs: set[tuple[str, str]]) -> Callable[[], None]:
        """What makes them carry again."""
        self._world.note(one, f"cut off: {sorted(pairs)}")
        self._world.network.cut |= pairs
        return lambda: self._world.network.heal(pairs)

    def flaky(self) -> None:
        self._world.network.loss, self._world.network.doubling = self._random.choice(((0.02, 0.02), (0.1, 0.1)))
        self._at(self._for_a_while(1.0, 10.0), self._steady)

    def _steady(self) -> None:
        self._world.network.loss = self._world.network.doubling = 0.0

    def unheard(self) -> None:
        """Names are changed, and who has done so does not hear of it, and asks again later."""
        self._world.network.unheard = self._random.choice((2, 4, 8))

    def crowd(self) -> None:
        """What such a run has more of, its profile says."""

    def slow(self) -> None:
        self._world.network.slow_s = self._random.choice((0.02, 0.1, 0.5))
        self._at(self._for_a_while(0.5, 4.0), self._quick)

    def _quick(self) -> None:
        self._world.network.slow_s = 0.0

    # -- disks

    def full(self) -> None:
        servers = self._world.servers
        disk = self._random.choice([servers.directory_disk, *servers.chunk_disks.values()])
        disk.full = True
        self._at(self._for_a_while(0.2, 4.0), lambda: setattr(disk, "full", False))

    def bit_flips(self) -> None:
        """Of chunks that another server has too."""
        servers = self._world.servers
        name = self._random.choice(FILE_SERVERS)
        disk = servers.chunk_disks[name]
        disk.flip_bit(chunk for chunk in disk.chunks if servers.has_another(name, chunk))

    def directory_power(self) -> None:
        self._world.power_is_cut()
        self._restart("directory", self._world.servers.lose_power, self._for_a_while(0.1, 3.0))

    def chunk_power(self) -> None:
        self._harm_one(self._world.servers.lose_power)

    def new_disk(self) -> None:
        self._harm_one(self._world.servers.lose_disk)

    def _harm_one(self, harm: Callable[[str], None]) -> None:
        """If the others have what is needed; otherwise it is left."""
        name = self._random.choice(FILE_SERVERS)
        if self._world.servers.can_be_spared(name):
            self._restart(name, harm, self._for_a_while(0.1, 3.0))

    def all_power(self) -> None:
        """Of all servers at once."""
        self._world.power_is_cut()
        for name in SERVERS:
            self._restart(name, self._world.servers.lose_power, self._for_a_while(0.1, 3.0))

    def files_power(self) -> None:
        """Of all file servers at once: the directory knows what they had."""
        self._world.power_is_cut(FILE_SERVERS)
        for name in FILE_SERVERS:
            self._restart(name, self._world.servers.lose_power, self._for_a_while(0.1, 3.0))
