"""The core of promises: who is told, who is waited for, and for how long; with a clock of the test's own."""

import random

import pytest

from dfsfuse import errors
from dfsfuse.messages import EVERYTHING, Broken, Watch
from servers import promises
from servers.promises import GRACE_S, NAMES_MAX, Promises

LEASE_S = 4.0
A, B, C = 1, 2, 3
FILE, FOLDER = 70, 80


class Clients:
    """Sessions that watch, each as its client sees it."""

    def __init__(self, watched: tuple[int, ...] = ()):
        self.now_s = 100.0
        self.core = Promises(LEASE_S, 1000, watched, self.now_s)
        self.epochs: dict[int, int] = {}
        self.numbers: dict[int, int] = {}

    def begin(self, *sessions: int) -> "Clients":
        for session in sessions:
            answer = self.core.watch(Watch(session=session), self.now_s)
            assert answer.void
            self.epochs[session], self.numbers[session] = answer.epoch, 0
            assert self.watch(session) is None
        return self

    def watch(self, session: int, **more: list[int]):
        """Hear all that the answer before has told."""
        request = Watch(session=session, epoch=self.epochs[session], heard=self.numbers[session], **more)
        answer = self.core.watch(request, self.now_s)
        if answer is not None:
            self.numbers[session] = answer.number
        return answer

    def promise(self, session: int, *inos: int) -> bool:
        return self.core.promise(session, inos, self.now_s)

    def tell(self, *touches: tuple[int, bytes], by: int = 0):
        return self.core.tell(list(touches), by, self.now_s)

    def waits(self, waits) -> bool:
        return self.core.waits_until(waits, self.now_s) is not None


def test_a_change_waits_until_it_is_heard():
    """Goal: S2. Who was promised an inode is told, by number, and the change waits until that is heard; who changes it
    and who was promised nothing are not waited for."""
    clients = Clients().begin(A, B, C)
    assert clients.promise(A, FILE)
    assert clients.promise(B, FILE)
    waits = clients.tell((FILE, b""), by=A)
    assert [session for session, _ in waits] == [B]
    assert clients.waits(waits)
    assert clients.watch(B).events == [Broken(FILE)]
    assert clients.waits(waits)
    assert clients.watch(B) is None
    assert not clients.waits(waits)


def test_an_ended_promise_is_told_once_and_an_entry_each_time():
    """Goal: the promise about an inode ends with the first change; that about a folder goes on over its entries."""
    clients = Clients().begin(A)
    assert clients.promise(A, FILE, FOLDER)
    for name in (b"one", b"two"):
        assert clients.tell((FOLDER, name), (FILE, b""))
        clients.watch(A)
        clients.watch(A)
    assert not clients.tell((FILE, b""))
    assert clients.tell((FOLDER, b"three"))
    clients.watch(A)
    clients.watch(A)
    assert clients.tell((FOLDER, b""))
    clients.watch(A)
    clients.watch(A)
    assert not clients.tell((FOLDER, b"four"))


def test_nothing_is_promised_while_a_change_is_under_way():
    """Goal: S2. An answer between the event and the change would be the state before it."""
    clients = Clients().begin(A, B)
    assert clients.promise(A, FILE)
    waits = clients.tell((FILE, b""), by=B)
    with clients.core.changing([(FILE, b"")]):
        clients.watch(A)
        clients.watch(A)
        assert not clients.waits(waits)
        assert not clients.promise(A, FILE)
        assert not clients.promise(B, FOLDER, FILE)
        assert clients.promise(B, FOLDER)
    assert clients.promise(A, FILE)


def test_a_repeated_change_waits_for_the_same_event():
    """Goal: S1, S2. The repetition of a change whose first request still waits does not get past those who have not
    heard, and does not tell them anew."""
    clients = Clients().begin(A)
    clients.promise(A, FILE)
    first, again = clients.tell((FILE, b"")), clients.tell((FILE, b""))
    assert first == again
    assert len(clients.watch(A).events) == 1


def test_a_silent_session_is_waited_for_one_lease():
    """Goal: S13. Who does not hear holds a change up until its lease has ended, which it has for its client too; then
    its promises have ended, and it is told so when it comes back."""
    clients = Clients().begin(A, B)
    clients.promise(A, FILE)
    clients.now_s += 3
    clients.watch(A)
    waits = clients.tell((FILE, b""))
    clients.now_s += LEASE_S
    assert clients.waits(waits)
    clients.now_s += GRACE_S
    assert not clients.waits(waits)
    assert not clients.promise(A, FILE)
    assert clients.watch(A).void


@pytest.mark.parametrize("back", [True, False])
def test_after_a_start_changes_wait_for_those_who_watched_before(back):
    """Goal: S2. What was promised before a start is not known any more: a change waits until each session has come
    back, and has heard that all is void, or for one lease."""
    clients = Clients(watched=(A,))
    waits = clients.tell((FILE, b""), by=B)
    assert clients.core.concern_others(B)
    assert clients.waits(waits)
    if back:
        clients.epochs[A], clients.numbers[A] = 17, 5
        answer = clients.watch(A)
        assert answer.void
        assert clients.waits(waits)
        clients.epochs[A], clients.numbers[A] = answer.epoch, 0
        clients.watch(A)
    else:
        clients.now_s += LEASE_S + GRACE_S
    assert not clients.waits(waits)


