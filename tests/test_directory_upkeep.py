"""What the directory tells file servers: what they should have and have not, and what nobody needs any more."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_servers import Servers
from volumes import ENGINES, Volume, piece, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from dfsfuse.messages import Attributes
from servers import content, records, references, short_rows
from servers import undurable as undurable_rows
from servers.store.memory import MemoryStore


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def servers(volume: Volume) -> Servers:
    return Servers(volume)


def commit(servers: Servers, ino: int, data: bytes, on: str = "ABC", **more: object) -> Attributes:
    return servers.volume.commit(ino, data, receipts=[servers.store(data, on)], **more)


def hear(servers: Servers) -> None:
    """A heartbeat of each server: time has gone on."""
    for name in servers.of:
        servers.register(name)


def syncing(servers: Servers) -> str:
    """The names of those that are."""
    cluster = servers.volume.core.cluster(servers.volume.now_s)
    return "".join(server.name for server in cluster.files if server.syncing)


def status(servers: Servers) -> messages.StatusReply:
    directory = messages.Server(kind="directory", name="directory", url="")
    return servers.volume.core.status(directory, servers.volume.now_s)


def short(servers: Servers) -> dict[str, int]:
    return {row.name: row.short for row in status(servers).conditions if row.short}


def lost(servers: Servers) -> list[tuple[bytes, int, bool]]:
    return [(row.path, row.version, row.reverted) for row in status(servers).lost_files]


# -- starting


def test_a_new_volume_serves_at_once(servers: Servers) -> None:
    """Goal: where there are no chunks, a server has all of them."""
    assert syncing(servers) == ""
    assert not any((reply.repair, reply.collect) != (False, False) for reply in map(servers.register, "ABC"))


def test_a_server_that_tells_nothing_of_its_disk_is_left_alone(volume: Volume) -> None:
    """Goal: without a disk's id a server serves, and is asked for nothing."""
    reply = volume.core.register(volume.heartbeat("A"), volume.now_s)
    assert (reply.repair, reply.collect, reply.cluster.files[0].syncing) == (False, False, False)
    with pytest.raises(errors.NotFound):
        volume.collect(messages.Collect(server="A", next_number=1))
    with pytest.raises(errors.NotFound):
        volume.core.repair(messages.Repair(server="A", first_number=1), volume.now_ns, volume.now_s)


def test_a_server_that_missed_a_commit_is_told(servers: Servers) -> None:
    """Goal: who was away lacks what came meanwhile, is syncing when it is back, and serves once it has all of it."""
    ino = servers.volume.make("f").ino
    servers.of["C"].up = False
    commit(servers, ino, b"one")
    assert short(servers) == {"C": 1}
    servers.of["C"].start()
    assert servers.register("C").repair
    assert syncing(servers) == "C"
    assert set(servers.repair("C")) == {chunk_name(b"one")}
    assert syncing(servers) == ""
    assert short(servers) == {}
    assert not servers.register("C").repair


def test_a_server_that_failed_once_is_told_while_it_serves(servers: Servers) -> None:
    """Goal: one failed copy needs no restart to be mended, and does not stop the server from serving."""
    commit(servers, servers.volume.make("f").ino, b"one", on="AB")
    assert servers.register("C").repair
    assert syncing(servers) == ""
    assert set(servers.repair("C")) == {chunk_name(b"one")}
    assert not servers.register("C").repair


# -- a server that is away for long


def test_what_nobody_needs_any_more_is_not_short(servers: Servers) -> None:
    """Goal: a file that is committed all day, and files that are made and removed, while a server is away leave no more
    to look for than they have; `dfs status` counts that alone, and the server looks for nothing else."""
    volume = servers.volume
    servers.settle()
    servers.of["C"].up = False
    ino = volume.make("database").ino
    for number in range(100):
        commit(servers, ino, b"row %d" % number)
        commit(servers, volume.make("made and removed").ino, b"draft %d" % number)
        volume.remove("made and removed")
        servers.beat()
        settle(servers)
        assert status(servers).short_chunks <= 5
    assert (status(servers).short_chunks, short(servers)) == (1, {"C": 1})
    assert len(volume.store.read(lambda tx: tx.range(b"q", b"r", 1000))) == 1
    servers.of["C"].start()
    servers.register("C")
    assert servers.repair("C") == [chunk_name(b"row 99")]
    assert short(servers) == {}


def settle(servers: Servers) -> None:
    """Until nothing is left to be done at the directory."""
    while servers.volume.core.settle(servers.volume.now_s):
        pass


def test_what_is_kept_for_somebody_stays_short(servers: Servers) -> None:
    """Goal: an older content that somebody has open, and one that a power cut may bring back, are looked for as long as
    they are kept, and not any longer."""
    volume, session = servers.volume, servers.volume.begin()
    servers.settle()
    servers.of["C"].up = False
    ino = volume.make("f").ino
    commit(servers, ino, b"one")
    volume.open(ino, session, opening=1)
    servers.beat()
    for data in (b"two", b"three", b"four"):
        commit(servers, ino, data)
    volume.now_s += 10
    assert short(servers) == {"C": 4}
    servers.beat()
    settle(servers)
    assert short(servers) == {"C": 2}
    volume.close(session, ino, version=1)
    assert short(servers) == {"C": 1}
    volume.remove("f")
    assert short(servers) == {}


