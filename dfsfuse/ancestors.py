"""From which contents of its file a content was made here, by commits that a power cut of servers may take back.

What the servers have lost the client still has. Where the file has gone back to one of these, nobody has changed it
since, so this content can be put upon that. It is noted with each commit, and forgotten when the content is on disks:
then no power cut takes it back.

A directory that does not know the session any more has lost more than a power cut takes: its metadata was loaded from a
dump, which people do to have what was then. So what was committed in another session counts for nothing.

Pure. Threads: `Content.mutex` is held.
"""

from dfsfuse.messages import id_after_loss

ANCESTORS_MAX = 256
_LOSSES = 3
"""So often a file goes back further, as what it has gone back to turns out to be lost too."""


class Ancestors:
    """Each is (version, commit id). False where there is none: this client has committed nothing that may be lost."""

    __slots__ = ("_known", "_session")

    def __init__(self) -> None:
        self._known: list[tuple[int, bytes]] = []
        self._session = 0

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, version: int, commit_id: bytes, session: int) -> None:
        """The content that was just replaced by a commit of this session; the oldest are forgotten beyond
        ANCESTORS_MAX."""
        if session != self._session:
            self.forget()
        self._session = session
        self._known.append((version, commit_id))
        del self._known[:-ANCESTORS_MAX]

    def forget(self) -> None:
        self._known.clear()

    def include(self, version: int, commit_id: bytes, descendant: bytes, session: int) -> bool:
        """Is this content of the file one of them, or what it has gone back to from one of them, or from the content
        with the commit id `descendant`, when servers had lost their chunks?"""
        if session != self._session:
            return False
        if (version, commit_id) in self._known:
            return True
        lost = {descendant, *(known for _, known in self._known)} - {b""}
        for _ in range(_LOSSES):
            lost = {id_after_loss(known) for known in lost}
            if commit_id in lost:
                return True
        return False