def test_after_a_start_what_changes_nothing_waits_for_nobody():
    """Goal: S9. An open that reads, and with it the first look at a small file that others have changed, is answered at
    once, also where a client was killed together with the directory."""
    clients = Clients(watched=(A,))
    assert not clients.waits(clients.tell(by=B))


def test_who_comes_back_after_a_start_hears_of_what_it_was_promised_since():
    """Goal: S2. A session that has a new epoch, and has not said that it knows, is waited for on both grounds."""
    clients = Clients(watched=(A,))
    epoch = clients.core.watch(Watch(session=A), clients.now_s).epoch
    clients.epochs[A], clients.numbers[A] = epoch, 0
    clients.promise(A, FILE)
    waits = clients.tell((FILE, b""))
    assert len(waits) == 2
    clients.watch(A)
    assert clients.waits(waits)
    clients.watch(A)
    assert not clients.waits(waits)


@pytest.mark.parametrize("late", [{"epoch": 5}, {"dropped": [FILE]}])
@pytest.mark.parametrize("number", [1, 2])
def test_a_watch_that_comes_late_says_nothing(late, number):
    """Goal: S2. One that the network has held back, or delivers twice, is refused: it neither begins another epoch, of
    which its client does not hear, nor drops what has been promised since. (Simulator, seed 9101.)"""
    clients = Clients().begin(A)
    assert clients.core.watch(Watch(session=A, epoch=clients.epochs[A], number=2), clients.now_s) is None
    assert clients.promise(A, FILE)
    with pytest.raises(errors.OutOfSequence):
        clients.core.watch(Watch(**{"session": A, "epoch": clients.epochs[A], "number": number} | late), clients.now_s)
    assert [session for session, _ in clients.tell((FILE, b""))] == [A]
    clients.core.end(A)
    assert clients.core.watch(Watch(session=A, number=1), clients.now_s).void


def test_what_is_dropped_is_not_told():
    """Goal: a client that has no room tells so, is answered at once, and is not called back about it."""
    clients = Clients().begin(A)
    clients.promise(A, FILE, FOLDER)
    assert clients.watch(A, dropped=[FILE]).events == []
    assert not clients.tell((FILE, b""))
    assert clients.tell((FOLDER, b"name"))


def test_everything_is_void_at_once():
    """Goal: after a repair of the metadata nothing that was promised counts."""
    clients = Clients().begin(A)
    clients.promise(A, FILE, FOLDER)
    clients.core.tell_all(clients.now_s)
    assert clients.watch(A).events == [Broken(EVERYTHING)]
    assert clients.watch(A) is None
    assert not clients.tell((FILE, b""), (FOLDER, b""))


def test_an_ended_session_and_an_inode_that_is_gone_leave_nothing():
    """Goal: neither a client that has gone nor a removed file takes memory of the directory."""
    clients = Clients().begin(A, B)
    clients.promise(A, FILE, FOLDER)
    clients.promise(B, FILE)
    clients.core.gone(FILE)
    assert not clients.tell((FILE, b""))
    clients.core.end(A)
    clients.core.end(B)
    assert not clients.core._holders
    assert not clients.core._watchers


def tells(clients: Clients, *touches: tuple[int, bytes], by: int = B) -> list[Broken]:
    """What A hears of a change, before it is made; nothing if it is not waited for."""
    if not clients.waits(clients.tell(*touches, by=by)):
        return []
    events = clients.watch(A).events
    assert clients.watch(A) is None
    return events


def test_who_asks_for_nothing_in_a_folder_is_soon_told_no_more():
    """Goal: a session that has once looked around does not hold up each of the many changes of a folder: with one name
    more than it is told one by one it is told of the folder, and of what follows there that it was promised."""
    clients, beside = Clients().begin(A, B), {b"16": [200, 201, 202]}
    clients.core._beside = lambda touch: beside.get(touch[1], [])
    assert clients.promise(A, FOLDER, *range(100, 120), 200, 202, 300)
    for number in range(NAMES_MAX):
        events = [Broken(FOLDER, b"%d" % number), Broken(100 + number)]
        assert tells(clients, (FOLDER, b"%d" % number), (100 + number, b"")) == events
    last = tells(clients, (FOLDER, b"16"), (116, b""))
    assert last == [Broken(FOLDER, b"16"), Broken(116), Broken(FOLDER), Broken(200), Broken(202)]
    for ino in (200, 201, 202):
        assert tells(clients, (FOLDER, b"of %d" % ino), (ino, b"")) == []
    assert tells(clients, (FOLDER, b"of 300"), (300, b"")) == [Broken(300)]


