"""Watching: one request waits at the directory all the time for what breaks this client's promises.

Each Watch renews the lease of the promises, which counts from when it was SENT, and says that what the one before has
told is heard: that is so once it is in the tables, and waits for nothing else, above all not for the kernel, which may
wait for a request whose answer waits for this client to hear.

Threads: one of its own.
"""

import logging
import threading

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.messages import Watch, Watched
from dfsfuse.session import Session, boottime_s

log = logging.getLogger(__name__)

_ANSWER_S = 2.5
"""The directory answers within a second, and a lease is longer than this."""
_PAUSE_S = 0.05
_JOIN_S = 0.5


class Watching:
    """`start` begins, `close` ends it; the end of the session ends the request that waits."""

    def __init__(self, session: Session, attributes: AttributeTable):
        self._session, self._attributes = session, attributes
        self._epoch = self._heard = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch_for_ever, name="watch", daemon=True)
        session.on_new_session(attributes.end_lease)
        session.on_doubt(attributes.in_doubt)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def watch(self) -> None:
        """Wait once for what the directory has to tell."""
        table, session = self._attributes, self._session
        request = Watch(
            session=session.id, epoch=self._epoch, heard=self._heard, dropped=table.dropped(), doubts=table.doubts()
        )
        sent_s = boottime_s()
        watched: Watched = session.rpc.call(session.url, "watch", request, Watched, _ANSWER_S)
        if request.session == session.id:
            self._take(request, watched, sent_s)

    def _take(self, request: Watch, watched: Watched, sent_s: float) -> None:
        table = self._attributes
        if watched.void:
            table.end_lease()
            self._epoch, self._heard = watched.epoch, 0
        for event in watched.events:
            table.broken(event.ino, event.name)
        self._heard = max(self._heard, watched.number)
        table.drop_heard(request.dropped)
        table.lease(sent_s + self._session.lease_s, request.doubts)

    def _watch_for_ever(self) -> None:
        silent = False
        while not self._stopping.is_set():
            try:
                self.watch()
                silent = False
            except errors.DfsError as error:
                if not silent and not self._stopping.is_set():
                    log.info("the directory cannot call back; it is asked about everything meanwhile: %s", error)
                silent = True
                self._stopping.wait(_PAUSE_S)
            except Exception:
                log.exception("watching failed")
                self._stopping.wait(_PAUSE_S)
