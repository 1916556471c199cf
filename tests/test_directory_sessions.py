"""Sessions at the directory: once-only execution, inode ranges, leases and ends; and the servers that it knows."""

import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, ROOM, Volume, volume_on

from dfsfuse import errors, messages
from dfsfuse.lock_lease import HEARD_S, LEASE_S
from dfsfuse.messages import Begin, Closed, End, Renew
from servers.attendance import LOCKS_S, OPEN_ROWS_S, PROMISE_LEASE_S
from servers.store import Transaction
from servers.store.memory import MemoryStore

DIRECTORY = messages.Server(kind="directory", name="directory", url="http://d")


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


def create(session: int, slot: int, sequence: int, name: str = "f", mode: int = FILE) -> messages.Create:
    return messages.Create(session=session, slot=slot, sequence=sequence, names=[name.encode()], ino=0, mode=mode)


# -- once, however often asked


@pytest.mark.parametrize("restart", [False, True])
def test_a_repeated_change_is_answered_and_not_executed(volume: Volume, restart: bool) -> None:
    """Goal: the same (session, slot, sequence) gets the same reply, also after a restart; nothing happens again."""
    session = volume.begin()
    first = volume.change(create(session, 1, 1))
    volume.rename("f", "elsewhere")
    if restart:
        volume.restart()
    assert volume.change(create(session, 1, 1)) == first
    assert volume.paths() == ["/elsewhere"]


def test_every_change_is_answered_again(volume: Volume) -> None:
    """Goal: replies of each kind of change survive in their slot: attributes, and nothing."""
    session = volume.begin()
    base = {"session": session, "slot": 1}
    ino = volume.make("kept").ino
    commit = volume.commit_request(ino, b"one", **base, sequence=6)
    changes = [
        create(session, 1, 1, "d", FOLDER),
        create(session, 1, 2),
        messages.SetAttributes(**base, sequence=3, names=[b"f"], mode=0o600),
        messages.Rename(**base, sequence=4, names=[b"f"], new_names=[b"d", b"f"]),
        messages.Remove(**base, sequence=5, names=[b"d", b"f"]),
    ]
    for request in changes:
        first = volume.change(request)
        paths = volume.paths()
        assert volume.change(request) == first
        assert volume.paths() == paths
    first = volume.core.commit(commit, volume.tick(), volume.now_s)
    volume.commit(ino, b"two")
    assert volume.core.commit(commit, volume.tick(), volume.now_s) == first


@pytest.mark.parametrize("restart", [False, True])
def test_an_error_is_repeated_too(volume: Volume, restart: bool) -> None:
    """Goal: a refused change is refused the same way again, even if it could succeed by now; its slot goes on."""
    session = volume.begin()
    volume.make("f")
    request = create(session, 1, 1)
    with pytest.raises(errors.AlreadyExists) as first:
        volume.change(request)
    volume.remove("f")
    if restart:
        volume.restart()
    with pytest.raises(errors.AlreadyExists) as again:
        volume.change(request)
    assert (str(again.value), again.value.detail) == (str(first.value), first.value.detail)
    assert volume.change(create(session, 1, 2)).attributes.nlink == 1


def test_slots_are_apart(volume: Volume) -> None:
    """Goal: each slot counts on its own, and so does each session."""
    one, two = volume.begin(), volume.begin()
    for number, (session, slot) in enumerate([(one, 1), (one, 2), (two, 1), (one, 0), (one, 2**32 - 1)]):
        volume.change(create(session, slot, 1, f"f{number}"))
    assert len(volume.paths()) == 5


@pytest.mark.parametrize("sequence", [0, 1, 2, 5, 10**12, 2**64 - 1])
def test_out_of_sequence_is_refused_and_not_executed(volume: Volume, sequence: int) -> None:
    """Goal: neither an older nor a later number than the next; the slot is as before."""
    session = volume.begin()
    for number in (1, 2, 3):
        volume.change(create(session, 1, number, f"f{number}"))
    with refused(volume, errors.OutOfSequence):
        volume.change(create(session, 1, sequence, "new"))
    volume.change(create(session, 1, 4, "next"))