def test_a_chunk_that_is_needed_again_is_short_again(servers: Servers) -> None:
    """Goal: what went with its last reference is known to be lacking when another commit needs it; and it is not where
    that has a receipt of the server."""
    volume = servers.volume
    for on, lacking in (("AB", {"C": 1}), ("ABC", {})):
        commit(servers, volume.make("f").ino, b"one", on="AB")
        volume.remove("f")
        assert short(servers) == {}
        commit(servers, volume.make("f").ino, b"one", on=on)
        assert short(servers) == lacking
        volume.remove("f")


def test_receipts_of_what_is_not_committed_leave_nothing(servers: Servers) -> None:
    """Goal: a client may tell of chunks that it has sent and does not use: nobody needs them, so nobody lacks them."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    volume.commit(ino, b"one", receipts=[servers.store(b"one"), servers.store(b"unused", "AB")])
    segment = messages.Segment(b"s" * 16, 0, [[piece(b"two")]])
    base = volume.at("f")
    request = messages.PutSegments(
        session=0, ino=ino, base_version=base.version, base_commit_id=base.commit_id, segments=[segment],
        receipts=[servers.store(b"two"), servers.store(b"unused", "AC")],
    )  # fmt: skip
    volume.core.put_segments(request, volume.now_s)
    assert status(servers).short_chunks == 0


# -- a server that was passed over


def fall_silent(servers: Servers, name: str, data: bytes, missed: str) -> None:
    """It is not heard for a while, and not ended; a commit is made that the servers of `missed` do not get."""
    for _ in range(2):
        servers.volume.now_s += 2
        for other in sorted(servers.of.keys() - {name}):
            servers.register(other)
    commit(servers, servers.volume.make(data.decode()).ino, data, on="".join(sorted({*"ABC"} - {*missed})))


def test_a_server_that_was_silent_catches_up_before_it_serves(servers: Servers) -> None:
    """Goal: S8. Who was stopped or cut off, and lacks what came meanwhile, is syncing when it is heard again, though
    its process has not ended, and until it has looked for all of it."""
    servers.settle()
    fall_silent(servers, "A", b"one", missed="A")
    assert [server.up for server in servers.volume.core.cluster(servers.volume.now_s).files] == [False, True, True]
    assert servers.register("A").repair
    assert syncing(servers) == "A"
    work = servers.repair_step("A", messages.RepairWork())
    assert servers.register("A").repair
    assert syncing(servers) == "A"
    while not work.complete:
        work = servers.repair_step("A", work)
    assert chunk_name(b"one") in servers.of["A"].chunks
    assert syncing(servers) == ""
    assert not servers.register("A").repair


def test_a_server_that_was_silent_and_lacks_nothing_serves(servers: Servers) -> None:
    """Goal: heartbeats that are late, as on a machine that is busy, change nothing by themselves."""
    servers.settle()
    for name in "ABC":
        fall_silent(servers, name, b"without " + name.encode(), missed="")
        assert not servers.register(name).repair
        assert syncing(servers) == ""


def test_what_came_while_it_was_silent_is_behind_no_pass(servers: Servers) -> None:
    """Goal: a pass that was under way when it fell silent may have gone past what came then: it takes another one."""
    servers.settle()
    for number in range(5):
        commit(servers, servers.volume.make(f"f{number}").ino, b"content %d" % number, on="AB")
    servers.register("C")
    work = servers.repair_step("C", messages.RepairWork(), limit=100)
    while work.after[:1] != b"f":
        work = servers.repair_step("C", work)
    fall_silent(servers, "C", b"one", missed="C")
    assert servers.register("C").repair
    while not work.complete:
        work = servers.repair_step("C", work)
    assert syncing(servers) == "C"
    assert servers.register("C").repair
    assert {*servers.repair("C")} == {chunk_name(b"one")}
    assert syncing(servers) == ""


def test_a_directory_that_starts_knows_nobody(servers: Servers) -> None:
    """Goal: a server may have been silent before the directory started: one that lacks something catches up first; if
    all do, each of them is syncing, and commits go on."""
    servers.settle()
    for name in "ABC":
        commit(servers, servers.volume.make(name).ino, name.encode(), on="ABC".replace(name, ""))
        hear(servers)
    assert syncing(servers) == ""
    servers.volume.restart()
    hear(servers)
    assert syncing(servers) == "ABC"
    assert commit(servers, servers.volume.at("A").ino, b"one").version == 2
    servers.settle()
    assert (syncing(servers), short(servers)) == ("", {})


def test_a_server_without_room_catches_up_before_it_serves(servers: Servers) -> None:
    """Goal: S8. A server with a full disk serves as long as it lacks nothing; from the first chunk that it lacks it is
    syncing, until there is room and it has all it missed."""
    servers.settle()
    servers.of["A"].free_bytes = ENTRY_BYTES - 1
    servers.register("A")
    assert syncing(servers) == ""
    commit(servers, servers.volume.make("f").ino, b"one", on="BC")
    for _ in range(2):
        assert servers.register("A").repair
        assert syncing(servers) == "A"
        servers.repair_step("A", messages.RepairWork())
    servers.of["A"].free_bytes = ENTRY_BYTES
    servers.register("A")
    assert syncing(servers) == "A"
    servers.repair("A")
    assert (syncing(servers), short(servers)) == ("", {})


def test_a_server_whose_receipt_has_become_void_is_told(servers: Servers) -> None:
    """Goal: a commit with enough receipts that count, and another one that counts no more, makes the server of that one
    look, without waiting for anything else to happen."""
    ino, receipts = servers.volume.make("f").ino, servers.store(b"one", "ABC")
    servers.volume.collect(messages.Collect(server="C", next_number=servers.of["C"].number))
    servers.volume.commit(ino, b"one", receipts=[receipts])
    assert short(servers) == {"C": 1}
    assert servers.register("C").repair
    servers.repair("C")
    assert short(servers) == {}


def test_an_emptied_disk_gets_everything(servers: Servers) -> None:
    """Goal: a server that comes back with another disk is told of all chunks, in pages, and serves only then."""
    contents = [b"content %d" % i for i in range(10)]
    for i, data in enumerate(contents):
        commit(servers, servers.volume.make(f"f{i}").ino, data)
    servers.settle()
    servers.of["B"].empty_disk()
    assert servers.register("B").repair
    assert syncing(servers) == "B"
    where = servers.volume.look(content.where, messages.Lookup(names=[b"f3"]))
    assert [copy.whole for copy in where.copies] == [True, False, True]
    assert set(servers.repair("B", limit=3)) == set(map(chunk_name, contents))
    assert set(servers.of["B"].chunks) == set(map(chunk_name, contents))
    assert syncing(servers) == ""


def test_catching_up_goes_on_after_a_restart(servers: Servers) -> None:
    """Goal: of a new disk what was gone through stays gone through, over restarts of the server and the directory."""
    for i in range(10):
        commit(servers, servers.volume.make(f"f{i}").ino, b"content %d" % i)
    servers.settle()
    servers.of["B"].empty_disk()
    servers.register("B")
    work = messages.RepairWork()
    while not work.after.startswith(b"a") or len(servers.of["B"].chunks) < 6:
        work = servers.repair_step("B", work)
    work = servers.repair_step("B", work, limit=1)
    servers.volume.restart()
    servers.of["B"].start()
    for name in "ABC":
        servers.register(name)
    assert syncing(servers) == "B"
    assert 0 < len(servers.repair("B")) < 6
    assert len(servers.of["B"].chunks) == 10


def test_numbers_of_a_new_disk_are_larger_than_the_old_ones(servers: Servers) -> None:
    """Goal: receipts that the disk before has given count no more, although the new one begins at 1."""
    for _ in range(3):
        servers.of["A"].start()
        servers.register("A")
    ino = servers.volume.make("f").ino
    old = servers.store(b"one")
    servers.of["A"].empty_disk()
    servers.of["C"].up = False
    servers.register("A")
    old.receipts = [receipt for receipt in old.receipts if receipt.server in "AB"]
    with pytest.raises(errors.ReceiptsVoid):
        servers.volume.commit(ino, b"one", receipts=[old])
    assert commit(servers, ino, b"one", on="AB").version == 1
    assert servers.of["A"].first < servers.of["A"].chunks[chunk_name(b"one")]


def test_a_pass_of_a_former_start_is_refused(servers: Servers) -> None:
    """Goal: what a server had before it started again says nothing of what it has now."""
    commit(servers, servers.volume.make("f").ino, b"one", on="AB")
    servers.register("C")
    with pytest.raises(errors.NotFound):
        servers.volume.core.repair(
            messages.Repair(server="C", first_number=7), servers.volume.now_ns, servers.volume.now_s
        )
    servers.repair_step("C", messages.RepairWork())
    request = messages.Repair(server="C", first_number=servers.of["C"].first, after=b"x")
    with pytest.raises(errors.BadRequest):
        servers.volume.core.repair(request, servers.volume.now_ns, servers.volume.now_s)


def test_a_repeated_answer_changes_nothing(servers: Servers) -> None:
    """Goal: a page that is asked for twice, as when the reply was lost, is the same page."""
    for i in range(5):
        commit(servers, servers.volume.make(f"f{i}").ino, b"content %d" % i, on="AB")
    servers.register("C")
    first = servers.repair_step("C", messages.RepairWork())
    second = servers.repair_step("C", first)
    assert servers.repair_step("C", first) == second
    servers.repair("C")
    assert short(servers) == {}


def test_what_a_check_mends_during_a_pass_is_told_by_the_next(servers: Servers) -> None:
    """Goal: a chunk that turns out to be needed while a server is in the middle of a pass is not overlooked."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    commit(servers, volume.make("g").ino, b"two", on="AB")
    servers.register("C")
    work = servers.repair_step("C", messages.RepairWork())
    while work.after[:1] != b"f":
        work = servers.repair_step("C", work)
    lost = references.key(1, chunk_name(b"one"), references.inode_holder(ino))
    volume.store.transact(lambda tx: tx.delete(lost))
    assert any(volume.core.upkeep.mend(messages.Mend(volume.problems()), volume.now_ns).changed)
    while not work.complete:
        work = servers.repair_step("C", work)
    assert servers.register("C").repair
    assert chunk_name(b"one") in servers.repair("C")


