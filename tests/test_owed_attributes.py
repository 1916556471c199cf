"""What is set of a new file's attributes goes with its first commit, or at once where that is safer."""

import os
import random
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import errors
from dfsfuse.handles import Handle
from dfsfuse.messages import Attributes
from dfsfuse.places import place_of
from servers.store.memory import MemoryStore


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(Volume(MemoryStore()), Servers(), tmp_path / "here", 0.0, watches=True)


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    return Machine(here.volume, here.servers, tmp_path / "there", 0.0, watches=True)


def give(machine: Machine, handle: Handle, **changes: int) -> Attributes:
    """As a driver does it that knows inodes."""
    return machine.files.set_attributes((handle.content.ino, ()), **changes)


def seen(attributes: Attributes) -> dict[str, int]:
    fields = "mode", "uid", "gid", "size", "mtime_ns", "atime_ns"
    return {field: getattr(attributes, field) for field in fields}


def asked(machine: Machine, act: Callable[[], Any]) -> Counter[str]:
    before = machine.session.asked.copy()
    act()
    return machine.session.asked - before


def unpacked(machine: Machine, path: str, data: bytes = b"content") -> None:
    """As tar does it."""
    handle = machine.create(path, 0o600)
    if data:
        machine.put(handle, data)
    give(machine, handle, atime_ns=5, mtime_ns=7)
    give(machine, handle, uid=1000, gid=1001)
    give(machine, handle, mode=0o644)
    machine.close(handle)


@pytest.mark.parametrize(("data", "wanted"), [(b"content", "Commit"), (b"", "SetAttributes")])
def test_unpacking_costs_no_request_for_attributes(here: Machine, there: Machine, data: bytes, wanted: str) -> None:
    """Goal: three changes go with the commit; of a file without content as one request. Both clients see them all."""
    assert asked(here, lambda: unpacked(here, "/f", data)) == {"Create": 1, wanted: 1}
    times = {"mtime_ns": 7, "atime_ns": 5, "size": len(data)}
    for known in (here.stat("/f"), there.stat("/f")):
        assert seen(known) == {"mode": stat.S_IFREG | 0o644, "uid": 1000, "gid": 1001, **times}
    assert here.stat("/f").ctime_ns == there.stat("/f").ctime_ns
    assert there.read("/f") == data


def test_they_are_seen_here_at_once(here: Machine, there: Machine) -> None:
    """Goal: S14. Each call is followed by what it has set, on this client; others see the file as it was made."""
    handle = here.create("/f", 0o600)
    made = here.stat("/f")
    here.put(handle, b"content")
    for changes in ({"atime_ns": 5, "mtime_ns": 7}, {"uid": 3, "gid": 4}, {"mode": 0o4755}, {"mtime_ns": 8}):
        before = here.stat("/f")
        told = give(here, handle, **changes)
        known = here.stat("/f")
        wanted = {**seen(before), **changes, "mode": stat.S_IFREG | changes.get("mode", stat.S_IMODE(before.mode))}
        assert seen(told) == seen(known) == seen(here.files.attributes_of(handle)) == wanted
        assert known.ctime_ns > before.ctime_ns
        assert not known.promised
    assert seen(there.stat("/f")) == {**seen(made), "size": 0}
    shown = seen(here.stat("/f"))
    here.close(handle)
    assert seen(here.stat("/f")) == seen(there.stat("/f")) == shown


def test_a_write_after_a_time_was_set(here: Machine, there: Machine) -> None:
    """Goal: it moves mtime, and atime stays as it was set."""
    handle = here.create("/f")
    give(here, handle, atime_ns=5, mtime_ns=7)
    here.put(handle, b"content")
    shown = here.stat("/f")
    assert shown.mtime_ns > 10**18
    here.close(handle)
    assert (there.stat("/f").mtime_ns, there.stat("/f").atime_ns) == (shown.mtime_ns, 5)


