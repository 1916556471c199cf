"""Deliberate faults: what the simulator must find, or it is worth nothing. Put into the loaded product, for one run.

A fault is a function that replaces something of the product's modules by what is wrong. To add one:

    1. write the function below, with one line that says what is broken, and decorate it with @fault and the promises
       of docs/SEMANTICS.md that this can break: another one that is found broken is a bug of its own
    2. run `make simulate SEEDS=1000 FAULT=its_name`: a seed must fail, and say which promise is broken
    3. tests/test_simulation_faults.py runs all that are here; nothing else is to be done

What patches a name that is no longer there fails with AttributeError: `replace` never adds one.
"""

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, NamedTuple

CHECK = "check"
"""What `dfs check` looks for in the metadata."""


class Fault(NamedTuple):
    """`promises`: one of these is found broken, in runs that have this kind of disaster if it is said."""

    install: Callable[[], None]
    promises: tuple[str, ...]
    disaster: str


ALL: dict[str, Fault] = {}


def fault(*promises: str, disaster: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    def note(install: Callable[[], None]) -> Callable[[], None]:
        ALL[install.__name__] = Fault(install, promises, disaster)
        return install

    return note


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """`owner.name` becomes what `make` returns for it."""
    setattr(owner, name, make(getattr(owner, name)))


@fault("S6")
def fence_ignored() -> None:
    """A commit under an older token than the file was opened with is taken."""
    import msgspec

    from servers import content

    def make(check: Any) -> Any:
        return lambda tx, inode, request: check(
            tx, inode, msgspec.structs.replace(request, token=max(request.token, inode.fence))
        )

    replace(content, "_check_commit", make)


@fault("S2", "S3", "S4", "S9", "S12", CHECK)
def base_not_compared() -> None:
    """A commit is taken whatever version the file has."""
    from servers import content

    replace(content, "_check_base", lambda check: lambda inode, request: None)


@fault("S2", "S3", "S4", "S9", "S12")
def commit_id_not_compared() -> None:
    """Versions are told apart by their numbers alone, which repeat after a power cut."""
    import msgspec

    from servers import content
    from servers.tree import at_place

    def known_by_number(open_file: Any) -> Any:
        def run(tx: Any, request: Any) -> Any:
            _, inode = at_place(tx, request.base, request.names)
            if request.have_version == inode.version:
                request = msgspec.structs.replace(request, have_commit_id=inode.commit_id)
            return open_file(tx, request)

        return run

    def same_number(check: Any) -> Any:
        def run(inode: Any, request: Any) -> None:
            if request.base_version != inode.version:
                check(inode, request)

        return run

    replace(content, "open_file", known_by_number)
    replace(content, "_check_base", same_number)


@fault("S5", "S9")
def tokens_forgotten_at_restart() -> None:
    """The lock service begins with the same tokens at each start."""
    from servers import directory

    replace(directory, "_next_start", lambda following: lambda tx: 1)


@fault("S8", "S9")
def commit_before_copies() -> None:
    """The primary answers for the others before they have the chunk."""
    import asyncio

    from dfsfuse.messages import Receipt
    from servers.replication import Replication

    def make(copy: Any) -> Any:
        async def run(self: Any, chunk: bytes, body: Any, own: Any, synced: bool) -> Any:
            number = await own()

            async def kept() -> int:
                return number

            later = asyncio.ensure_future(copy(self, chunk, bytes(body), kept, synced))
            later.add_done_callback(lambda done: done.exception())
            return [Receipt(server.name, number) for server in self._known().files]

        return run

    replace(Replication, "copy", make)


@fault("S1", CHECK)
def reply_not_remembered() -> None:
    """A repeated request is executed again."""
    from servers import sessions

    replace(sessions, "remembered", lambda remembered: lambda tx, request: None)


@fault("S7")
def lock_granted_to_the_dead() -> None:
    """Who has closed the connection that waited is granted the lock all the same."""
    from servers.locks import Locks

    replace(Locks, "withdraw", lambda withdraw: lambda self, session, ticket, now: None)


@fault("S5")
def restart_without_waiting() -> None:
    """After its start the lock service grants at once, though clients hold locks of before."""
    from servers.locks import Locks

    replace(Locks, "begin", lambda begin: lambda self, start, sessions, now: begin(self, start, [], now))


@fault("S8")
def garbage_without_receipts() -> None:
    """A file server deletes what the directory has listed, though it has given a receipt for it since."""
    from servers.chunkstore import ChunkStore

    replace(ChunkStore, "delete", lambda delete: lambda self, names, below: delete(self, names, 1 << 62))


@fault("S8", "S9")
def resync_that_skips() -> None:
    """A server that was away, or has a new disk, says that it has what it was asked to look for."""
    from servers.repair import Repairs

    def make(have: Any) -> Any:
        async def run(self: Any, names: list[bytes]) -> set[bytes]:
            return set(names)

        return run

    replace(Repairs, "_have", make)


@fault("S4", disaster="stall_holder")
def gaps_untold() -> None:
    """A copy is made without what is not in the cache, and nobody is told."""
    from dfsfuse import salvage

    replace(salvage, "bring_all", lambda bring_all: lambda content, transfer: [])


@fault("S1", "S2", "S12")
def stale_promise_accepted() -> None:
    """A client goes on using what the directory has called back about."""
    from dfsfuse.attributes import AttributeTable

    replace(AttributeTable, "broken", lambda broken: lambda self, ino, name: None)


@fault("S1", "S2", "S12")
def break_not_waited_for() -> None:
    """A change is made, and answered, while clients have not heard that their promises are broken."""
    from servers.callbacks import Callbacks

    def make(when_heard: Any) -> Any:
        async def run(self: Any, by: Any, touches: Any, waits: Any, touched: Any, apply: Any) -> Any:
            reply = apply()
            return await reply if isawaitable(reply) else reply

        return run

    replace(Callbacks, "_when_heard", make)


@fault("S5", "S6")
def recalled_lock_used() -> None:
    """A client gives back a lock that it has kept, as another one wants it, and takes it for its own all the same."""
    from dfsfuse.locks import LockTable

    def make(is_used: Any) -> Any:
        def run(self: Any, wanted: Any) -> Any:
            kept, used = self._kept.get(wanted.ino), is_used(self, wanted)
            if kept is not None and not used:
                self._kept.add(kept)
            return used

        return run

    replace(LockTable, "_is_used", make)


@fault("S1", disaster="crowd")
def name_promised_by_its_folder() -> None:
    """What a name leads to counts as promised where its folder is, though another client is about to change it."""
    from dfsfuse.known_names import Folder

    replace(Folder, "put", lambda put: lambda self, name, ino, asked_at, promised: put(self, name, ino, asked_at, True))


@fault("S2", "S3", "S4", "S12", disaster="all_power")
def late_syncs() -> None:
    """Servers bring what they have to their disks once in a second and a half."""
    from servers import regular_syncs

    replace(regular_syncs, "SYNC_EVERY_S", lambda every_s: 1.5)


@fault("S8")
def silence_forgotten() -> None:
    """A server that was stopped or cut off serves as soon as it is heard again, whatever it lacks."""
    from servers.passed_over import PassedOver

    replace(PassedOver, "add", lambda add: lambda self, name, anew: None)


@fault(CHECK)
def short_for_ever() -> None:
    """What nobody needs any more goes on counting as lacking."""
    from servers import short_rows

    replace(short_rows, "forget", lambda forget: lambda tx, chunks: None)


@fault("S10")
def fsync_of_any_version() -> None:
    """What a power cut has taken from the directory counts as there, whatever the file has in its place."""
    from servers import versions

    replace(versions, "has_had", lambda has_had: lambda tx, ino, inode, version, commit_id: True)


@fault("S2", "S4", "S10", disaster="files_power")
def fsync_of_what_servers_had() -> None:
    """A file server that lost power counts as one that has what it had before."""
    from servers.group import Group

    replace(Group, "_has", lambda has: lambda self, name, needs: True)


@fault("S10")
def fsync_without_disks() -> None:
    """Nothing is brought to the disks of what was committed before."""
    from dfsfuse.syncing import Syncing

    replace(Syncing, "_sync_version", lambda sync: lambda self, content: None)