def test_what_a_client_has_given_up_is_not_executed_later(volume: Volume) -> None:
    """Goal: S2. A client is not called back about its own changes; so one that was not answered, and of which it has
    told that, is not made any more when its request still arrives. One that was made is answered again."""
    session, other = volume.begin(), volume.begin()
    done = volume.change(create(session, 1, 1, "done"))
    doubts = [messages.Doubt(session, 1, 1), messages.Doubt(session, 2, 1), messages.Doubt(other, 3, 1)]
    volume.core.watch(messages.Watch(session=session, doubts=doubts), volume.now_s)
    assert volume.change(create(session, 1, 1, "done")) == done
    with refused(volume, errors.OutOfSequence):
        volume.change(create(session, 2, 1, "late"))
    volume.change(create(other, 3, 1, "another's"))


def test_sequence_0_of_a_new_slot_is_refused(volume: Volume) -> None:
    """Goal: sequences begin with 1; a request that has none is not executed twice by mistake."""
    session = volume.begin()
    with refused(volume, errors.OutOfSequence):
        volume.change(create(session, 1, 0))


@pytest.mark.parametrize("number", [-1, 2**64, 10**30])
def test_numbers_that_are_none(volume: Volume, number: int) -> None:
    """Goal: session, slot, sequence and closed rows that cannot be are the caller's error, and change nothing."""
    session = volume.begin()
    for request in (create(number, 1, 1), create(session, number, 1)):
        with refused(volume, errors.InvalidArgument):
            volume.change(request)
    with refused(volume, errors.OutOfSequence):
        volume.change(create(session, 1, number))
    with refused(volume, errors.InvalidArgument):
        volume.core.attendance.allocate(messages.AllocateInodes(number))
    with refused(volume, errors.InvalidArgument):
        volume.core.renew(Renew(session=session, closed=[Closed(number, 0, 0)]), volume.now_s)
    with refused(volume, errors.SessionEnded):
        volume.core.renew(Renew(session=number), volume.now_s)


def test_a_server_error_leaves_the_slot_alone(volume: Volume) -> None:
    """Goal: what failed on the server's side may be tried again under the same number."""
    session = volume.begin()
    ino = volume.make("f").ino
    short = volume.commit_request(ino, b"x", session=session, slot=1, sequence=1, receipts=[])
    with refused(volume, errors.NotEnoughCopies):
        volume.core.commit(short, volume.tick(), volume.now_s)
    whole = volume.commit_request(ino, b"x", session=session, slot=1, sequence=1)
    assert volume.core.commit(whole, volume.tick(), volume.now_s).version == 1


def test_session_0_has_no_protection(volume: Volume) -> None:
    """Goal: for trying by hand: the same request is executed each time."""
    volume.make("f")
    with refused(volume, errors.AlreadyExists):
        volume.make("f")


def test_an_ended_session_is_refused(volume: Volume) -> None:
    """Goal: nothing is executed for a session that ended or never was, not even what it had done already."""
    session = volume.begin()
    volume.change(create(session, 1, 1))
    volume.core.end(End(session))
    for number in (session, 12345):
        for request in (create(number, 1, 1), create(number, 1, 2, "g")):
            with refused(volume, errors.SessionEnded):
                volume.change(request)
        with refused(volume, errors.SessionEnded):
            volume.open(volume.at("f").ino, number)
        with refused(volume, errors.SessionEnded):
            volume.core.renew(Renew(session=number), volume.now_s)
        with refused(volume, errors.SessionEnded):
            volume.core.attendance.allocate(messages.AllocateInodes(number))


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_repeats_and_forgets(volume: Volume, seed: int) -> None:
    """Goal: requests of several slots, each repeated at random while its slot has no newer one, and restarts between:
    every answer is the first one, and every change happened once."""
    choose = random.Random(seed)
    session = volume.begin()
    sent: dict[int, tuple[messages.Create, object]] = {}
    count = 0
    for _ in range(300):
        slot = choose.randrange(4)
        if slot in sent and choose.random() < 0.6:
            request, answer = sent[slot]
            assert _outcome(volume, request) == answer
        else:
            sequence = sent[slot][0].sequence + 1 if slot in sent else 1
            request = create(session, slot, sequence, f"f{choose.randrange(60)}")
            sent[slot] = (request, _outcome(volume, request))
            count += isinstance(sent[slot][1], messages.Made)
        if choose.random() < 0.02:
            volume.restart()
    assert len(volume.paths()) == count


def _outcome(volume: Volume, request: messages.Create) -> object:
    try:
        return volume.change(request)
    except errors.AlreadyExists as error:
        return str(error)


# -- beginning and ending


