"""What can happen to servers and to links: how it is done, how it is undone, and who must go on meanwhile.

The supervisor of an embedded cluster starts a server that died again at once; here it stays away for a while.
"""

import itertools
import random
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .lab import CLIENTS, FILES, SERVERS, Lab
from .network import both_ways
from .running import LOADS, TOGETHER, Running

Links = list[tuple[str, str]]
LONG_S = 30.0

PASSED_OVER_S = 3.0
"""So soon calls go on without a file server (S9)."""
SPARE_S = 1.5
"""What the machine may add. Together it is less than the 5 s after which the kernel ends a connection whose other side
is cut off: who goes on by then has asked the server for a sign of life, and got none."""
ELSEWHERE_S = 10.0
"""So soon calls of a client go on when another one is cut off from the directory or the lock service: a change waits
for the promises of one that is silent (4 s), and then for a moment in which the machine has time."""


@dataclass(frozen=True)
class Errors:
    """What steps of these loads may end with because of a fault: an error with one of the texts in it."""

    loads: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def allow(self, load: str, error: str) -> bool:
        return load in self.loads and any(text in error for text in self.texts)


NONE = Errors()
_FULL = ("No space left on device", ".lock': File exists")
_FULL_FOR_SQLITE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
NO_ROOM = Errors(tuple(LOADS), (*_FULL, *_FULL_FOR_SQLITE))
"""ENOSPC, as calls and git put it; the lock that git then cannot remove; and what SQLite makes of it: an error of the
disk where fsync() says it, and what it cannot open for writing it goes on with as read only."""


def lost_locks(client: str) -> Errors:
    """SQLite on a client that was away for longer than its lease: its locks are gone, and each call says EIO."""
    return Errors((f"sqlite-{client}",), ("SQLITE_IOERR",))


@dataclass(frozen=True)
class Fault:
    """`do` and `undo` return when it is so. `hold_s`: how long it lasts at least. `go_on`: the clients whose loads must
    go on while it lasts, so it lasts until they have; where it is one client, those of its loads that wait for nobody
    on the other one; calls of these within `go_on_s`. `errors`: what their steps, and those of others, may end with;
    nothing else is promised to fail."""

    kind: str
    victim: str
    do: Callable[[Lab], None]
    undo: Callable[[Lab], None]
    hold_s: float
    go_on: Iterable[str] = field(default=())
    go_on_s: float = PASSED_OVER_S + SPARE_S
    errors: Errors = NONE

    @property
    def name(self) -> str:
        return f"{self.kind} {self.victim}"

    def lets_go_on(self, load: Running) -> bool:
        return load.mount in self.go_on and (set(self.go_on) == set(CLIENTS) or load.name not in TOGETHER)


def _who_goes_on(server: str) -> tuple[str, ...]:
    """Without one file server everybody, without the directory or the lock service nobody."""
    return CLIENTS if server in FILES else ()


def killed(name: str, hold_s: float = 2.0) -> Fault:
    def do(lab: Lab) -> None:
        lab.servers[name].signal(signal.SIGKILL)

    return Fault("kill", name, do, lambda lab: lab.servers[name].start(), hold_s, _who_goes_on(name))


def stopped(name: str, hold_s: float = 4.0) -> Fault:
    def send(number: int) -> Callable[[Lab], None]:
        return lambda lab: lab.servers[name].signal(number)

    return Fault("stop", name, send(signal.SIGSTOP), send(signal.SIGCONT), hold_s, _who_goes_on(name))


def cut(what: str, links: Links, hold_s: float, go_on: Iterable[str], **more: Any) -> Fault:
    return Fault("cut", what, lambda lab: lab.network.cut(links), lambda lab: lab.network.heal(), hold_s, go_on, **more)


def isolated(name: str, hold_s: float = 4.0) -> Fault:
    """From everybody."""
    others = [other for other in (*SERVERS, *CLIENTS) if other != name]
    return cut(f"{name} from all", both_ways(name, others), hold_s, _who_goes_on(name))


def filled(name: str, hold_s: float = 4.0) -> Fault:
    """Its disk, to the last byte."""

    def do(lab: Lab) -> None:
        lab.servers[name].fill_disk()

    errors = NO_ROOM if name == "directory" else NONE
    return Fault("fill", name, do, lambda lab: lab.servers[name].free_disk(), hold_s, _who_goes_on(name), errors=errors)


def emptied(name: str, hold_s: float = 2.0) -> Fault:
    """It comes back with a new disk."""

    def do(lab: Lab) -> None:
        lab.servers[name].signal(signal.SIGKILL)
        lab.servers[name].new_disk()

    return Fault("empty", name, do, lambda lab: lab.servers[name].start(), hold_s, _who_goes_on(name))


