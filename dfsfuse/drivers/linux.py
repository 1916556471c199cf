"""The driver for Linux: speaks the kernel's FUSE protocol on /dev/fuse itself, and calls the file system.

    linux_names    names and attributes          fuse_protocol   structures, opcodes, flags
    linux_files    open files                    fuse_channel    requests and replies on /dev/fuse
    linux_folders  open folders                  fuse_workers    the threads that serve them
    linux_locks    locks between programs        fuse_nodes      what the kernel knows, and was told
    linux_mount    mount(2), fusermount3         fuse_replies    attributes -> structures
                                                 fuse_backing    files that the kernel reads itself
                                                 fuse_lending    and those that it writes, until nobody can any more
                                                 fuse_forgetting what it was told for long, until it is over
                                                 fuse_pruning    what the kernel is to forget, as it is too much
                                                 fuse_second_looks  who was told to look folders up once more

What the file system does not offer is answered with the errno that makes the kernel or programs do without it
(`OPTIONAL`, `REFUSED`). A request that is not of the protocol's form gets EINVAL, an unknown one ENOSYS, and what fails
unexpectedly EIO and a traceback in the log: no request ends the driver.

Threads: those of fuse_workers. The driver itself is not changed once it has begun.
"""

import errno
import logging
import math
import mmap
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_backing import Backing
from dfsfuse.drivers.fuse_channel import (
    BODY,
    HEAD,
    PAYLOAD_BYTES_MAX,
    Handler,
    Handlers,
    Interrupts,
    Notifier,
    Request,
    beyond,
    clone,
    refusal,
)
from dfsfuse.drivers.fuse_forgetting import Forgetting
from dfsfuse.drivers.fuse_node import Node
from dfsfuse.drivers.fuse_nodes import KNOWN_FILES_A_NODE, Nodes
from dfsfuse.drivers.fuse_pruning import Pruning
from dfsfuse.drivers.fuse_replies import KERNEL_HOLD_S
from dfsfuse.drivers.fuse_second_looks import SecondLooks
from dfsfuse.drivers.fuse_workers import Workers
from dfsfuse.drivers.linux_files import Files
from dfsfuse.drivers.linux_folders import Folders
from dfsfuse.drivers.linux_locks import Locks
from dfsfuse.drivers.linux_mount import CannotMount, mount, unmount
from dfsfuse.drivers.linux_names import Names
from dfsfuse.drivers.wakeups import Wakeups
from dfsfuse.errors import DfsError, NotADirectory, NotFound, Stale
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO

log = logging.getLogger(__name__)

WANTED = (
    fuse.FUSE_ASYNC_READ | fuse.FUSE_ASYNC_DIO | fuse.FUSE_BIG_WRITES | fuse.FUSE_MAX_PAGES
    | fuse.FUSE_PARALLEL_DIROPS | fuse.FUSE_DO_READDIRPLUS | fuse.FUSE_READDIRPLUS_AUTO | fuse.FUSE_ATOMIC_O_TRUNC
    | fuse.FUSE_POSIX_LOCKS | fuse.FUSE_FLOCK_LOCKS | fuse.FUSE_HANDLE_KILLPRIV_V2 | fuse.FUSE_CACHE_SYMLINKS
    | fuse.FUSE_ABORT_ERROR | fuse.FUSE_INIT_EXT | fuse.FUSE_POSIX_ACL | fuse.FUSE_DONT_MASK | fuse.FUSE_SETXATTR_EXT
)  # fmt: skip
"""HANDLE_KILLPRIV_V2: else the kernel would ask for an extended attribute before each write. CACHE_SYMLINKS: a
symlink's target never changes. POSIX_ACL: the kernel checks access control lists; what they and the mode do to each
other is the directory's. DONT_MASK: only who sees the folder's default list knows whether the umask counts.
SETXATTR_EXT tells of who sets a list and may not keep set-group-id.

Not asked for: AUTO_INVAL_DATA would drop the pages at every change of mtime, our own included; EXPORT_SUPPORT needs the
parent of any folder, which the file system does not tell; NO_OPEN_SUPPORT, as each open needs the newest version, of
which the client knows, or asks the directory; WRITEBACK_CACHE, as a commit must know what was written."""