def test_begin_is_found_again_by_its_key(volume: Volume) -> None:
    """Goal: a repeated Begin gets the same session, also after a restart, and other inode numbers."""
    request = Begin(key=secrets.token_bytes(16), host="h", pid=5, mountpoint="/m", user="u")
    first = volume.core.begin(request, volume.now_s)
    volume.restart()
    second = volume.core.begin(request, volume.now_s)
    assert second.session == first.session
    assert second.inodes.first >= first.inodes.first + first.inodes.count
    (row,) = volume.core.status(DIRECTORY, volume.now_s).sessions
    assert (row.session, row.host, row.pid, row.mountpoint, row.user) == (first.session, "h", 5, "/m", "u")


@pytest.mark.parametrize("length", [0, 15, 65])
def test_begin_needs_a_key(volume: Volume, length: int) -> None:
    """Goal: a key that could be guessed, or is no key, is refused."""
    with refused(volume, errors.BadRequest):
        volume.core.begin(Begin(key=bytes(length)), volume.now_s)


def test_session_numbers_are_never_given_twice(volume: Volume) -> None:
    """Goal: numbers rise over ends and restarts."""
    numbers = []
    for _ in range(5):
        numbers.append(volume.begin())
        volume.core.end(End(numbers[-1]))
        volume.restart()
    assert numbers == sorted(set(numbers))


def test_inode_ranges_never_overlap(volume: Volume) -> None:
    """Goal: begin, allocate and create by hand give disjoint numbers, also after restarts."""
    taken: set[int] = {1}
    for count in (1, 7, 1024, 10**9, -4, 0):
        begun = volume.core.begin(Begin(key=secrets.token_bytes(16)), volume.now_s)
        more = volume.core.attendance.allocate(messages.AllocateInodes(begun.session, count))
        for part in (begun.inodes, more):
            assert 1 <= part.count <= 1 << 20
            new = range(part.first, part.first + part.count)
            assert taken.isdisjoint(new)
            taken.update(new)
        by_hand = volume.make(f"f{count}").ino
        assert by_hand not in taken
        taken.add(by_hand)
        volume.restart()


def test_end_removes_everything(volume: Volume) -> None:
    """Goal: after its end nothing of a session is stored: open rows, slots, key and record; others keep theirs."""
    keeps = volume.begin()
    volume.change(create(keeps, 1, 1, "kept"))
    volume.open(volume.at("kept").ino, keeps, opening=1)
    before = volume.store.read(lambda tx: [row for kind in (b"o", b"r", b"s", b"k") for row in _rows(tx, kind)])
    session = volume.begin()
    for number in range(700):
        volume.change(create(session, number, 1, f"f{number}"))
        volume.open(volume.at(f"f{number}").ino, session, opening=number + 1)
    for number in range(0, 700, 2):
        volume.remove(f"f{number}")
    volume.check()
    volume.core.end(End(session))
    volume.core.end(End(session))
    after = volume.store.read(lambda tx: [row for kind in (b"o", b"r", b"s", b"k") for row in _rows(tx, kind)])
    assert after == before
    assert len(volume.paths()) == 351


def _rows(tx: Transaction, kind: bytes) -> list[tuple[bytes, bytes]]:
    return tx.range(kind, bytes([kind[0] + 1]), 10_000)


def test_a_session_whose_number_ends_in_255(volume: Volume) -> None:
    """Goal: the rows of sessions 255 and 256 stay apart."""
    volume.store.transact(lambda tx: tx.put(b"mnext_session", (255).to_bytes(8, "big")))
    assert [volume.begin(), volume.begin()] == [255, 256]
    volume.change(create(255, 1, 1, "one"))
    first = volume.change(create(256, 1, 1, "two"))
    volume.core.end(End(255))
    assert volume.change(create(256, 1, 1, "two")) == first


# -- leases


def test_a_silent_session_revives_within_its_open_rows(volume: Volume) -> None:
    """Goal: after the lease a renewal says so; the session is not live meanwhile; nothing of it is lost."""
    session = volume.begin()
    volume.now_s += PROMISE_LEASE_S
    assert not volume.core.renew(Renew(session=session), volume.now_s).revived
    volume.now_s += PROMISE_LEASE_S + 0.1
    assert not volume.core.status(DIRECTORY, volume.now_s).sessions[0].live
    volume.core.attendance.end_lapsed(volume.now_s)
    assert volume.core.renew(Renew(session=session), volume.now_s).revived
    assert not volume.core.renew(Renew(session=session), volume.now_s).revived
    assert volume.core.status(DIRECTORY, volume.now_s).sessions[0].live


