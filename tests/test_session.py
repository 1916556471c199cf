"""The client's session with a directory that does not answer, or has lost power."""

from typing import Any

import pytest
from msgspec import structs
from support import wait_until
from volumes import FOLDER, Volume

from dfsfuse import errors, session
from dfsfuse.messages import Begun, Cluster, Create, InodeRange, Made, Message, Renewed, Server
from dfsfuse.session import Identity, Session
from servers.store.memory import MemoryStore

CLUSTER = Cluster(volume="v", copies=3, copies_min=2)


class Directory:
    """Stands for the connection to it. While `silent` it answers no renewal."""

    def __init__(self) -> None:
        self.silent = False
        self.renewals = 0
        self.files = [Server(kind="files", name=name, url=name, up=True, free_bytes=1 << 30) for name in "ABC"]

    def call(self, url: str, operation: str, request: Message, reply: type, *_: object) -> Any:
        if reply is Begun:
            return Begun(session=1, lease_s=4.0, inodes=InodeRange(1, 1), cluster=CLUSTER)
        if self.silent:
            raise errors.Unreachable("silent")
        self.renewals += 1
        files = [structs.replace(server) for server in self.files]
        return Renewed(cluster=structs.replace(CLUSTER, files=files), free_bytes=1 << 30)


def test_renewals_go_on_after_the_cluster_was_not_found(monkeypatch):
    """Goal: neither the directory nor the cluster can be found for a while: the session is renewed once they can."""
    monkeypatch.setattr(session, "RENEW_EVERY_S", 0.01)
    directory, looks = Directory(), []

    def refind() -> str:
        looks.append(1)
        raise errors.TimedOut("the cluster does not start")

    made = Session(directory, "", Identity("host", 1, "/m", "user"), 5.0, refind)
    made.start()
    before, directory.silent = directory.renewals, True
    wait_until(lambda: len(looks) >= 2, "it looks for the cluster again and again", 5)
    directory.silent = False
    try:
        wait_until(lambda: directory.renewals > before + 1, "it is renewed", 5)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("field", "value"), [("up", False), ("syncing", True), ("free_bytes", 0), ("url", "elsewhere")]
)
def test_what_becomes_of_servers_is_told(field: str, value: object):
    """Goal: who waits for servers hears when the directory tells that one has come or gone, serves or has room; and not
    while nothing of that changes."""
    directory, told = Directory(), []
    made = Session(directory, "", Identity("host", 1, "/m", "user"), 5.0)
    made.renew()
    made.on_servers_changed(lambda: told.append(1))
    directory.files[1].stored_bytes = 7
    made.renew()
    assert told == []
    setattr(directory.files[1], field, value)
    for _ in range(2):
        made.renew()
    assert told == [1]


def test_a_change_that_is_given_up():
    """Goal: who asks for a change may want it no more while the directory is silent; its slot, of which nobody knows
    where it is, is not used again."""
    directory, asked = Directory(), []
    made = Session(directory, "", Identity("host", 1, "/m", "user"), 5.0)

    def silent(url: str, operation: str, request: Message, *_: object) -> Any:
        asked.append(request.slot)
        raise errors.Unreachable("silent")

    directory.call = silent
    with pytest.raises(errors.Interrupted):
        made.change(Create(names=[b"one"], ino=0, mode=FOLDER), Made, interrupted=lambda: len(asked) > 1)
    with pytest.raises(errors.Interrupted):
        made.change(Create(names=[b"one"], ino=0, mode=FOLDER), Made, interrupted=lambda: True)
    assert asked == [1, 1, 2]


class RealCore:
    """The directory's own core in the place of the connection to it; `asked` has the slots of changes. A power cut
    takes what happened since `save`; one that comes `before_reply` takes what was just executed."""

    def __init__(self, volume: Volume):
        self._volume, self.asked, self.before_reply = volume, [], False
        self.save()

    def save(self) -> None:
        self._saved = list(self._volume.store.keys), dict(self._volume.store.values)

    def lose_power(self) -> None:
        self._volume.store.keys, self._volume.store.values = list(self._saved[0]), dict(self._saved[1])
        self._volume.restart()

    def call(self, url: str, operation: str, request: Message, reply: type, *_: object) -> Any:
        if operation == "begin":
            return self._volume.core.begin(request, self._volume.now_s)
        self.asked.append(request.slot)
        answer = self._volume.change(request)
        if self.before_reply:
            self.before_reply = False
            self.lose_power()
            raise errors.Unreachable("power is cut")
        return answer


@pytest.mark.parametrize("before_reply", [False, True])
def test_a_change_after_a_power_cut_of_the_directory(before_reply: bool):
    """Goal: the directory has lost the latest change of a slot, or the one that is being asked for: what a program asks
    for is executed, once, without an error; and slots are used again afterwards."""
    volume = Volume(MemoryStore())
    core = RealCore(volume)
    made = Session(core, "", Identity("host", 1, "/m", "user"), 5.0)
    make = lambda name: made.change(Create(names=[name], ino=0, mode=FOLDER), Made)  # noqa: E731
    make(b"first")
    core.save()
    make(b"second")
    core.before_reply = before_reply
    if not before_reply:
        core.lose_power()
    make(b"third")
    make(b"fourth")
    assert volume.paths() == ["/first", "/fourth", "/third"]
    assert core.asked == [1, 1, *([1] if before_reply else []), 1, 2, 2]
    volume.check()