OPTIONAL: dict[int, tuple[str, int]] = {
    fuse.FUSE_LINK: ("link", errno.EPERM),
    fuse.FUSE_SETXATTR: ("setxattr", errno.ENOSYS),
    fuse.FUSE_GETXATTR: ("getxattr", errno.ENOSYS),
    fuse.FUSE_LISTXATTR: ("listxattr", errno.ENOSYS),
    fuse.FUSE_REMOVEXATTR: ("removexattr", errno.ENOSYS),
    fuse.FUSE_FALLOCATE: ("fallocate", errno.EOPNOTSUPP),
    fuse.FUSE_LSEEK: ("lseek", errno.ENOSYS),
    fuse.FUSE_TMPFILE: ("create_unnamed", errno.EOPNOTSUPP),
    fuse.FUSE_SYNCFS: ("sync", errno.ENOSYS),
}
"""Opcode -> the method of FileSystem that it needs, and the errno where there is none. After ENOSYS the kernel does not
ask again: programs get EOPNOTSUPP for extended attributes, and SEEK_DATA and SEEK_HOLE see a file without holes."""

REFUSED: dict[int, int] = {
    fuse.FUSE_ACCESS: errno.ENOSYS,
    fuse.FUSE_POLL: errno.ENOSYS,
    fuse.FUSE_BMAP: errno.ENOSYS,
    fuse.FUSE_IOCTL: errno.ENOTTY,
}
"""ACCESS: the kernel checks permissions itself (default_permissions). POLL: files are always ready, as the kernel then
says. BMAP: there are no blocks of a disk. IOCTL: files have no flags and no commands."""

IN_FOLDERS = frozenset((
    fuse.FUSE_LOOKUP, fuse.FUSE_MKNOD, fuse.FUSE_MKDIR, fuse.FUSE_SYMLINK, fuse.FUSE_LINK, fuse.FUSE_CREATE,
    fuse.FUSE_UNLINK, fuse.FUSE_RMDIR, fuse.FUSE_RENAME, fuse.FUSE_RENAME2, fuse.FUSE_OPENDIR,
))  # fmt: skip
"""Of a folder, or of names in it."""

ENDS = IN_FOLDERS - {fuse.FUSE_LOOKUP} | {fuse.FUSE_OPEN, fuse.FUSE_TMPFILE, fuse.FUSE_SETATTR}
"""What a program has called ends with these, unless the answer is ESTALE. GETATTR is not one of them: the kernel also
asks for the attributes of folders on its way through them, to see who may."""

_MAX_BACKGROUND, _CONGESTION_THRESHOLD = 64, 48
_in_header = fuse.fuse_in_header.unpack_from
_NO_REPLY = (fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT, fuse.FUSE_NOTIFY_REPLY)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FINISH_S = 2.0


