"""Requests that change something in a term: each takes effect once, in order, and only in that term.

    base/sent    the number of the latest request

A request names the one that it follows (the revision at which `sent` was last changed) and writes its own number there.
So one that was taken for lost and arrives late, after others, changes nothing; and one whose answer was lost is found
done. The term it names by the revision at which its key was made.

Threads: one at a time.
"""

import logging
import time
from collections.abc import Callable

from dfsfuse import errors
from servers.etcd.client import EtcdClient
from servers.etcd.election import Term
from servers.etcd.messages import Change, Compare, Put, RangeRequest, Target, TxnReply

log = logging.getLogger(__name__)

_PAUSE_S = 0.05
_REFUSED_S_MAX = 5.0
"""For so long etcd may refuse a request for other reasons than that it cannot be reached. Then this server does not
serve any more: what it has told nobody of is dropped, and another one begins with what etcd has."""


class Sender:
    """`begin` comes first. Raises NotServing when the term is over."""

    def __init__(self, client: EtcdClient, term: Term, sent: bytes, clock: Callable[[], float] = time.monotonic):
        self._client, self._term, self._sent, self._clock = client, term, sent, clock
        self._number, self._revision = 0, 0

    def begin(self) -> None:
        """What the term before has sent last. Raises Unreachable."""
        known = self._client.get(self._sent)
        if known is not None:
            self._number, self._revision = int(known.value), known.mod_revision

    def send(self, changes: list[Change]) -> int:
        """The revision at which the changes were made. Asked again as long as the term lasts."""
        since_s = self._clock()
        while True:
            self.check()
            try:
                return self._done(self._ask(changes))
            except errors.Unreachable:
                since_s = self._clock()
            except errors.ServerError as error:
                self._refused(error, since_s)
            time.sleep(_PAUSE_S)

    @property
    def is_on(self) -> bool:
        return self._term.is_on

    def check(self) -> None:
        if not self._term.is_on:
            raise errors.NotServing("this server does not serve any more: another one may")

    def _ask(self, changes: list[Change]) -> TxnReply:
        follows = Compare(self._sent, Target.MOD, mod_revision=self._revision)
        mine = Change(request_put=Put(self._sent, b"%d" % (self._number + 1)))
        looks = [Change(request_range=RangeRequest(key)) for key in (self._sent, self._term.key)]
        timeout_s = max(0.05, self._term.left_s)
        return self._client.transact([self._term.holds(), follows], [mine, *changes], looks, timeout_s)

    def _done(self, reply: TxnReply) -> int:
        revision = reply.header.revision if reply.succeeded else self._found(reply)
        self._number, self._revision = self._number + 1, revision
        return revision

    def _found(self, reply: TxnReply) -> int:
        """It was done before, and its answer was lost; or the term is over."""
        sent, serving = ([*answer.response_range.kvs] for answer in reply.responses)
        mine = bool(serving) and serving[0].create_revision == self._term.revision
        if not mine or not sent or int(sent[0].value) != self._number + 1:
            self._term.end()
            self.check()
        return sent[0].mod_revision

    def _refused(self, error: errors.ServerError, since_s: float) -> None:
        if isinstance(error, errors.NotServing):
            raise error
        log.error("etcd refuses a change: %s", error)
        if self._clock() - since_s > _REFUSED_S_MAX:
            self._term.end()
            self.check()