# -- what is not on disks yet


def test_after_a_power_cut_of_one_it_confirms_what_is_new(servers: Servers) -> None:
    """Goal: a server that started again is asked for those chunks alone that it is not known to have synced."""
    one, two = servers.volume.make("one").ino, servers.volume.make("two").ino
    commit(servers, one, b"one")
    servers.beat()
    servers.volume.core.settle(servers.volume.now_s)
    commit(servers, two, b"two")
    servers.of["A"].start(power_cut=True)
    assert servers.register("A").repair
    assert servers.repair("A") == [chunk_name(b"two")]
    assert set(servers.of["A"].chunks) == {chunk_name(b"one"), chunk_name(b"two")}


def test_after_a_power_cut_of_all_the_version_before_is_back(servers: Servers) -> None:
    """Goal: what no server has any more is given up: the file has what was on disks, as a new version; that is told."""
    ino = servers.volume.make("f").ino
    first = commit(servers, ino, b"one")
    servers.settle()
    gone = [commit(servers, ino, data) for data in (b"two", b"three")]
    for server in servers.of.values():
        server.start(power_cut=True)
    servers.settle()
    after = servers.volume.at("f")
    assert (after.size, lost(servers)) == (3, [(b"/f", 3, True)])
    assert after.version > 3
    assert after.commit_id not in (first.commit_id, gone[0].commit_id, gone[1].commit_id)
    assert servers.volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"one")
    with pytest.raises(errors.VersionConflict):
        commit(servers, ino, b"three", base_version=2, base_commit_id=gone[0].commit_id, commit_id=gone[1].commit_id)