def test_a_session_silent_for_too_long_ends(volume: Volume) -> None:
    """Goal: after lease and open rows it is ended, and its unlinked inode goes; one that renews stays."""
    silent, renews = volume.begin(), volume.begin()
    ino = volume.make("f").ino
    volume.open(ino, silent, opening=1)
    volume.remove("f")
    volume.core.renew(Renew(session=silent), volume.now_s)
    volume.now_s += PROMISE_LEASE_S + OPEN_ROWS_S - 1
    volume.core.renew(Renew(session=renews), volume.now_s)
    volume.core.attendance.end_lapsed(volume.now_s)
    assert volume.ask(messages.Lookup(ino)).nlink == 0
    volume.now_s += 2
    volume.core.attendance.end_lapsed(volume.now_s)
    with refused(volume, errors.Stale):
        volume.ask(messages.Lookup(ino))
    assert [row.session for row in volume.core.status(DIRECTORY, volume.now_s).sessions] == [renews]


def test_after_a_restart_every_session_has_a_lease(volume: Volume) -> None:
    """Goal: deadlines are not stored: a restarted directory gives each session its time again."""
    session = volume.begin()
    volume.now_s += 10_000
    volume.restart()
    volume.core.attendance.end_lapsed(volume.now_s + PROMISE_LEASE_S)
    assert not volume.core.renew(Renew(session=session), volume.now_s + 1).revived


def test_status_tells_of_sessions_and_usage(volume: Volume) -> None:
    """Goal: unsent files as last reported, inodes and bytes of the volume."""
    session = volume.begin()
    volume.core.renew(Renew(session=session, unsent_files=3), volume.now_s)
    volume.commit(volume.make("f").ino, b"12345")
    status = volume.core.status(DIRECTORY, volume.now_s)
    assert (status.sessions[0].unsent_files, status.inodes, status.used_bytes) == (3, 2, 5)
    reply = volume.core.renew(Renew(session=session), volume.now_s)
    # What else is on a server's disk is not the volume's: total is what it stores and what is free.
    assert (reply.inodes, reply.total_bytes, reply.free_bytes) == (2, ROOM, ROOM)


# -- servers


def test_the_group_is_the_first_three_by_name(volume: Volume) -> None:
    """Goal: A is the primary; a fourth server is not in the group; the addresses survive a restart."""
    for name in ("", "../../x", "a/b", ".", "-x", "x" * 64, "naïve"):
        with pytest.raises(errors.BadRequest):
            volume.core.register(volume.heartbeat(name), volume.now_s)
    volume.core.register(volume.heartbeat("D"), volume.now_s)
    volume.core.register(volume.heartbeat("locks", "locks"), volume.now_s)
    volume.restart()
    cluster = volume.core.cluster(volume.now_s)
    assert [(server.name, server.url, server.up) for server in cluster.files] == [
        (name, f"http://{name}", False) for name in "ABC"
    ]
    assert (cluster.locks.name, cluster.copies, cluster.copies_min) == ("locks", 3, 2)


def test_a_server_that_is_silent_is_not_up(volume: Volume) -> None:
    """Goal: `up` follows the heartbeats; the space of the volume is that of the servers that are up."""
    volume.now_s += 2.9
    volume.core.register(volume.heartbeat("A"), volume.now_s)
    volume.now_s += 0.2
    assert [server.up for server in volume.core.cluster(volume.now_s).files] == [True, False, False]
    volume.now_s += 60
    session = volume.begin()
    assert volume.core.renew(Renew(session=session), volume.now_s).total_bytes == 0


def test_a_server_may_move(volume: Volume) -> None:
    """Goal: a new address is known at once and after a restart."""
    moved = volume.heartbeat("B")
    moved.server.url = "http://elsewhere"
    volume.core.register(moved, volume.now_s)
    for _ in range(2):
        assert volume.core.cluster(volume.now_s).files[1].url == "http://elsewhere"
        volume.restart()


