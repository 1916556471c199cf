"""The file system: operations on places and open files, with the manners of POSIX. Drivers translate to and from it.

Places are those of places.py. Raises errors of `dfsfuse.errors` alone. Permissions are the kernel's to check.

    names and attributes   looks.py, listings.py, xattrs.py: asked of the directory; answers are used for HOLD_S
    attributes that change giving_attributes.py
    room and holes         allocation.py
    open files             openfiles.py
    locks of programs      program_locks.py
    what is not sent yet   unsent.py
    what stays open        reopening.py

Threads: any number of a driver's threads; the parts lock themselves.
"""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from dfsfuse import errors, listings
from dfsfuse.allocation import Allocation
from dfsfuse.attributes import AttributeTable
from dfsfuse.giving_attributes import GivingAttributes
from dfsfuse.known_names import ABSENT
from dfsfuse.locks import LockTable
from dfsfuse.looks import Looks
from dfsfuse.messages import (
    RENAME_EXCHANGE,
    XATTR_NAMESPACES,
    Attributes,
    Change,
    Create,
    FolderEntry,
    Link,
    Made,
    NewAttributes,
    Remove,
    Removed,
    Rename,
    Renamed,
    has_namespace,
)
from dfsfuse.openfiles import Handle, OpenFiles
from dfsfuse.places import Place, check_names
from dfsfuse.program_locks import ProgramLocks
from dfsfuse.removals import Removals
from dfsfuse.reopening import Reopening
from dfsfuse.session import Session
from dfsfuse.space import Space
from dfsfuse.waiting import never
from dfsfuse.xattrs import Xattrs

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class FileSystem:
    """One client's view of the volume."""

    def __init__(
        self,
        session: Session,
        locks: LockTable,
        attributes: AttributeTable,
        files: OpenFiles,
        allocation: Allocation,
        program_locks: ProgramLocks,
        *,
        read_only: bool = False,
    ):
        self.session, self.locks, self.files, self.program_locks = session, locks, files, program_locks
        self._attributes, self._read_only, self.known_files = attributes, read_only, attributes.items_max
        self.cache_bytes = files.cache_bytes
        self.promises, self.on_broken = attributes.promises, attributes.on_broken
        self.lease_counts = attributes.lease_counts
        self.fallocate, self.lseek, self.copy_range = allocation.fallocate, allocation.lseek, allocation.copy_range
        self._looks = Looks(session, attributes, files)
        reopening = Reopening(attributes, files, self._looks.as_written, read_only)
        self.may_stay_open, self.opened_again = reopening.may_stay_open, reopening.opened_again
        self._giving = GivingAttributes(session, attributes, files, self._looks)
        self._xattrs = Xattrs(session, attributes, files, self.lookup)
        self._removals = Removals(session, files, lambda place: attributes.get(place) or self._looks.ask(place))
        self._undo: Callable[[], None] = lambda: None

    def on_close(self, undo: Callable[[], None]) -> None:
        """`undo` ends what was started for this file system."""
        self._undo = undo

    def close(self) -> None:
        """Programs may have files open, where a signal ends the client: these are closed. What is unsent stays in the
        cache for the next client of the same mountpoint."""
        try:
            self.files.close()
        finally:
            self._undo()

    # -- looking

    def lookup(self, place: Place, shown: Callable[[], bytes] | None = None) -> Attributes:
        """Attributes of what is at a place, as in looks.py."""
        check_names(place)
        return self._looks.lookup(place, shown)

    def attributes_of(self, handle: Handle) -> Attributes:
        """fstat: what the handle has open, wherever its name leads now."""
        return self._looks.last(handle.content.ino)

    def lookup_open(self, ino: int) -> Attributes:
        """The same for a driver that knows which inodes programs have open."""
        return self._looks.last(ino)

    def known(self, place: Place) -> Attributes | None:
        """What may be told of an entry that is listed, without asking; None where that is nothing."""
        known = self._attributes.get(place, uses=False)
        return None if known is None else self._looks.as_written(known)

    def forget_names(self) -> None:
        """A name did not lead where it was thought to: names that are not promised are asked for again."""
        self._attributes.forget_held()

    def open_folder(self, place: Place) -> int:
        """The inode of a folder that is about to be listed: of the one that is there now, wherever it goes then."""
        check_names(place)
        return self._looks.ask(place).ino if place[1] else place[0]

    def list_folder(
        self,
        place: Place,
        after: bytes = b"",
        ino: int = 0,
        seen_at: Place | None = None,
        moves_atime: bool = False,
    ) -> Iterator[FolderEntry]:
        """As in listings.py. `moves_atime`: a program lists it."""
        check_names(place)
        atime_ns = time.time_ns() if moves_atime and not self._read_only else 0
        return listings.list_folder(self.session, self._attributes, place, after, ino, seen_at, atime_ns)

    def space(self) -> Space:
        """From memory: never waits for a server."""
        known = self.session.space
        return Space(known.total_bytes, known.free_bytes, known.inodes, known.inodes_free)

    # -- changing names and attributes

    def make(
        self, place: Place, mode: int, uid: int, gid: int, target: bytes = b"", rdev: int = 0, umask: int = 0
    ) -> Attributes:
        """A folder, symlink or special file, by the type bits of `mode`. `umask`, here and below: bits that the mode
        loses where the folder has no default access control list."""
        self._check_change(place)
        request = Create(
            base=place[0],
            names=list(place[1]),
            ino=self.session.new_inode(),
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=time.time_ns(),
            target=target,
            rdev=rdev,
            umask=umask,
        )
        return self._make(place, lambda: (None, self.session.change(request, Made)))[1]

    def link(self, old: Place, new: Place) -> Attributes:
        """One more name for a file; for one that was made without a name, its first."""
        self._check_change(old)
        self._check_change(new)
        request = Link(base=old[0], names=list(old[1]), new_base=new[0], new_names=list(new[1]))
        _, attributes = self._make(new, lambda: (None, self.session.change(request, Made)), old)
        self.files.named(attributes.ino, new)
        return self._looks.as_written(attributes)

    def remove(self, place: Place, folder: bool, thread: int = 0) -> None:
        """`thread`: of the program that asks. Raises LockLost where its process has lost locks."""
        self._check_change(place)
        request = Remove(base=place[0], names=list(place[1]), folder=folder)
        with self._attributes.changing(place) as asked_at:
            try:
                with contextlib.nullcontext() if folder else self._removals.at(place):
                    removed: Removed = self._change_names(request, Removed, thread)
            except BaseException:
                self._attributes.forget_place(place)
                raise
            self._attributes.name_changed(place, removed.folder, asked_at, ABSENT)
            self._attributes.forget_ino(removed.ino)
        self._unnamed(removed.unnamed)

    def rename(self, old: Place, new: Place, flags: int = 0, thread: int = 0) -> None:
        """As renameat2(2). A folder takes all places below it along, so no place is remembered after it."""
        self._check_change(old)
        self._check_change(new)
        request = Rename(base=old[0], names=list(old[1]), new_base=new[0], new_names=list(new[1]), flags=flags)
        with self._attributes.changing(old, new) as asked_at:
            try:
                with self._removals.at(new):
                    renamed: Renamed = self._change_names(request, Renamed, thread)
            except BaseException:
                self._attributes.forget_place(old)
                self._attributes.forget_place(new)
                raise
            if renamed.ino:
                self._attributes.renamed(old, new, renamed, bool(flags & RENAME_EXCHANGE), asked_at)
        self._unnamed(renamed.unnamed)

    def _unnamed(self, ino: int) -> None:
        """A file has lost its last name here: what is not sent of it goes, and nobody opens it any more."""
        if ino:
            self.files.discard(ino)
            self.session.closed_rows.promise_ended(ino)

    def _change_names(self, request: Change, reply: type, thread: int) -> Any:
        """Not any more, either, where the locks are lost while the directory is waited for."""
        self.program_locks.check_fence(thread)
        try:
            return self.session.change(request, reply, interrupted=lambda: self.program_locks.is_fenced(thread))
        except errors.Interrupted:
            self.program_locks.check_fence(thread)
            raise

    def set_attributes(
        self,
        place: Place,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
    ) -> Attributes:
        """A new owner gets no set-id bits, unless `mode` gives them. Times beyond what ext4 keeps become its limits."""
        self._check_change(place)
        changes = NewAttributes(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, atime_ns=atime_ns)
        return self._giving.give(place, changes)

    # -- extended attributes

    def getxattr(self, place: Place, name: bytes) -> bytes:
        check_names(place)
        return self._xattrs.get(place, name)

    def lacks_xattr(self, place: Place, name: bytes) -> bool:
        """Whether that is known, without asking."""
        known = self._attributes.get(place)
        if known is None or known.has_xattrs:
            return False
        return has_namespace(name) and name not in XATTR_NAMESPACES

    def listxattr(self, place: Place, privileged: bool = True) -> list[bytes]:
        """The names of all; those of `trusted.` are for the privileged (CAP_SYS_ADMIN)."""
        check_names(place)
        return self._xattrs.names(place, privileged)

    def setxattr(self, place: Place, name: bytes, value: bytes, flags: int = 0, kills_setgid: bool = False) -> None:
        """The flags are setxattr(2)'s. `kills_setgid`: an access control list is set by who may not keep that bit."""
        self._check_change(place)
        self._xattrs.set(place, name, value, flags, kills_setgid)

    def removexattr(self, place: Place, name: bytes) -> None:
        self._check_change(place)
        self._xattrs.remove(place, name)

    # -- what changes have in common

    def _check_change(self, place: Place) -> None:
        if self._read_only:
            raise errors.ReadOnly("this mount only reads")
        check_names(place)

    def _make(
        self, place: Place, make: Callable[[], tuple[Result, Made]], *changed: Place
    ) -> tuple[Result, Attributes]:
        """A new name, of a new inode or of one that is `changed`: what the directory answered is known for the fstat
        that follows, and for the kernel, which asks for the folder's attributes then."""
        with self._attributes.changing(*changed, made=place) as asked_at:
            try:
                result, made = make()
            except BaseException:
                self._attributes.forget_place(place)
                raise
            self._attributes.name_changed(place, made.folder, asked_at, made.attributes.ino)
            self._attributes.put_changed(made.attributes, asked_at)
            if made.attributes.promised and stat.S_ISDIR(made.attributes.mode):
                self._attributes.folder_made(made.attributes.ino, asked_at)
        return result, made.attributes

    # -- files

    def create(
        self,
        place: Place,
        mode: int,
        uid: int,
        gid: int,
        flags: int,
        pid: int,
        privileged: bool = False,
        shown: bytes = b"",
        interrupted: Callable[[], bool] = never,
        umask: int = 0,
    ) -> tuple[Handle, Attributes]:
        """`privileged`, here and below: who opens may keep set-id bits when writing (CAP_FSETID). `shown` is the place
        as a path for people, where the place itself does not begin at the root."""
        self._check_change(place)
        who = flags, pid, privileged, shown, interrupted, umask
        return self._make(place, lambda: self.files.create(place, mode, uid, gid, *who))

    def create_unnamed(
        self,
        folder: Place,
        mode: int,
        uid: int,
        gid: int,
        flags: int,
        pid: int,
        privileged: bool = False,
        interrupted: Callable[[], bool] = never,
        umask: int = 0,
    ) -> tuple[Handle, Attributes]:
        """O_TMPFILE: a file in no folder, which goes with its last close unless `link` has named it. `folder` is where
        it is made, and may give it its group. Under O_EXCL it never gets a name."""
        self._check_change(folder)
        flags |= os.O_TMPFILE
        asked_at = self._attributes.now()
        handle, made = self.files.create(folder, mode, uid, gid, flags, pid, privileged, b"", interrupted, umask)
        self._attributes.put_changed(made.attributes, asked_at)
        return handle, made.attributes

    def open(
        self,
        place: Place,
        flags: int,
        pid: int,
        interrupted: Callable[[], bool] = never,
        privileged: bool = False,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> tuple[Handle, Attributes]:
        """The flags are open(2)'s; O_CREAT and O_EXCL are `create`'s part, O_TMPFILE `create_unnamed`'s. With `ino`:
        Stale where the place leads to another inode. `shown` as in `create`."""
        writes = (flags & os.O_ACCMODE) != os.O_RDONLY or flags & os.O_TRUNC
        if writes:
            self._check_change(place)
        check_names(place)
        flags |= os.O_NOATIME if self._read_only else 0
        try:
            handle, attributes = self.files.open(place, flags, pid, interrupted, privileged, ino=ino, shown=shown)
        except errors.NotFound:
            self._attributes.forget_place(place)
            raise
        return handle, self._looks.as_written(attributes)

    def truncate(
        self,
        place: Place,
        size: int,
        pid: int,
        interrupted: Callable[[], bool] = never,
        privileged: bool = False,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> None:
        """Without an open file: takes the write lock, as writing does. `ino` and `shown` as in `open`."""
        flags = os.O_WRONLY | (os.O_TRUNC if size == 0 else 0)
        handle, _ = self.open(place, flags, pid, interrupted, privileged, ino=ino, shown=shown)
        try:
            if size:
                self.files.resize(handle, size)
            self.files.flush(handle)
        finally:
            self.files.release(handle)

    def sync(self) -> None:
        """What is written, and what the directory has acknowledged, comes to the disks."""
        self.files.sync()
        self.session.sync()