def test_a_pass_during_which_the_directory_loses_power(servers: Servers) -> None:
    """Goal: S10: that a server has looked for something in vain is lost with the directory's last second: it is not
    taken to have that when its pass goes on, or what was on disks before would be let go."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    commit(servers, ino, b"two")
    for name, server in servers.of.items():
        server.start(power_cut=True)
        servers.register(name)
    works = {}
    for name in servers.of:
        work = servers.repair_step(name, messages.RepairWork())
        while not (told := volume.store.read(lambda tx: tx.range(*records.within(b"q"), 1))):
            work = servers.repair_step(name, work)
        volume.store.transact(lambda tx, key=told[0][0]: short_rows.delete(tx, [short_rows.of_key(key)]))
        works[name] = work
    volume.restart()
    hear(servers)
    for name, work in works.items():
        while not work.complete:
            work = servers.repair_step(name, work)
    servers.settle()
    assert (volume.at("f").size, lost(servers)) == (3, [(b"/f", 2, True)])
    assert volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"one")


def test_a_file_that_is_committed_all_the_time_loses_the_last_second_alone(servers: Servers) -> None:
    """Goal: commits that follow each other faster than servers sync do not keep older ones from counting as durable."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    for number in range(200):
        volume.now_ns += 100_000_000
        receipts = [servers.store(b"%d" % number)]
        volume.core.commit(volume.commit_request(ino, b"%d" % number, receipts=receipts), volume.now_ns, volume.now_s)
        if number % 10 == 9:
            servers.beat()
        volume.core.settle(volume.now_s)
    for server in servers.of.values():
        server.start(power_cut=True)
    servers.settle()
    assert volume.open(ino).manifest.entries[0][0].chunk in {chunk_name(b"%d" % n) for n in range(189, 200)}
    assert len(servers.of["A"].chunks) == 1


@pytest.mark.parametrize("phase_ms", range(0, 500, 100))
def test_a_directory_that_hears_of_no_sync_loses_no_more(phase_ms: int) -> None:
    """Goal: S10: while the directory does not hear file servers, which clients reach, contents pile up of which it does
    not know that they are on disks. When power of all is cut the file has one that is half a second old, until the next
    sync, and a quarter more, as the last one of each is kept."""
    for commits in range(60, 90, 2):
        volume = Volume(MemoryStore())
        servers = Servers(volume)
        servers.settle()
        ino, began_ns = volume.make("f").ino, 10**12 + phase_ms * 1_000_000
        for number in range(commits):
            volume.now_ns = began_ns + number * 70_000_000
            if number * 70 // 500 != (number - 1) * 70 // 500:
                for server in servers.of.values():
                    server.sync()
            request = volume.commit_request(ino, b"%d" % number, receipts=[servers.store(b"%d" % number)])
            volume.core.commit(request, volume.now_ns, volume.now_s)
        for server in servers.of.values():
            server.start(power_cut=True)
        servers.settle()
        found = volume.open(ino).manifest.entries[0][0].chunk
        assert found in {chunk_name(b"%d" % number) for number in range(commits - 11, commits)}


