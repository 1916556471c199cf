"""Each engine of stores, for tests that all of them must pass."""

import atexit
import contextlib
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from etcd_servers import EtcdServers, etcd_servers

from servers.etcd.client import EtcdClient
from servers.etcd.election import Election
from servers.etcd.keys import Keys
from servers.etcd.room import Room
from servers.etcd.sender import Sender
from servers.store import Store, after_prefix
from servers.store.etcd import EtcdStore
from servers.store.memory import MemoryStore
from servers.store.sqlite import SqliteStore


@contextlib.contextmanager
def engine(name: str, folder: Path) -> Iterator[Store]:
    """An empty store. What etcd has in the end is what its copy has."""
    if name == "etcd":
        with _etcd_store(folder) as store:
            yield store
        return
    store = MemoryStore() if name == "memory" else SqliteStore(folder / "directory.db")
    try:
        yield store
    finally:
        store.close()


@cache
def _etcd() -> EtcdServers:
    """One member for all tests of this process: what several do is tested elsewhere."""
    running = contextlib.ExitStack()
    atexit.register(running.close)
    return running.enter_context(etcd_servers(1))


@contextlib.contextmanager
def _etcd_store(folder: Path) -> Iterator[EtcdStore]:
    client = EtcdClient(_etcd().address())
    keys = Keys(client.address.prefix)
    term = Election(client, keys.serving, b"test", time.monotonic).try_once()
    sender, room = Sender(client, term, keys.sent), Room(client, 1 << 40)
    store = EtcdStore(sender, SqliteStore(folder / "copy.db"), keys.data, keys.redo, room)
    try:
        yield store
        store.sync()
        pairs = client.range(keys.data, after_prefix(keys.data)).kvs
        found = [(pair.key.removeprefix(keys.data), pair.value) for pair in pairs]
        assert found == store.read(lambda tx: tx.range(b"", b"\xff" * 40, 1 << 30))
    finally:
        term.end()
        store.close()
        client.close()