class Driver:
    """Answers requests. `device` is where notifications go. `passthrough` is asked for, and whether the kernel has it
    when `ready`."""

    def __init__(self, filesystem: FileSystem, device: int, passthrough: bool = False):
        self._fs, self.passthrough = filesystem, passthrough
        nodes_max = filesystem.known_files // KNOWN_FILES_A_NODE
        self.nodes = Nodes(KERNEL_HOLD_S, filesystem.program_locks.is_shared, nodes_max)
        self.interrupts = Interrupts()
        notifier = Notifier(device)
        self.backing, self.second_looks = Backing(device), SecondLooks()
        self.pruning, self.forgetting = Pruning(self.nodes, notifier), Forgetting(self.nodes, notifier)
        self.files = Files(filesystem, self.nodes, self.interrupts, self.forgetting, self.backing)
        filesystem.on_broken(self.forgetting.broken)
        filesystem.on_broken(self.files.spares.broken)
        self.ready, self.unfit = False, ""
        self._handlers = self._table()

    def _table(self) -> Handlers:
        names = Names(self._fs, self.nodes, self.interrupts, self.files, self.second_looks)
        folders = Folders(self._fs, self.nodes, self.second_looks)
        locks = Locks(self._fs, self.interrupts, self.files)
        table: Handlers = {
            fuse.FUSE_INIT: (self.init, beyond(fuse.fuse_init_in)),
            fuse.FUSE_INTERRUPT: (self.interrupt, beyond(fuse.fuse_interrupt_in)),
            fuse.FUSE_DESTROY: (self.destroy, BODY),
            fuse.FUSE_SYNCFS: (self.syncfs, BODY),
        }
        for room in (names, self.files, folders, locks):
            table |= room.handlers()
        missing = {code: number for code, (method, number) in OPTIONAL.items() if not hasattr(self._fs, method)}
        return table | {code: (_refuse(number), BODY) for code, number in (REFUSED | missing).items()}

    def answer(self, request: Request) -> None:
        """Never raises."""
        if request.end < BODY:
            log.error("a request of %d bytes: that is less than its header", request.end - HEAD)
            return
        length, opcode, request.unique, request.nodeid, request.uid, request.gid, request.pid, _, _ = _in_header(
            request.buffer, HEAD
        )
        request.opcode, request.undo = opcode, None
        events = self.forgetting.count
        try:
            handler, least = self._handlers.get(opcode, _UNKNOWN)
            if HEAD + length != request.end or request.end < least:
                raise refusal(errno.EINVAL, "too short, or not as long as it says")
            body = handler(request)
            said = self.forgetting.said
            if body is not None:
                self._ends(request)
                request.reply(body)
            if events != self.forgetting.count and opcode != fuse.FUSE_OPEN:
                # What LINK answers the kernel takes whatever it was told since it has asked.
                self.forgetting.answered(events, math.inf if opcode == fuse.FUSE_LINK else said)
        except Exception as error:
            self._refused(request, error)

    def _ends(self, request: Request) -> None:
        if self.second_looks and request.opcode in ENDS:
            self.second_looks.over(request.pid)

    def _refused(self, request: Request, error: Exception) -> None:
        name = fuse.OPCODES.get(request.opcode, str(request.opcode))
        if isinstance(error, Stale) and request.opcode in IN_FOLDERS:
            number = self._errno_of_gone(request)
            log.debug("%s: %s", name, error)
        elif isinstance(error, DfsError | OSError):
            number = error.errno or errno.EIO
            log.debug("%s: %s", name, error)
        else:
            number = errno.EIO
            log.error("%s failed", name, exc_info=error)
        request.give_up()
        if number == errno.ESTALE:
            # The kernel looks all names on the way up again: it must not get what has led here.
            self._fs.forget_names()
        else:
            self._ends(request)
        if request.opcode not in _NO_REPLY:
            request.fail(number)

    def _errno_of_gone(self, request: Request) -> int:
        """A folder is gone, or has moved. Opening it is another matter: who is in it can list it (linux_folders)."""
        try:
            folders = [self.nodes.get(number) for number in _folders_of(request)]
            if request.opcode != fuse.FUSE_OPENDIR and any(map(self._leads_nowhere, folders)):
                return errno.ENOENT
            return self.second_looks.errno_of(request.pid, folders, request.opcode == fuse.FUSE_LOOKUP)
        except Exception:
            log.exception("what has come in a folder's place cannot be found out")
            return errno.ESTALE

    def _leads_nowhere(self, folder: Node) -> bool:
        """Is nothing there now under the name by which the kernel knows it? Then it need not look again."""
        place, _ = self.nodes.place_of(folder, doubtful=True)
        if place[0] != ROOT_INO or not place[1]:
            return False
        try:
            self._fs.open_folder(place)
        except (NotFound, NotADirectory):
            return True
        except DfsError as error:
            log.debug("nobody knows what has come in a folder's place: %s", error)
        return False

    # -- the connection

    def init(self, request: Request) -> bytes:
        """The kernel's version and what it offers; the reply chooses."""
        major, minor, readahead, flags = fuse.fuse_init_in.unpack_from(request.buffer, BODY)
        if major > fuse.FUSE_KERNEL_VERSION:
            # It comes again with our version.
            return _init_out(minor, 0, 0)
        if major < fuse.FUSE_KERNEL_VERSION or minor < fuse.FUSE_MINOR_VERSION_MIN:
            self.unfit = f"the kernel speaks version {major}.{minor} of the protocol, which is too old"
            raise refusal(errno.EPROTO, self.unfit)
        self.ready = True
        if minor >= fuse.FUSE_MINOR_VERSION_INC_EPOCH:
            self.nodes.lasting = self._fs.lease_counts
        if flags & fuse.FUSE_INIT_EXT and request.end >= beyond(fuse.fuse_init_in_ext):
            flags |= fuse.fuse_init_in_ext.unpack_from(request.buffer, BODY)[4] << 32
        self.passthrough = self.passthrough and bool(flags & fuse.FUSE_PASSTHROUGH)
        wanted = WANTED | fuse.FUSE_PASSTHROUGH * self.passthrough
        return _init_out(minor, readahead, flags & wanted)

    def interrupt(self, request: Request) -> None:
        self.interrupts.arrived(fuse.fuse_interrupt_in.unpack_from(request.buffer, BODY)[0])

    def destroy(self, request: Request) -> bytes:
        return b""

    def syncfs(self, request: Request) -> bytes:
        self._fs.sync()
        return b""

    def end(self) -> None:
        """The mount has ended: what is still open is closed."""
        self.interrupts.everything()
        self.files.close_all()


