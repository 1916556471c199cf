"""Who waits to serve, and needs nothing but to be elected.

Threads: `wait` runs in one of its own; `stop` may be called from any.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from servers.etcd.client import Compacted, EtcdClient
from servers.etcd.election import Election, Holder, Term

log = logging.getLogger(__name__)

_SILENCE_S = 1.0
PAUSE_S = 0.1


class Ended(Exception):
    """`stop` was called."""


class Elected(NamedTuple):
    term: Term

    def give_up(self) -> None:
        self.term.end()


class Vacancy:
    """`on_holder` is told of each who is seen to serve."""

    def __init__(self, client: EtcdClient, election: Election, on_holder: Callable[[Holder | None], None]):
        self._client, self._election, self._on_holder = client, election, on_holder
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def wait(self) -> Elected:
        """Until this one is elected. Raises Ended."""
        while not self._stopping.is_set():
            try:
                holder = self._election.holder()
                self._on_holder(holder)
                found = holder or self._election.try_once()
                if isinstance(found, Term):
                    return Elected(found)
                self._on_holder(found)
                self._until_gone(found)
            except (errors.DfsError, Compacted) as error:
                log.warning("etcd: %s", error)
                self._stopping.wait(PAUSE_S)
        raise Ended

    def _until_gone(self, holder: Holder) -> None:
        """Until its term is over, or for a while."""
        key = self._election.key
        try:
            for told in self._client.watch(key, b"", holder.revision + 1, _SILENCE_S):
                if self._stopping.is_set() or any(event.type == "DELETE" for event in told.events):
                    return
        except errors.Unreachable:
            # As a rule nothing was told.
            return