def test_what_was_promised_anew_before_the_event_was_heard_is_told_anew():
    """Goal: S2. Who has taken an event in, and asks again before the directory knows that, is promised the file anew:
    the next change of it waits for an event of its own, also where the former one was only beside another change."""
    clients = Clients().begin(A, B)
    clients.core._beside = lambda touch: [200]
    assert clients.promise(A, FOLDER, 200)
    for number in range(NAMES_MAX):
        assert tells(clients, (FOLDER, b"%d" % number))
    assert clients.tell((FOLDER, b"last"), by=B)
    assert Broken(200) in clients.watch(A).events
    assert clients.promise(A, 200)
    waits = clients.tell((200, b""), by=B)
    assert clients.watch(A).events == [Broken(200)]
    assert clients.waits(waits)
    assert clients.watch(A) is None
    assert not clients.waits(waits)


def test_everything_that_is_void_once_more_is_told_once_more():
    """Goal: as above, of what is not waited for."""
    clients = Clients().begin(A)
    for _ in range(2):
        clients.core.tell_all(clients.now_s)
        assert clients.watch(A).events == [Broken(EVERYTHING)]
        assert clients.promise(A, FILE)
    assert clients.watch(A) is None


def test_who_goes_on_asking_is_told_each_name():
    """Goal: whoever uses a folder keeps what he knows of its other names."""
    clients = Clients().begin(A, B)
    for number in range(3 * NAMES_MAX):
        assert clients.promise(A, FOLDER)
        assert tells(clients, (FOLDER, b"%d" % number)) == [Broken(FOLDER, b"%d" % number)]


def test_the_folders_that_are_counted_are_few(monkeypatch):
    """Goal: a session that is told of names in more and more folders takes no more and more memory."""
    monkeypatch.setattr(promises, "_FOLDERS_MAX", 10)
    clients = Clients().begin(A, B)
    for folder in range(100, 200):
        assert clients.promise(A, folder)
        assert tells(clients, (folder, b"name"))
    assert len(clients.core._watchers[A].names) <= 11


@pytest.mark.parametrize("seed", range(300))
def test_nobody_uses_what_has_changed(seed, monkeypatch):
    """Goal: S2, S14, against the simplest model: clients cache numbers under promise, events and acknowledgements come
    late or never, leases lapse, the directory restarts; when a change is made no client can use the former number.
    Numbers are in a folder, which is inode 3, and whose names are told one by one, or no more."""
    monkeypatch.setattr(promises, "NAMES_MAX", 2)
    draw, now_s = random.Random(seed), 100.0
    beside = lambda touch: draw.choices((1, 2, 4), k=2)  # noqa: E731
    core, epochs = Promises(LEASE_S, 1, (), now_s, beside), 1
    values = dict.fromkeys(range(1, 4), 0)
    cached: dict[int, dict[int, int]] = {A: {}, B: {}}
    state = {session: [0, 0, 0.0] for session in cached}  # epoch, heard, lease until
    for _ in range(200):
        now_s += draw.choice((0.0, 0.01, 0.3, 1.5))
        session, ino = draw.choice((A, B)), draw.choice((1, 2, 3))
        act = draw.choice(("ask", "watch", "watch", "change", "change", "restart" if draw.random() < 0.1 else "ask"))
        if act == "ask" and core.promise(session, [ino], now_s):
            cached[session][ino] = values[ino]
        elif act == "watch":
            _watch(core, session, state, cached[session], now_s)
        elif act == "restart":
            epochs += 1_000_000
            core = Promises(LEASE_S, epochs, (A, B), now_s, beside)
        elif act == "change":
            now_s = _change(core, session, ino, values, state, cached, draw, now_s)


def _watch(core, session, state, cached, now_s) -> None:
    epoch, heard, until_s = state[session]
    if now_s >= until_s:
        cached.clear()
    answer = core.watch(Watch(session=session, epoch=epoch, heard=heard), now_s)
    if answer is not None:
        if answer.void:
            cached.clear()
            heard = 0
        for event in answer.events:
            cached.pop(event.ino, None)
        epoch, heard = answer.epoch, max(heard, answer.number)
    state[session] = [epoch, heard, now_s + LEASE_S]


def _change(core, by, ino, values, state, cached, draw, now_s) -> float:
    touches = [(3, b"%d" % ino), (ino, b"")] if ino < 3 else [(3, b"")]
    waits = core.tell(touches, by, now_s)
    with core.changing(touches):
        while core.waits_until(waits, now_s) is not None:
            now_s += draw.choice((0.05, 0.5))
            if draw.random() < 0.5:
                session = draw.choice((A, B))
                _watch(core, session, state, cached[session], now_s)
                if core.promise(session, [ino], now_s):
                    cached[session][ino] = values[ino]
    for changed in {touch[0] for touch in touches}:
        values[changed] += 1
        cached[by].pop(changed, None)
        for session, known in cached.items():
            usable = now_s < state[session][2]
            assert not usable or changed not in known, f"session {session} may use what has changed"
    return now_s
