"""fsync(): all that is read through a descriptor is on the disks of servers, and in its file, whoever has written it.

    written here and not committed   is committed, by whoever has it open for writing, or under a lock of its own
    committed by anybody             the file servers sync, then the directory is asked

The directory answers when its own disk has all. Whatever has started again before is known to it then: of a server that
lost power it counts what it knows that server to have on its disk; where the directory itself lost power, the file has
the content, or something that was made after it, only if it says so. What the file has lost is sent once more.

Threads: any; nothing is held across requests.
"""

from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.handles import writers_of
from dfsfuse.messages import Durable, Nothing
from dfsfuse.sending import Sending
from dfsfuse.session import Session
from dfsfuse.sharing import Sharing
from dfsfuse.transfer import Transfer
from dfsfuse.unsent import Unsent

_ATTEMPTS_MAX = 5


class Syncing:
    def __init__(self, session: Session, transfer: Transfer, sending: Sending, unsent: Unsent, sharing: Sharing):
        self._session, self._transfer = session, transfer
        self._sending, self._unsent, self._sharing = sending, unsent, sharing

    def sync(self, content: Content, sent: bool) -> None:
        """`sent`: what was written is, as far as this call answers for it. Raises what a commit raises."""
        if not sent and (content.changed or content.unseen.writers):
            self._send(content)
        for _ in range(_ATTEMPTS_MAX):
            if content.failed is not None:
                raise content.failed
            try:
                return self._sync(content)
            except (errors.Lost, errors.Stale) as error:
                self._sending.note_lost(content, error)
            self._send(content)
        raise errors.Lost("servers lose what is sent, again and again; it is kept here, and sent when they do not")

    def _send(self, content: Content) -> None:
        if any(self._sharing.may_commit(writer) for writer in writers_of(content)):
            self._sending.send(content, durable=True)
        elif content.changed:
            self._unsent.send_now(content)

    def _sync(self, content: Content) -> None:
        """What is committed, and what was set here of the file's attributes."""
        if content.synced and content.attributes_synced:
            return
        content.attributes_synced = True
        try:
            if content.synced:
                self._session.sync()
            else:
                self._sync_version(content)
        except BaseException:
            content.attributes_synced = False
            raise

    def _sync_version(self, content: Content) -> None:
        """Raises Lost, or Stale, where the file has not got it."""
        with content.mutex:
            request = Durable(ino=content.ino, version=content.version, commit_id=content.commit_id)

        def check(synced: set[str], left_s: float | None = None) -> None:
            request.synced = sorted(synced)
            self._session.query(request, Nothing, timeout_s=left_s)

        if request.version:
            self._transfer.sync_until(check)
        else:
            check(set())
        with content.mutex:
            if (content.version, content.commit_id) == (request.version, request.commit_id):
                content.synced = True
                content.ancestors.forget()