def test_what_was_committed_durably_is_not_undone(servers: Servers) -> None:
    """Goal: S10: what came a moment before or after an fsync does not take its content along."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()

    def follows(data: bytes, **more: bool) -> None:
        receipts = [servers.store(data)]
        if more:
            for server in servers.of.values():
                server.sync()
        volume.core.commit(volume.commit_request(ino, data, receipts=receipts, **more), volume.now_ns, volume.now_s)

    for data in (b"before", b"durable", b"after", b"long after"):
        follows(data, **({"durable": True} if data == b"durable" else {}))
    for server in servers.of.values():
        server.start(power_cut=True)
    servers.settle()
    assert volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"durable")


def test_nothing_is_made_from_what_may_be_lost(servers: Servers) -> None:
    """Goal: S10: after a power cut of all a commit that keeps chunks of a content that is still being looked for waits,
    so that nobody is told that it is safe, until two servers have it; one that keeps none does not."""
    volume, one, two = servers.volume, servers.volume.make("f").ino, servers.volume.make("g").ino
    for ino in (one, two):
        commit(servers, ino, b"one")
    for name, server in servers.of.items():
        server.start(power_cut=True)
        servers.register(name)
    both = messages.Manifest([[piece(b"one"), piece(b"two", offset=3)]])
    with pytest.raises(errors.Starting):
        volume.commit(one, size=6, manifest=both, receipts=[servers.store(b"two")])
    assert commit(servers, two, b"two").version == 2
    servers.settle()
    assert volume.at("f").size == 0
    commit(servers, one, b"one")
    for name in "BC":
        servers.of[name].start()
        servers.register(name)
    with pytest.raises(errors.Starting):
        volume.commit(one, size=6, manifest=both, receipts=[servers.store(b"two")])
    servers.repair("B")
    hear(servers)
    assert volume.commit(one, size=6, manifest=both, receipts=[servers.store(b"two")]).size == 6


def test_nothing_is_made_from_what_nobody_is_known_to_have(servers: Servers) -> None:
    """Goal: S10: power of all is cut, and the directory starts once more before they have looked: as long as it has not
    heard the file servers since, it believes none of them. One that has heard all goes on when it hears none."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    both = messages.Manifest([[piece(b"one"), piece(b"two", offset=3)]])
    volume.now_s += 60
    assert volume.commit(ino, size=6, manifest=both, receipts=[servers.store(b"two")]).version == 2
    for name, server in servers.of.items():
        server.start(power_cut=True)
        servers.register(name)
    volume.restart()
    three = messages.Manifest([[piece(b"one"), piece(b"three", offset=3)]])
    with pytest.raises(errors.Starting):
        volume.commit(ino, size=8, manifest=three, receipts=[servers.store(b"three")])
    servers.settle()
    assert (volume.at("f").size, lost(servers)) == (0, [(b"/f", 2, True)])


def test_receipts_of_servers_that_were_not_heard_yet(servers: Servers) -> None:
    """Goal: S4, S10: power of all is cut after a chunk was sent, and the commit comes to a directory that has started
    and has not heard yet that the file servers have started, too: it is not told that all is well."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    receipts = [servers.store(b"one")]
    volume.restart()
    for name, server in servers.of.items():
        server.start(power_cut=True)
        with pytest.raises(errors.Starting if name < "C" else errors.ReceiptsVoid):
            volume.commit(ino, b"one", receipts=receipts)
        servers.register(name)
    assert volume.at("f").size == 0
    with pytest.raises(errors.ReceiptsVoid):
        volume.commit(ino, b"one", receipts=receipts)
    assert commit(servers, ino, b"one").size == 3


def test_steps_between_are_few(servers: Servers) -> None:
    """Goal: what is kept for a file does not grow with its commits, also where no server ever syncs."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    for number in range(300):
        volume.now_ns += 100_000_000
        request = volume.commit_request(
            ino, b"%d" % number, receipts=[servers.store(b"%d" % number)], durable=number % 7 == 0
        )
        volume.core.commit(request, volume.now_ns, volume.now_s)
        row = volume.store.read(lambda tx: undurable_rows.get(tx, ino))
        assert len(row.between) <= undurable_rows.BETWEEN_MAX
        assert number < 2 or row.between[-1].content.version >= number - 3


def test_a_segment_takes_the_place_of_the_one_before(servers: Servers) -> None:
    """Goal: an upload that is tried again and again, as while the quota is used up, leaves one set of segments."""
    volume, session = servers.volume, servers.volume.begin()
    ino = volume.make("f").ino
    for number in range(20):
        data = b"%d" % number
        request = messages.PutSegments(
            session=session, ino=ino, base_version=0, base_commit_id=b"", receipts=[servers.store(data)],
            segments=[messages.Segment(secrets.token_bytes(16), 0, [[piece(data)]])],
        )  # fmt: skip
        volume.core.put_segments(request, volume.now_s)
    servers.settle()
    assert len(volume.store.read(lambda tx: tx.range(b"u", b"v", 100))) == 1
    assert set(servers.of["A"].chunks) == {chunk_name(b"19")}