@pytest.mark.parametrize(
    ("mode", "uid", "changes", "at_once"),
    [
        (0o644, 0, {"mode": 0o600}, True),
        (0o600, 0, {"mode": 0o4711}, False),
        (0o644, 0, {"mode": 0o4644}, False),
        (0o600, 7, {"uid": 8}, True),
        (0o600, 0, {"uid": 8}, False),
        (0o640, 0, {"gid": 8}, True),
        (0o644, 0, {"gid": 8}, False),
        (0o600, 7, {"uid": 7, "gid": 9}, False),
        (0o644, 0, {"mtime_ns": 1}, False),
    ],
)
def test_what_takes_rights_is_told_at_once(
    here: Machine, there: Machine, mode: int, uid: int, changes: dict[str, int], at_once: bool
) -> None:
    """Goal: nobody gets at content, also after a crash of this client, from whom the program has taken the right."""
    handle = here.create("/f", mode, uid=uid)
    here.put(handle, b"content")
    made = seen(there.stat("/f"))
    assert asked(here, lambda: give(here, handle, **changes)) == ({"SetAttributes": 1} if at_once else {})
    assert (seen(there.stat("/f")) == made) is not at_once
    here.close(handle)
    changes["mode"] = stat.S_IFREG | changes.get("mode", mode)
    assert {field: seen(there.stat("/f"))[field] for field in changes} == changes


def test_changes_that_follow_each_other(here: Machine, there: Machine) -> None:
    """Goal: whatever is told at once and whatever is owed, the last word on each attribute holds, also where a commit
    comes between."""
    chance = random.Random(1)
    for number in range(60):
        handle = here.create(f"/{number}", chance.choice((0o600, 0o644)))
        wanted = seen(here.stat(f"/{number}"))
        for _ in range(chance.randrange(1, 6)):
            match chance.randrange(7):
                case 0:
                    here.put(handle, b"content")
                    wanted |= {"size": 7, "mtime_ns": here.stat(f"/{number}").mtime_ns}
                case 1:
                    here.files.files.flush(handle)
                case field:
                    field = ("mode", "uid", "gid", "mtime_ns", "atime_ns")[field - 2]
                    value = chance.choice((0o4755, 0o600, 0o640)) if field == "mode" else chance.randrange(9)
                    give(here, handle, **{field: value})
                    if field in ("uid", "gid"):
                        wanted["mode"] &= ~stat.S_ISUID
                    wanted[field] = value | (stat.S_IFREG if field == "mode" else 0)
            assert seen(here.stat(f"/{number}")) == wanted
        here.close(handle)
        assert seen(there.stat(f"/{number}")) == seen(here.stat(f"/{number}")) == wanted


@pytest.mark.parametrize("data", [b"content", b""])
@pytest.mark.parametrize("others", [0o700, 0o644])
def test_what_another_client_sets_meanwhile_holds(here: Machine, there: Machine, data: bytes, others: int) -> None:
    """Goal: its word is the later one, here and there, before the commit and after; what it has not touched is as
    set."""
    handle = here.create("/f", 0o644)
    here.put(handle, data)
    give(here, handle, mode=0o777, uid=8)
    there.files.set_attributes(place_of("/f"), mode=others)
    give(here, handle, gid=9)
    known = here.stat("/f")
    assert (stat.S_IMODE(known.mode), known.uid, known.gid) == (others, 8, 9)
    here.close(handle)
    for known in (here.stat("/f"), there.stat("/f")):
        assert (stat.S_IMODE(known.mode), known.uid, known.gid) == (others, 8, 9)


def test_set_id_bits_go_with_a_write_or_an_owner(here: Machine, there: Machine) -> None:
    """Goal: bits that are owed are taken by who may not keep them, as those that the directory has."""
    for name, act in {
        "written": lambda handle: here.put(handle, b"content"),
        "given away": lambda handle: give(here, handle, gid=9),
    }.items():
        handle = here.create(f"/{name}")
        give(here, handle, mode=0o6755)
        handle.privileged = False
        act(handle)
        assert stat.S_IMODE(here.stat(f"/{name}").mode) == 0o755
        here.close(handle)
        assert stat.S_IMODE(there.stat(f"/{name}").mode) == 0o755


def test_extended_attributes_come_after_them(here: Machine, there: Machine) -> None:
    """Goal: a new owner takes the capability that was there before, and not the one that is set after."""
    handle = here.create("/f", 0o600)
    here.put(handle, b"content")
    give(here, handle, uid=8)
    here.files.setxattr((handle.content.ino, ()), b"security.capability", b"all")
    give(here, handle, mode=0o755)
    here.close(handle)
    assert there.files.getxattr(place_of("/f"), b"security.capability") == b"all"
    assert seen(there.stat("/f"))["uid"] == 8
    assert stat.S_IMODE(there.stat("/f").mode) == 0o755


