"""Which open files the kernel reads and writes itself, and when those that it writes are closed.

RELEASE does not wait for mappings: a program may go on storing through one, which nobody tells. So a file that was open
for writing stays open here until the system says that nobody can write to it any more; the kernel's node then stays as
it is too. Programs do not wait for that.

Threads: any; one looks which of those that linger can be closed, while there are any.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable

from dfsfuse.content import Content
from dfsfuse.drivers.fuse_backing import LEAST_BYTES, Backing
from dfsfuse.drivers.fuse_node import Lend, Node
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import Attributes
from dfsfuse.openfiles import Handle

log = logging.getLogger(__name__)

_O_DIRECT = getattr(os, "O_DIRECT", 0)
BESIDE = os.O_APPEND | os.O_SYNC | os.O_DSYNC | _O_DIRECT
"""Whoever opens with these is read and written for by the client, whatever the kernel does for others: each append has
its place, what goes past the pages of a disk has other rules there, and of a file that it writes itself the kernel
syncs what is on this disk alone."""
_SET_IDS = 0o6000
_PAUSE_S, _PAUSE_MAX_S = 0.002, 0.5


class Lending:
    def __init__(self, filesystem: FileSystem, backing: Backing):
        self._files, self._backing = filesystem.files.in_kernel, backing

    def of(self, handle: Handle, node: Node, attributes: Attributes) -> Lend | None:
        """None: not for this open."""
        if not self._backing.on:
            return None
        if handle.writable:
            return self._to_write(handle, node, attributes)
        if node.backing or handle.content.size >= LEAST_BYTES:
            return functools.partial(self._lend, handle, node)
        return None

    def _to_write(self, handle: Handle, node: Node, attributes: Attributes) -> Lend | None:
        """Set-id bits and capabilities go with a write by whoever may not keep them: the client must see it. What comes
        from the disk is written as fast through the client, and hashing would have to fetch all of it."""
        files, content = self._files, handle.content
        if node.backing:
            return functools.partial(self._lend_to_write, handle, node)
        if handle.flags & BESIDE or attributes.mode & _SET_IDS or attributes.has_xattrs or handle.share is not None:
            return None
        if not files.is_in_memory(content) or not files.prepare_to_write(content):
            return None
        return functools.partial(self._lend_to_write, handle, node)

    def may_join(self, flags: int, content: Content) -> bool:
        """May who opens it with these flags write to what others have in passthrough? What is cut is what they have
        only if they write to it too, and so have the write lock."""
        sizes = self._files.sizes
        return content.unseen.writers > 0 or (sizes is not None and content.size <= sizes[1] and not flags & os.O_TRUNC)

    def _lend(self, handle: Handle, node: Node, has_pages: bool, known: int) -> int:
        """The kernel reads the content's file itself from now on. Not where it is just opened for writing, nor where
        programs use locks, as the content may become another version then; nor past a disk's pages; nor where the
        kernel has pages of the node, and none of the file."""
        content, files = handle.content, self._files
        if known:
            return known
        if node.writing or handle.share is not None or handle.flags & _O_DIRECT:
            return 0
        if has_pages and not files.is_in_memory(content):
            return 0
        return self._given(handle) if files.lend(content, LEAST_BYTES) else 0

    def _lend_to_write(self, handle: Handle, node: Node, has_pages: bool, known: int) -> int:
        """The open itself counts as one that is under way."""
        if not known and node.writing > 1 or not self._files.lend_to_write(handle.content, not known):
            return 0
        number = known or self._given(handle)
        handle.unseen = number > 0
        if not number:
            self._files.not_lent(handle.content)
        return number

    def _given(self, handle: Handle) -> int:
        number = self._backing.open(handle.content.fd)
        if not number:
            self._files.take_back(handle.content)
        return number


class Lingering:
    """Files that programs have closed, and may still write to. `close` is called with each once that is over."""

    def __init__(self, may_close: Callable[[Handle], bool], close: Callable[[int], None]):
        self._may_close, self._close = may_close, close
        self._mutex, self._wanted = threading.Lock(), threading.Event()
        self._left: dict[int, Handle] = {}
        self._working = False

    def add(self, number: int, handle: Handle) -> None:
        with self._mutex:
            self._left[number] = handle
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="fuse-lingering", daemon=True).start()
        self._wanted.set()

    def end(self) -> None:
        """The client ends: what is left is others' to close."""
        with self._mutex:
            self._left.clear()

    def _work(self) -> None:
        pause_s = _PAUSE_S
        while True:
            if self._wanted.wait(pause_s):
                self._wanted.clear()
                pause_s = _PAUSE_S
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            with self._mutex:
                left = list(self._left.items())
            for number, handle in left:
                self._look_at(number, handle)
            with self._mutex:
                if not self._left:
                    self._working = False
                    return

    def _look_at(self, number: int, handle: Handle) -> None:
        """Whatever goes wrong with one, the others are not to stay open for it."""
        try:
            if self._may_close(handle):
                self._close_one(number)
        except OSError as error:
            log.error("whether a file is still written to cannot be found out: %s", error)
        except Exception:
            log.exception("a file that programs have closed, and wrote to, cannot be closed")

    def _close_one(self, number: int) -> None:
        with self._mutex:
            if self._left.pop(number, None) is None:
                return
        self._close(number)