def test_a_first_content_that_is_lost_leaves_an_empty_file(servers: Servers) -> None:
    """Goal: a file that was new goes back to no content, and its sizes count no more."""
    commit(servers, servers.volume.make("f").ino, b"one")
    for server in servers.of.values():
        server.start(power_cut=True)
    servers.settle()
    assert (servers.volume.at("f").size, lost(servers)) == (0, [(b"/f", 1, True)])


def test_a_content_without_one_before_it_is_told_and_kept(servers: Servers) -> None:
    """Goal: a content that was on disks and that all servers have lost is told of; and once one has it again, it is
    not lost, and the others get it."""
    ino = servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    for server in servers.of.values():
        server.empty_disk()
    servers.settle()
    assert lost(servers) == [(b"/f", 1, False)]
    assert servers.volume.at("f").size == 3
    servers.store(b"one", "B")
    servers.of["B"].sync()
    servers.of["B"].start()
    servers.settle()
    assert lost(servers) == []
    assert all(chunk_name(b"one") in server.chunks for server in servers.of.values())


def test_what_is_lost_goes_with_its_file(servers: Servers) -> None:
    """Goal: a removed file is not told of, and no server is short of its chunks once it has gone through the garbage,
    though it has nothing to look for any more."""
    commit(servers, servers.volume.make("f").ino, b"one")
    servers.settle()
    for server in servers.of.values():
        server.empty_disk()
    servers.settle()
    assert short(servers) == {"A": 1, "B": 1, "C": 1}
    servers.volume.remove("f")
    assert lost(servers) == []
    servers.settle()
    assert short(servers) == {}


def test_a_chunk_that_another_server_may_have_is_not_lost(servers: Servers) -> None:
    """Goal: as long as one server has not looked, nothing is given up; when it is back, all get it from there."""
    ino = servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.beat()
    commit(servers, ino, b"two")
    servers.of["C"].sync()
    servers.of["C"].up = False
    for name in "AB":
        servers.of[name].start(power_cut=True)
    for name in "AB":
        servers.upkeep(name)
    assert (servers.volume.at("f").version, short(servers)) == (2, {"A": 1, "B": 1})
    servers.volume.now_s += 5
    servers.of["C"].start()
    servers.settle()
    assert (servers.volume.at("f").version, short(servers), lost(servers)) == (2, {}, [])


def test_a_server_that_is_late_is_not_waited_for_and_looks_later(servers: Servers) -> None:
    """Goal: two disks are enough where the third server does not sync; as nobody remembers then what it may not have,
    it looks for that."""
    servers.settle()
    commit(servers, servers.volume.make("f").ino, b"one")
    for name in "AB":
        servers.of[name].sync()
        servers.register(name)
    servers.volume.core.settle(servers.volume.now_s)
    assert undurable(servers) == 1, "it may have it in a moment"
    servers.volume.now_s += 5
    servers.volume.core.settle(servers.volume.now_s)
    assert undurable(servers) == 0
    servers.of["C"].start(power_cut=True)
    servers.settle()
    assert chunk_name(b"one") in servers.of["C"].chunks


def undurable(servers: Servers) -> int:
    return len(servers.volume.store.read(lambda tx: tx.range(b"d", b"e", 100)))


def test_a_chunk_that_came_with_another_file_is_confirmed(servers: Servers) -> None:
    """Goal: where servers got what they had lacked with other files' commits, that settles the first file too."""
    volume, one, two = servers.volume, servers.volume.make("f").ino, piece(b"two", offset=3)
    commit(servers, one, b"one", on="AC")
    both = messages.Manifest([[piece(b"one"), two]])
    hear(servers)
    volume.commit(one, size=6, manifest=both, receipts=[servers.store(b"two", "AB")])
    commit(servers, volume.make("g").ino, b"one")
    commit(servers, volume.make("h").ino, b"two")
    servers.settle()
    assert undurable(servers) == 0
    assert servers.volume.at("f").version == 2


# -- receipts that count no more


def test_receipts_of_a_former_start_do_not_count(servers: Servers) -> None:
    """Goal: with two servers of the former start left out there are too few; confirmed anew the commit is taken, and
    with one it is taken, and that one is short."""
    ino = servers.volume.make("f").ino
    receipts = servers.store(b"one")
    for name in "AB":
        servers.of[name].start()
        servers.register(name)
    with pytest.raises(errors.ReceiptsVoid):
        servers.volume.commit(ino, b"one", receipts=[receipts])
    assert servers.volume.commit(ino, b"one", receipts=[servers.store(b"one")]).version == 1
    old = servers.store(b"two")
    servers.of["A"].start()
    servers.register("A")
    assert servers.volume.commit(ino, b"two", receipts=[old]).version == 2
    assert short(servers) == {"A": 1}


