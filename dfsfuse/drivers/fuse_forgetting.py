"""What the kernel was told, until it is told that this is over.

Names and attributes that the directory has promised are given to the kernel for long; when a promise is broken, the
kernel is to ask again. That is said by a thread of its own, after the directory has been told that the event is heard:
the kernel may hold a folder's lock for a request whose answer waits for another client to hear. What a program sees
meanwhile is at most as old as that; opens are the file system's to judge, and are never by what the kernel has.

A request that was begun before an event may be answered after it, with what was true before. So whoever has answered
looks whether anything was broken since the request was begun, and has that said once more. (An open is answered with
nothing that the kernel would go on using.)

A name is forgotten by itself; where a folder as a whole is not promised any more, all names are, by a new epoch, and
looked up again as they are used (Linux 6.16; without that, nothing is told for long).

An answer about attributes that such a notification overtakes is not taken, and a read that has asked goes on with the
size that the kernel knew before. So nothing is said again that an open has said since: the program that has opened the
file reads it next. And a program that locks a file must read it to its end, so while programs share a file by
locks the kernel asks each time, and is told before a lock is granted that the content is another one (`content_over`),
and nothing else.

With that the kernel gets the last byte, as it was when it was asked for. A program that has locked other bytes may
write that one meanwhile, and the kernel's page have it before the notification comes: then that is to be forgotten too.
What was written when the kernel has been told is seen by looking at the byte again; what is on its way is seen when it
is `written`.

A page that the kernel has forgotten while a program's write to it was on its way may come back without what was written
(fuse_late_reads.py), and is forgotten once more.

Threads: `broken` and `answered` are called by any, and never wait. One thread tells the kernel; pages that are written
to meanwhile are forgotten by a thread of their own, as that waits for who has a page locked.
"""

import functools
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable

from dfsfuse.content import Content
from dfsfuse.drivers.fuse_channel import Notifier
from dfsfuse.drivers.fuse_late_reads import LateReads, Read
from dfsfuse.drivers.fuse_nodes import Node, Nodes
from dfsfuse.messages import EVERYTHING

log = logging.getLogger(__name__)

_LATEST_MAX = 4096
_STOP_S = 0.5
_FORGET_S = 0.2
_ALL = EVERYTHING, b""


class Forgetting:
    """`count` is the number of events so far, and `said` that of what the kernel was to be told."""

    def __init__(self, nodes: Nodes, notifier: Notifier):
        self._nodes, self._notifier = nodes, notifier
        self._latest: deque[tuple[int, bytes]] = deque(maxlen=_LATEST_MAX)
        self.count = 0
        self._mutex = threading.Lock()
        self.said = 0
        self._due: queue.SimpleQueue[tuple[float, int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell_for_ever, name="fuse-forget", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A thread that waits for a folder's lock, whose holder nobody answers any more, is left."""
        self._due.put(None)
        self._thread.join(_STOP_S)

    def broken(self, ino: int, name: bytes) -> None:
        """As in an event (messages/promises.py)."""
        with self._mutex:
            self._latest.append((ino, name))
            self.count += 1
            self.said += 1
            self._due.put((self.said, ino, name))

    def answered(self, count: int, said: float) -> None:
        """A request has been answered that was begun when there had been `count` events, and now there are more. So
        much was `said` just before the answer: what an open has told since was told after it. With math.inf all is
        said again: of what was told before such an answer nothing counts any more."""
        with self._mutex:
            missed = self.count - count
            for event in [_ALL] if missed > len(self._latest) else list(self._latest)[-missed:]:
                self._due.put((said, *event))

    def _tell_for_ever(self) -> None:
        while (event := self._due.get()) is not None:
            try:
                number, ino, name = event
                self.tell(ino, name, number)
            except Exception:
                log.exception("the kernel could not be told that inode %d has changed", event[1])

    def tell(self, ino: int, name: bytes, number: float = math.inf) -> None:
        """`number` counts what was to be said."""
        if ino == EVERYTHING:
            self._notifier.names_changed()
            for node in self._nodes.all():
                self._over_unless_said(node, number)
                if node.folder is not None:
                    self._notifier.content_changed(node.id)
            return
        if not self._nodes.is_folder(ino):
            for node in self._nodes.nodes_of(ino):
                self._over_unless_said(node, number)
            return
        if name:
            self._notifier.name_changed(ino, name)
        else:
            self._notifier.names_changed()
        self._notifier.content_changed(ino)

    def _over_unless_said(self, node: Node, number: float) -> None:
        if node.said < number:
            self.attributes_over(node)

    def attributes_over(self, node: Node) -> None:
        """The kernel is to ask for the attributes of a node, unless it does so each time."""
        said = self.said
        if self._nodes.may_hold(node) and _is_over(node, self._notifier.attributes_changed):
            node.said = max(node.said, said)

    def content_over(self, content: Content, ino: int) -> None:
        """It forgets the pages too, and knows of a content that has grown how long it is: it appends where it takes the
        end to be, without asking. Not from a thread that answers a read or a write."""
        for node in self._nodes.nodes_of(ino):
            _is_over(node, self._notifier.content_changed)
            if node.content is content:
                self._tell_end(node, content)

    def _tell_end(self, node: Node, content: Content) -> None:
        size, last = content.end()
        if not last:
            return
        self._notifier.store(node.id, last, size - 1)
        node.stored = size - 1
        if content.end() != (size, last):
            _is_over(node, self._notifier.content_changed)

    def begin_read(self, node: Node, read: Read) -> None:
        """Through its pages, while programs have it open for writing; nothing is answered yet."""
        reads = node.late_reads
        if reads is None:
            with self._mutex:
                reads = node.late_reads = node.late_reads or LateReads()
        reads.begin(read)

    def written(self, node: Node, unique: int, start: int, end: int) -> None:
        """A program has written these bytes through the node by request `unique`, and is about to be answered."""
        if start <= node.stored < end:
            node.stored = -1
            self._forget_pages(node)
        reads = node.late_reads
        late = reads.of(unique, start, end) if reads is not None else None
        if late is not None:
            self._forget_pages(node, *late)

    def _forget_pages(self, node: Node, start: int = 0, end: int = 0) -> None:
        """Before the writer is answered. Where this write itself has a page of them locked, or somebody else for longer
        than _FORGET_S, it is soon after."""
        tell = functools.partial(self._notifier.content_changed, start=start, end=end)
        thread = threading.Thread(target=_is_over, args=(node, tell), name="fuse-forget-page", daemon=True)
        thread.start()
        thread.join(_FORGET_S)


def _is_over(node: Node, tell: Callable[[int], bool]) -> bool:
    """Has the kernel heard? What it is told meanwhile may count, or not."""
    node.holds = False
    heard = tell(node.id)
    if not heard:
        node.holds = True
    return heard
