"""Several directory servers of one volume on etcd, of which one serves.

    home/copy-*.db    this server's copy of all keys; made anew at each start

Threads: as servers/standing.py and servers/store/etcd.py have it.
"""

import itertools
from pathlib import Path

from dfsfuse import errors
from dfsfuse.etcd_address import EtcdAddress
from servers.directory_service import DirectoryService, boottime_s
from servers.etcd.candidate import Candidate, Elected
from servers.etcd.client import EtcdClient
from servers.etcd.election import Election
from servers.etcd.keys import Keys
from servers.etcd.room import Room
from servers.http import App, serve
from servers.registration import reachable_url
from servers.standing import Service, Standing
from servers.store.etcd import EtcdStore
from servers.store.sqlite import SqliteStore

_ANY = ("", "0.0.0.0", "::")


class Copies:
    """Files for copies of all keys. None is worth keeping."""

    def __init__(self, home: Path):
        self._home, self._numbers = home, itertools.count(1)
        for left in home.glob("copy-*.db*"):
            left.unlink()

    def make(self) -> SqliteStore:
        for before in self._home.glob("copy-*.db*"):
            before.unlink()
        return SqliteStore(self._home / f"copy-{next(self._numbers)}.db")


async def run(home: Path, host: str, port: int, token: str, copies: int, address: EtcdAddress, volume: str) -> None:
    """Stand by, and serve the volume when elected, until SIGTERM."""
    client, keys = EtcdClient(address), Keys(address.below("volume", volume))
    url, app = reachable_url(host, port, address.endpoints[0]), App(token, {})
    if host in _ANY and "//127." in url:
        raise errors.BadRequest(f"others would be told of {url}: give the address of this host, --host ADDRESS")

    def take_up(elected: Elected) -> Service:
        room = Room(client, address.quota_bytes)
        store = EtcdStore(elected.sender, elected.copy, keys.data, keys.redo, room)
        service = DirectoryService(store, copies, url)
        room.start()

        def close() -> None:
            service.close()
            room.close()
            store.close()

        return Service(service.operations(), service.beside(), close)

    standing = Standing(app, url, take_up)
    election = Election(client, keys.serving, url.encode(), boottime_s)
    candidate = Candidate(client, keys, election, Copies(home).make, standing.seen)
    try:
        await serve(app, host, port, standing.run(candidate))
    finally:
        client.close()
