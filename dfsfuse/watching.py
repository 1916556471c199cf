"""Watching: one request waits at the directory all the time for what breaks this client's promises.

Each Watch renews the lease of the promises, which counts from when it was SENT, and says that what the one before has
told is heard: that is so once it is in the tables, and waits for nothing else, above all not for the kernel, which may
wait for a request whose answer waits for this client to hear. What this client still owes an inode that is about to be
changed (owed_attributes.py) goes along, as it was set before.

Threads: one of its own (long_poll.py).
"""

from collections.abc import Callable

from dfsfuse.attributes import AttributeTable
from dfsfuse.long_poll import LongPoll
from dfsfuse.messages import Owed, OwedAttributes, Watch, Watched
from dfsfuse.session import Session, boottime_s

TakeOwed = Callable[[int], OwedAttributes | None]
_ANSWER_S = 2.5
"""The directory answers within a second, and a lease is longer than this."""
_SILENCE = "the directory cannot call back; it is asked about everything meanwhile"


class Watching:
    """`start` begins, `stop` ends it."""

    def __init__(self, session: Session, attributes: AttributeTable):
        self._session, self._attributes = session, attributes
        self._epoch = self._heard = self._number = 0
        self._take_owed: TakeOwed = lambda ino: None
        self._owed: dict[int, OwedAttributes] = {}
        poll = LongPoll("watch", self.watch, _SILENCE)
        self.start, self.stop, self.join = poll.start, poll.stop, poll.join
        session.on_new_session(attributes.end_lease)
        session.on_doubt(attributes.in_doubt)

    def pay_with(self, take_owed: TakeOwed) -> None:
        """`take_owed(inode number)` is what an inode is owed, and is not any more."""
        self._take_owed = take_owed

    def watch(self) -> None:
        """Wait once for what the directory has to tell."""
        table, session = self._attributes, self._session
        self._number += 1
        request = Watch(
            session=session.id, epoch=self._epoch, number=self._number, heard=self._heard, dropped=table.dropped(),
            doubts=table.doubts(), owed=[Owed(*owed) for owed in self._owed.items()],
        )  # fmt: skip
        sent_s = boottime_s()
        url = session.url
        moved = lambda: session.url != url  # noqa: E731
        watched: Watched = session.rpc.call(url, "watch", request, Watched, _ANSWER_S, moved, patient=True)
        if request.session == session.id:
            self._take(request, watched, sent_s)

    def _take(self, request: Watch, watched: Watched, sent_s: float) -> None:
        table = self._attributes
        if watched.void:
            table.end_lease()
            self._epoch, self._heard = watched.epoch, 0
        self._owed.clear()
        for event in watched.events:
            table.broken(event.ino, event.name)
            owed = self._take_owed(event.ino)
            if owed is not None:
                self._owed[event.ino] = owed
        self._heard = max(self._heard, watched.number)
        table.drop_heard(request.dropped)
        table.lease(sent_s + self._session.lease_s, request.doubts)