@pytest.mark.parametrize("starts", [1, 2])
def test_receipts_of_segments_do_not_count_over_a_restart(servers: Servers, starts: int) -> None:
    """Goal: segments that were put before servers started again are put again, with new receipts; also where they have
    synced since, and started once more: what they had lost before is none of what they looked for."""
    volume, ino, segment_id = servers.volume, servers.volume.make("f").ino, secrets.token_bytes(16)
    size = messages.SEGMENT_ENTRIES * (4 << 20)

    def put() -> None:
        entries = [[piece(b"one")]]
        request = messages.PutSegments(
            session=0, ino=ino, base_version=0, base_commit_id=b"",
            segments=[messages.Segment(segment_id, 0, entries)], receipts=[servers.store(b"one")],
        )  # fmt: skip
        volume.core.put_segments(request, volume.now_s)

    put()
    for _ in range(starts):
        for name in "AB":
            servers.of[name].start(power_cut=True)
            servers.register(name)
            servers.repair(name)
        servers.beat()
    manifest = messages.Manifest([], [segment_id])
    with pytest.raises(errors.ReceiptsVoid):
        volume.commit(ino, size=size, manifest=manifest)
    put()
    assert volume.commit(ino, size=size, manifest=manifest).version == 1


def test_one_server_that_has_started_since_segments_were_put(servers: Servers) -> None:
    """Goal: two others suffice; the one looks for what it may have lost, though it has looked for all else before, and
    the content before is let go then."""
    volume, ino, segment_id = servers.volume, servers.volume.make("f").ino, secrets.token_bytes(16)
    request = messages.PutSegments(
        session=0, ino=ino, base_version=0, base_commit_id=b"",
        segments=[messages.Segment(segment_id, 0, [[piece(b"one")]])], receipts=[servers.store(b"one")],
    )  # fmt: skip
    volume.core.put_segments(request, volume.now_s)
    servers.of["A"].start(power_cut=True)
    servers.register("A")
    servers.repair("A")
    size, manifest = messages.SEGMENT_ENTRIES * (4 << 20), messages.Manifest([], [segment_id])
    assert volume.commit(ino, size=size, manifest=manifest).version == 1
    servers.settle()
    assert chunk_name(b"one") in servers.of["A"].chunks
    assert volume.store.read(lambda tx: undurable_rows.get(tx, ino)) is None


# -- garbage


def test_what_nobody_needs_is_deleted_everywhere(servers: Servers) -> None:
    """Goal: a replaced content and a removed file's are garbage, on each server; what two files share is not."""
    volume = servers.volume
    for name, data in (("f", b"one"), ("g", b"shared"), ("h", b"shared"), ("i", b"gone")):
        commit(servers, volume.make(name).ino, data)
    commit(servers, volume.at("f").ino, b"two")
    volume.remove("h")
    volume.remove("i")
    servers.settle()
    for server in servers.of.values():
        assert set(server.chunks) == {chunk_name(b"two"), chunk_name(b"shared")}


def test_an_open_version_is_no_garbage(servers: Servers) -> None:
    """Goal: who has an older version open keeps its chunks until the last close, or the session's end."""
    volume, session, other = servers.volume, servers.volume.begin(), servers.volume.begin()
    ino = volume.make("f").ino
    commit(servers, ino, b"one")
    volume.open(ino, session, opening=1)
    volume.open(ino, other, opening=1)
    commit(servers, ino, b"two")
    for step in (lambda: volume.close(session, ino, version=1), lambda: volume.core.end(messages.End(other))):
        servers.settle()
        assert chunk_name(b"one") in servers.of["A"].chunks
        step()
    servers.settle()
    assert set(servers.of["A"].chunks) == {chunk_name(b"two")}


def test_the_content_before_is_no_garbage_until_the_next_is_on_disks(servers: Servers) -> None:
    """Goal: as long as a power cut could take the newest content, the one before it is there."""
    ino = servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    commit(servers, ino, b"two")
    commit(servers, ino, b"three")
    for name in "ABC":
        servers.upkeep(name)
    assert set(servers.of["A"].chunks) == {chunk_name(data) for data in (b"one", b"two", b"three")}
    servers.of["A"].sync()
    servers.register("A")
    assert not servers.volume.core.settle(servers.volume.now_s)
    assert not servers.register("A").collect, "one disk of two that are needed"
    servers.settle()
    assert set(servers.of["A"].chunks) == {chunk_name(b"three")}