def several(
    kind: str, names: tuple[str, ...], make: Callable[[str], Fault], hold_s: float, errors: Errors = NONE
) -> Fault:
    """The same to several servers at once."""
    parts = [make(name) for name in names]

    def do(lab: Lab) -> None:
        for part in parts:
            part.do(lab)

    def undo(lab: Lab) -> None:
        for part in parts:
            part.undo(lab)

    return Fault(kind, "+".join(names), do, undo, hold_s, errors=errors)


def client_cuts() -> list[Fault]:
    """Between a client and a server: shortly, and for longer than its leases (4 and 8 s)."""
    found = []
    for server in ("directory", "locks"):
        links = both_ways("m1", [server])
        found += [
            cut(f"m1 - {server}", links, 3.0, ["m2"], go_on_s=ELSEWHERE_S),
            cut(f"m1 - {server}, 12 s", links, 12.0, ["m2"], go_on_s=ELSEWHERE_S, errors=lost_locks("m1")),
            cut(f"m2 > {server}", [("m2", server)], 3.0, ["m1"], go_on_s=ELSEWHERE_S),
            cut(f"{server} > m2", [(server, "m2")], 3.0, ["m1"], go_on_s=ELSEWHERE_S),
        ]
    everybody = both_ways("m1", SERVERS)
    return [
        *found,
        cut("m1 - A", both_ways("m1", "A"), 4.0, CLIENTS),
        cut("m1 > A", [("m1", "A")], 4.0, CLIENTS),
        cut("A > m1", [("A", "m1")], 4.0, CLIENTS),
        cut("m2 - B", both_ways("m2", "B"), 4.0, CLIENTS),
        cut("m1 from all, 12 s", everybody, 12.0, ["m2"], go_on_s=ELSEWHERE_S, errors=lost_locks("m1")),
    ]


def server_cuts() -> list[Fault]:
    """Between servers. Everybody goes on as quickly as without one file server."""
    pairs = (("A", "B"), ("A", "C"), ("B", "C"), ("A", "directory"), ("C", "directory"), ("locks", "directory"))
    found = [cut(f"{one} - {other}", both_ways(one, [other]), 5.0, CLIENTS) for one, other in pairs]
    one_way = (("A", "B"), ("B", "A"), ("A", "directory"), ("directory", "A"), ("directory", "locks"))
    return found + [cut(f"{one} > {other}", [(one, other)], 5.0, CLIENTS) for one, other in one_way]


def long_cuts() -> list[Fault]:
    """Everybody from everybody, and clients from what they are answered, for so long that TCP repeats itself half a
    minute later."""
    answers = [(server, client) for server in SERVERS for client in CLIENTS]
    everything = [*itertools.permutations(SERVERS, 2), *answers, *((client, server) for server, client in answers)]
    return [cut("all links", everything, LONG_S, ()), cut("servers > clients", answers, LONG_S, ())]


def everything() -> list[Fault]:
    """Each fault once."""
    return [
        *(make(name) for name in SERVERS for make in (killed, stopped, isolated)),
        *(make(name) for name in FILES for make in (filled, emptied)),
        filled("directory"),
        several("fill", ("A", "C"), filled, 4.0, NO_ROOM),
        *client_cuts(),
        *server_cuts(),
        several("kill", ("A", "B"), killed, 3.0),
        several("stop", ("B", "C"), stopped, 5.0),
        several("kill", ("directory", "locks"), killed, 1.0),
        several("kill", SERVERS, killed, 0.5),
    ]


def a_dozen() -> list[Fault]:
    """Those that differ most. A primary that stands still, and the lock service killed, have tests of their own."""
    return [
        killed("directory", 0.5), killed("A"), stopped("locks", 3.0), isolated("A"), emptied("B"), filled("A", 3.0),
        cut("m1 - A", both_ways("m1", "A"), 3.0, CLIENTS), cut("A - C", both_ways("A", "C"), 3.0, CLIENTS),
        cut("A - directory", both_ways("A", ["directory"]), 5.0, CLIENTS), stopped("directory", 3.0),
        cut("m1 > directory", [("m1", "directory")], 3.0, ["m2"], go_on_s=ELSEWHERE_S),
        several("kill", SERVERS, killed, 0.5),
    ]  # fmt: skip


def drawn(from_these: list[Fault], count: int, chance: random.Random) -> list[Fault]:
    """So many; each comes once before any comes again."""
    faults: list[Fault] = []
    while len(faults) < count:
        faults += chance.sample(from_these, len(from_these))
    return faults[:count]
