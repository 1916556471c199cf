"""Several lock servers of one volume, of which one serves, elected through etcd.

Nothing is kept between terms: a term is a start with a number of its own, which the directory gives, and clients bring
their locks, as they do to a lock server that has started again.

Threads: as servers/standing.py has it.
"""

from collections.abc import Callable
from pathlib import Path

from dfsfuse import errors
from dfsfuse.etcd_address import EtcdAddress
from servers.etcd.client import EtcdClient
from servers.etcd.election import Election, Term
from servers.etcd.keys import Keys
from servers.etcd.vacancy import Elected, Vacancy
from servers.http import App, serve
from servers.lock_service import LockService, boot_time_s, description_of, stay_registered
from servers.locks import Locks
from servers.peers import Peers
from servers.registration import reachable_url
from servers.standing import Service, Standing

_OVER = "this lock server does not serve any more: another one may"


async def run(
    home: Path, host: str, port: int, token: str, directory_url: str, address: EtcdAddress, volume: str
) -> None:
    """Stand by, and serve the volume's locks when elected, until SIGTERM. Nothing is kept in `home`."""
    client, keys, peers = EtcdClient(address), Keys(address.below("volume", volume)), Peers(token)
    url, app = reachable_url(host, port, directory_url), App(token, {})

    def take_up(elected: Elected) -> Service:
        core = Locks()
        service = LockService(core, description_of(url))
        serving = _serve(service, core, peers, directory_url, lambda: _check(elected.term))
        return Service(service.operations(), [serving], lambda: None)

    standing = Standing(app, url, take_up)
    election = Election(client, keys.locking, url.encode(), boot_time_s)
    try:
        await serve(app, host, port, standing.run(Vacancy(client, election, standing.seen)))
    finally:
        client.close()
        await peers.close()


async def _serve(
    service: LockService, core: Locks, peers: Peers, directory_url: str, check: Callable[[], None]
) -> None:
    try:
        await stay_registered(service, core, peers, directory_url, check)
    finally:
        service.give_up(errors.NotServing(_OVER))


def _check(term: Term) -> None:
    """One that stood still does not tell the directory that it is the one, when another serves already."""
    if not term.is_on:
        raise errors.NotServing(_OVER)