def test_an_upload_in_flight_is_no_garbage(servers: Servers) -> None:
    """Goal: a chunk whose receipt came after the directory was asked is not deleted; one from before is, and a commit
    that rests on it is refused."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    early = servers.store(b"one")
    commit(servers, ino, b"two")
    servers.beat()
    volume.core.settle(volume.now_s)
    bounds, replies = {}, {}
    for name, server in servers.of.items():
        bounds[name] = server.number
        replies[name] = volume.collect(messages.Collect(server=name, next_number=server.number))
        assert replies[name].chunks == [chunk_name(b"one")]
    with pytest.raises(errors.ReceiptsVoid):
        volume.commit(ino, b"one", receipts=[early])
    late = servers.store(b"one")
    for name in servers.of:
        servers.delete(name, replies[name], bounds[name])
    assert volume.commit(ino, b"one", receipts=[late]).version == 3
    servers.settle()
    assert set(servers.of["A"].chunks) == {chunk_name(b"one")}


def test_what_was_never_committed_is_found_in_the_inventory(servers: Servers) -> None:
    """Goal: chunks that no log tells of are told to be garbage when they are asked for by name; others are not."""
    commit(servers, servers.volume.make("f").ino, b"one")
    servers.store(b"given up")
    servers.settle()
    assert len(servers.of["A"].chunks) == 2
    servers.collect("A", inventory=True)
    assert set(servers.of["A"].chunks) == {chunk_name(b"one")}


def test_a_session_that_ends_leaves_no_segments(servers: Servers) -> None:
    """Goal: what a client put and never committed is garbage when its session ends, in bounded steps; and so is what
    it did not use in its commit."""
    volume, session = servers.volume, servers.volume.begin()
    ino = volume.make("f").ino
    many = [b"chunk %d" % i for i in range(120)]

    def put(*contents: bytes) -> None:
        entries = [[piece(data)] for data in contents]
        segments = [messages.Segment(secrets.token_bytes(16), 0, entries)]
        base = volume.at("f")
        volume.core.put_segments(
            messages.PutSegments(
                session=session, ino=ino, base_version=base.version, base_commit_id=base.commit_id,
                segments=segments, receipts=[servers.store(data) for data in contents],
            ), volume.now_s)  # fmt: skip

    put(b"unused")
    commit(servers, ino, b"used", session=session, slot=1, sequence=1)
    put(*many)
    servers.settle()
    assert set(servers.of["A"].chunks) == {chunk_name(data) for data in (b"used", *many)}
    volume.core.end(messages.End(session))
    assert volume.core.settle(volume.now_s), "taken apart by steps"
    servers.settle()
    assert set(servers.of["A"].chunks) == {chunk_name(b"used")}


def test_the_log_is_cut_once_all_have_read_it(servers: Servers) -> None:
    """Goal: the garbage log ends with the slowest server, and each server reads it once."""
    ino = servers.volume.make("f").ino
    for i in range(10):
        commit(servers, ino, b"content %d" % i)
        servers.beat()
        servers.volume.core.settle(servers.volume.now_s)
    servers.collect("A")
    servers.collect("B")
    servers.volume.core.settle(servers.volume.now_s)
    assert servers.register("C").collect
    servers.settle()
    assert not servers.volume.store.read(lambda tx: tx.range(b"n", b"o", 10))
    assert all(len(server.chunks) == 1 for server in servers.of.values())


def test_a_place_beyond_the_log_is_its_end(servers: Servers) -> None:
    """Goal: after the metadata was loaded from a dump a server's place means nothing: no row of the new log is passed
    over."""
    servers.volume.collect(messages.Collect(server="A", next_number=1, after=5000))
    commit(servers, servers.volume.make("f").ino, b"one")
    servers.settle()
    servers.volume.remove("f")
    assert servers.register("A").collect
    servers.settle()
    assert not servers.of["A"].chunks


def test_everything_in_use_in_pages(servers: Servers) -> None:
    """Goal: `audit` names each chunk once, in order, however many files have it and however small the pages."""
    contents = [b"content %d" % (i % 7) for i in range(20)]
    for i, data in enumerate(contents):
        commit(servers, servers.volume.make(f"f{i}").ino, data)
    for limit in (1, 3, 7, 100):
        found, after, more = [], b"", True
        while more:
            page = servers.volume.core.upkeep.audit(messages.Audit(after=after, limit=limit))
            found, more = found + page.chunks, page.more
            after = found[-1]
        assert found == sorted(set(map(chunk_name, contents)))


@pytest.mark.parametrize("engine", ["memory"])
def test_a_start_that_could_not_be_noted_is_not_heard(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: S8. A server that has started again while the directory's disk is full is not taken for what it was before:
    it is up once it could be noted that it has to look for what it may lack."""
    with volume_on(engine, tmp_path) as volume:
        servers = Servers(volume)
        ino = volume.make("f").ino
        commit(servers, ino, b"one")
        servers.of["C"].start(power_cut=True)
        volume.now_s += 10.0
        servers.register("A")
        servers.register("B")

        def full(*_: object) -> None:
            raise errors.NoSpace("full")

        with monkeypatch.context() as patch:
            patch.setattr(volume.core.upkeep, "_change", full)
            with pytest.raises(errors.NoSpace):
                servers.register("C")
            assert [server.up for server in servers.register("A").cluster.files] == [True, True, False]
        servers.register("C")
        assert [server.syncing for server in volume.core.cluster(volume.now_s).files] == [False, False, True]