def _folders_of(request: Request) -> tuple[int, ...]:
    """The nodes in which names are looked up or changed."""
    if request.opcode not in (fuse.FUSE_RENAME, fuse.FUSE_RENAME2):
        return (request.nodeid,)
    return request.nodeid, fuse.fuse_rename_in.unpack_from(request.buffer, BODY)[0]  # RENAME2 begins as RENAME does.


def _refuse(number: int) -> Handler:
    def handler(request: Request) -> bytes:
        raise refusal(number)

    return handler


_UNKNOWN = _refuse(errno.ENOSYS), BODY


def _init_out(minor: int, readahead: int, flags: int) -> bytes:
    return fuse.fuse_init_out.pack(
        fuse.FUSE_KERNEL_VERSION, min(minor, fuse.FUSE_KERNEL_MINOR_VERSION), min(readahead, PAYLOAD_BYTES_MAX),
        flags & 0xFFFFFFFF, _MAX_BACKGROUND, _CONGESTION_THRESHOLD, PAYLOAD_BYTES_MAX, 1,
        max(1, PAYLOAD_BYTES_MAX // mmap.PAGESIZE), 0, flags >> 32, bool(flags & fuse.FUSE_PASSTHROUGH),
    )  # fmt: skip


def run(
    filesystem: FileSystem,
    mountpoint: str,
    *,
    read_only: bool,
    allow_other: bool,
    fsname: str,
    on_ready: Callable[[], None],
    suid: bool = False,
    dev: bool = False,
    backing: tuple[Path, int] | None = None,
) -> None:
    """Mount and serve until unmounted, or until a signal says so. `backing`: where the files are that the kernel may
    read itself, and write up to that size; None: it may not. Raises CannotMount."""
    device = mount(mountpoint, fsname=fsname, read_only=read_only, allow_other=allow_other, suid=suid, dev=dev)
    driver = Driver(filesystem, device, passthrough=backing is not None)
    with Wakeups() as wakeups:
        workers = Workers(device, driver.answer, clone, on_end=wakeups.wake)
        try:
            _begin(driver, device)
            _begin_passthrough(driver, backing)
            _end_at_signals(workers, mountpoint)
            workers.start()
            driver.pruning.start()
            driver.forgetting.start()
            on_ready()
        except BaseException:
            unmount(mountpoint)
            raise
        wakeups.wait(lambda: workers.wait(0))
        _end(driver, workers, device)


def _end(driver: Driver, workers: Workers, device: int) -> None:
    log.info("unmounting")
    driver.interrupts.everything()
    left = workers.join()
    driver.pruning.stop()
    driver.forgetting.stop()
    driver.end()
    if not left:
        os.close(device)


def _begin(driver: Driver, device: int) -> None:
    """INIT, which comes before everything else."""
    request = Request(device)
    while not driver.ready:
        if not request.receive():
            raise CannotMount("the kernel has ended the mount before it began")
        driver.answer(request)
        if driver.unfit:
            raise CannotMount(driver.unfit)
    request.close()


def _begin_passthrough(driver: Driver, backing: tuple[Path, int] | None) -> None:
    if backing is None:
        driver.backing.refused("it is not wanted")
    elif not driver.passthrough:
        driver.backing.refused("this kernel does not have it")
    else:
        driver.backing.try_in(backing[0], driver.files.ask_for_lease)
        driver.files.begin_passthrough(backing[1])


def _end_at_signals(workers: Workers, mountpoint: str) -> None:
    """What is being answered is answered first, if that is soon. Signals reach the main thread alone."""

    def end(number: int, frame: object) -> None:
        log.info("signal %d", number)
        workers.finish(_FINISH_S)
        unmount(mountpoint)
        workers.stop()

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, end)