def test_start_numbers_rise(volume: Volume) -> None:
    """Goal: each start of a lock service gets a larger number, over restarts of the directory; a heartbeat gets none.
    The sessions to wait for are those that may still hold locks."""
    begun = volume.begin()
    start = volume.heartbeat("locks", "locks")
    start.start = True
    numbers = []
    for _ in range(3):
        reply = volume.core.register(start, volume.now_s)
        numbers.append(reply.start_number)
        assert reply.sessions == [begun]
        volume.restart()
    assert numbers == sorted(set(numbers))
    assert volume.core.register(volume.heartbeat("locks", "locks"), volume.now_s).start_number == 0
    assert volume.core.register(start, volume.now_s + LOCKS_S + 1).sessions == []


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"kind": "directory"}, errors.BadRequest),
        ({"kind": ""}, errors.BadRequest),
        ({"name": ""}, errors.BadRequest),
        ({"url": ""}, errors.BadRequest),
        ({"free_bytes": 10**30}, errors.InvalidArgument),
        ({"chunks": -1}, errors.InvalidArgument),
        ({"pid": 2**63}, errors.InvalidArgument),
    ],
)
def test_registrations_that_make_no_sense(volume: Volume, what: dict, error: type[errors.DfsError]) -> None:
    """Goal: refused, and answers that name all servers can still be written."""
    server = messages.Server(**{"kind": "files", "name": "E", "url": "http://E", **what})
    with refused(volume, error):
        volume.core.register(messages.Register(server=server), volume.now_s)
    messages.to_msgpack(volume.core.cluster(volume.now_s))


@pytest.mark.parametrize("wrong", [-1, 10**26])
def test_numbers_that_could_not_be_told_again_are_refused(wrong: int) -> None:
    """Goal: what a client tells of itself is shown to everybody; a number that cannot be written breaks no answer."""
    volume = Volume(MemoryStore())
    session = volume.core.begin(messages.Begin(key=b"k" * 16), 1.0).session
    with pytest.raises(errors.InvalidArgument):
        volume.core.renew(messages.Renew(session=session, unsent_files=wrong), 1.0)
    with pytest.raises(errors.InvalidArgument):
        volume.core.begin(messages.Begin(key=b"l" * 16, pid=wrong), 1.0)
    messages.to_msgpack(volume.core.status(messages.Server(kind="directory", name="d", url="u"), 1.0))


def test_a_session_that_may_renew_locks_elsewhere_is_waited_for(volume: Volume) -> None:
    """Goal: S5. A client that cannot reach the directory goes on renewing its locks at the lock service. One that
    starts waits for it, as long as it may hold any: by its own rule that is HEARD_S and a lease."""
    start = messages.Register(server=volume.heartbeat("locks", "locks").server, start=True)
    silent = volume.begin()
    volume.now_s += HEARD_S + LEASE_S
    volume.core.attendance.end_lapsed(volume.now_s)
    assert volume.core.register(start, volume.now_s).sessions == [silent]


def test_a_session_whose_locks_are_gone_is_not_waited_for_after_a_restart(volume: Volume) -> None:
    """Goal: a client that died costs a lock service's start its lease once, not each time until its session ends."""
    start = messages.Register(server=volume.heartbeat("locks", "locks").server, start=True)
    dead, alive = volume.begin(), volume.begin()
    volume.now_s += LOCKS_S + 1
    volume.core.renew(Renew(session=alive), volume.now_s)
    volume.core.attendance.end_lapsed(volume.now_s)
    volume.restart()
    assert volume.core.register(start, volume.now_s).sessions == [alive]
    volume.core.renew(Renew(session=dead), volume.now_s)
    volume.restart()
    assert sorted(volume.core.register(start, volume.now_s).sessions) == [dead, alive]


def renewed(volume: Volume, session: int, *closed: Closed) -> messages.Renewed:
    return volume.core.renew(Renew(session=session, closed=list(closed)), volume.now_s)


class _Full:
    """While `full`, what would be written is refused, as on a full disk."""

    def __init__(self, volume: Volume):
        self._transact, self.full = volume.store.transact, False
        volume.store.transact = self.transact

    def transact(self, operation: Any) -> Any:
        if self.full:
            raise errors.NoSpace("the directory's disk is full")
        return self._transact(operation)


def test_a_full_disk_ends_no_session(volume: Volume) -> None:
    """Goal: who renews in time lives on, though the store cannot be written, and tells again later what it closed."""
    session, disk = volume.begin(), _Full(volume)
    ino = volume.make("f").ino
    volume.open(ino, session=session, opening=1)
    disk.full = True
    for _ in range(int(PROMISE_LEASE_S + OPEN_ROWS_S) + 10):
        volume.tick()
        assert renewed(volume, session, Closed(ino, 0, 1)).rows_kept
    volume.core.attendance.end_lapsed(volume.now_s)
    disk.full = False
    assert not renewed(volume, session, Closed(ino, 0, 1)).rows_kept
    volume.remove("f")
    volume.check()


def test_session_0_is_not_renewed(volume: Volume) -> None:
    """Goal: the number that stands for "no session" is refused as one that has ended."""
    with pytest.raises(errors.SessionEnded):
        renewed(volume, 0)