def test_a_commit_that_was_not_answered(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: it may have happened, and is asked for again: what was set since is not overwritten."""
    handle = here.create("/f", 0o600)
    here.put(handle, b"content")
    give(here, handle, mode=0o644, uid=8)
    change = here.session.change

    def lost(request: Any, *arguments: Any) -> None:
        raise errors.TimedOut("no answer")

    monkeypatch.setattr(here.session, "change", lost)
    with pytest.raises(errors.TimedOut):
        here.files.files.flush(handle)
    monkeypatch.setattr(here.session, "change", change)
    give(here, handle, mode=0o600)
    assert seen(there.stat("/f"))["uid"] == 0
    here.close(handle)
    for known in (here.stat("/f"), there.stat("/f")):
        assert (stat.S_IMODE(known.mode), known.uid) == (0o600, 8)
    assert there.read("/f") == b"content"


def test_a_file_that_another_client_has_written_first(here: Machine, there: Machine) -> None:
    """Goal: S6. What was set holds for the file, whose content is another's then, and for the copy."""
    handle = here.create("/f", 0o600)
    here.put(handle, b"mine")
    give(here, handle, mode=0o644, uid=8)
    here.servers.upload(b"others", {})
    here.volume.commit(handle.content.ino, b"others", token=1 << 60)
    with pytest.raises(errors.VersionConflict):
        here.files.files.flush(handle)
    (copy,) = {f"/{name.decode()}" for name in there.names()} - {"/f"}
    for path, data in (("/f", b"others"), (copy, b"mine")):
        known = there.stat(path)
        assert (stat.S_IMODE(known.mode), known.uid, there.read(path)) == (0o644, 8, data)


def test_a_client_that_is_killed(here: Machine, there: Machine) -> None:
    """Goal: S15. What it was owed goes with what was not committed; what was taken from others they do not get."""
    handle = here.create("/f", 0o644)
    here.put(handle, b"secret")
    give(here, handle, mode=0o600)
    give(here, handle, mode=0o4700, mtime_ns=5)
    here.kill()
    (copy,) = {f"/{name.decode()}" for name in there.names()} - {"/f"}
    assert [stat.S_IMODE(there.stat(path).mode) for path in ("/f", copy)] == [0o600, 0o600]
    assert there.read(copy) == b"secret"


@pytest.mark.parametrize("data", [b"content", b""])
def test_fsync_covers_them(here: Machine, data: bytes) -> None:
    """Goal: S10. What is owed is on the directory's disk when fsync() returns."""
    handle = here.create("/f", 0o600)
    here.put(handle, data)
    give(here, handle, mode=0o644)
    counted = asked(here, lambda: here.files.files.flush(handle, durable=True))
    assert stat.S_IMODE(here.volume.at("/f").mode) == 0o644
    assert counted == ({"Commit": 1} if data else {"SetAttributes": 1, "Durable": 1})
    here.close(handle)


def test_a_mount_that_ends(here: Machine, there: Machine) -> None:
    """Goal: what programs have open then is closed, with what it is owed."""
    for name, data in (("full", b"content"), ("empty", b"")):
        handle = here.create(f"/{name}", 0o600)
        here.put(handle, data)
        give(here, handle, mode=0o644)
    here.files.close()
    assert [stat.S_IMODE(there.stat(f"/{name}").mode) for name in ("full", "empty")] == [0o644, 0o644]


def test_a_file_without_a_name(here: Machine, there: Machine) -> None:
    """Goal: one that gets a name before it is closed has what was set by then, once it is committed."""
    handle = here.create_unnamed()
    here.put(handle, b"content")
    give(here, handle, mode=0o644)
    linked = here.files.link((handle.content.ino, ()), place_of("/f"))
    assert stat.S_IMODE(linked.mode) == 0o644
    here.close(handle)
    assert (stat.S_IMODE(there.stat("/f").mode), there.read("/f")) == (0o644, b"content")


def test_a_file_that_was_there_before(here: Machine, there: Machine) -> None:
    """Goal: nothing of it is put off: others see at once what is set while it is written."""
    here.write("/f", b"before")
    handle = here.open("/f", os.O_RDWR)
    here.put(handle, b"after")
    assert asked(here, lambda: give(here, handle, mode=0o666)) == {"SetAttributes": 1}
    assert stat.S_IMODE(there.stat("/f").mode) == 0o666
    here.close(handle)
