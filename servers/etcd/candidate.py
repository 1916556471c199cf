"""Who waits to serve, with a copy of all keys that follows etcd, so that it can at once.

Its own election is among what changes, so when its copy has come to that it has all that was before. Whatever goes
wrong meanwhile, it begins anew.

Threads: `wait` runs in one of its own; `stop` may be called from any.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from servers.etcd.client import Compacted, EtcdClient
from servers.etcd.copying import Copy
from servers.etcd.election import Election, Holder, Term
from servers.etcd.keys import Keys
from servers.etcd.sender import Sender
from servers.etcd.vacancy import PAUSE_S, Ended
from servers.etcd.writes import Redo
from servers.store.sqlite import SqliteStore

log = logging.getLogger(__name__)


class Elected(NamedTuple):
    """The copy has all that was there when the term began."""

    term: Term
    sender: Sender
    copy: SqliteStore

    def give_up(self) -> None:
        self.term.end()
        self.copy.close()


class Candidate:
    """`make_copy()` gives an empty store. `on_holder` is told of each who is seen to serve, None: nobody."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        election: Election,
        make_copy: Callable[[], SqliteStore],
        on_holder: Callable[[Holder | None], None],
    ):
        self._client, self._keys, self._election = client, keys, election
        self._make_copy, self._on_holder = make_copy, on_holder
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def wait(self) -> Elected:
        """Until this one is elected. Raises Ended."""
        while not self._stopping.is_set():
            try:
                self._on_holder(self._election.holder())
                return self._with_copy()
            except (errors.DfsError, Compacted) as error:
                log.warning("this candidate begins anew: %s", error)
                self._stopping.wait(PAUSE_S)
        raise Ended

    def _with_copy(self) -> Elected:
        copy = Copy(self._client, self._keys, self._make_copy(), self._stopping.is_set)
        try:
            copy.load()
            while not self._stopping.is_set():
                elected = self._look(copy)
                if elected is not None:
                    return elected
            raise Ended
        except BaseException:
            copy.close()
            raise

    def _look(self, copy: Copy) -> Elected | None:
        """While etcd does not answer the copy stays."""
        try:
            holder = self._election.holder()
            self._on_holder(holder)
            found = holder or self._election.try_once()
            if isinstance(found, Term):
                return self._begin(found, copy)
            # Another one may just have been elected; while there is much to follow nobody is looked for again.
            self._on_holder(found)
            copy.follow()
        except errors.Unreachable as error:
            log.warning("etcd does not answer: %s", error)
            self._stopping.wait(PAUSE_S)
        return None

    def _begin(self, term: Term, copy: Copy) -> Elected:
        """What was there before the term, and what the one before has begun, is in the copy."""
        try:
            sender = Sender(self._client, term, self._keys.sent)
            sender.begin()
            self._catch_up(sender, copy, term.revision)
            revision = term.revision
            for changes in Redo(self._keys.data, self._keys.redo).left(self._client):
                revision = sender.send(changes)
            self._catch_up(sender, copy, revision)
            return Elected(term, sender, copy.store)
        except BaseException:
            term.end()
            raise

    def _catch_up(self, sender: Sender, copy: Copy, revision: int) -> None:
        while copy.revision < revision:
            sender.check()
            copy.follow(revision)
