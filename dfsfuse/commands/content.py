"""Contents: cat and write, and what other commands use to read a file and to replace one as a whole.

A file is replaced under its write lock, by one commit: readers see the old content or the new one, and what fails
before the commit leaves the file as it was.
"""

import argparse
import contextlib
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator

from dfsfuse import errors, tables
from dfsfuse.commands.parts import Part, of_stream, pieces
from dfsfuse.commands.paths import Names
from dfsfuse.commands.reach import about, each, filesystem, paths_of
from dfsfuse.commands.signals import postponed
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO, Attributes
from dfsfuse.openfiles import Handle

_ATTEMPTS_MAX = 5


def cat(arguments: argparse.Namespace) -> int:
    with filesystem(arguments) as files:

        def show(text: str) -> None:
            with about(text):
                names = paths_of(files).names(text)
                with reading(files, names) as (handle, _):
                    for piece in pieces(files, handle):
                        tables.write_bytes(piece)

        return each(arguments.paths, show)


def write(arguments: argparse.Namespace) -> int:
    with filesystem(arguments) as files, about(arguments.path):
        names = paths_of(files).file(arguments.path)
        with replacing(files, names) as handle:
            # Not buffered: a signal that comes together with input is noticed only between two reads.
            copy_in(files, handle, of_stream(sys.stdin.buffer.raw.readinto))
    return 0


# -- reading


@contextlib.contextmanager
def reading(files: FileSystem, names: Names) -> Iterator[tuple[Handle, Attributes]]:
    """A regular file, open for reading."""
    check_file(files.lookup((ROOT_INO, names)))
    handle, attributes = files.open((ROOT_INO, names), os.O_RDONLY, os.getpid())
    try:
        yield handle, attributes
    finally:
        files.files.release(handle)


def check_file(attributes: Attributes) -> None:
    if stat.S_ISDIR(attributes.mode):
        raise errors.IsADirectory("it is a folder; name a file")
    if not stat.S_ISREG(attributes.mode):
        raise errors.InvalidArgument("it is not a regular file and has no content")


# -- replacing


@contextlib.contextmanager
def replacing(
    files: FileSystem, names: Names, mode: int = 0o666, send: Callable[[Handle], None] | None = None
) -> Iterator[Handle]:
    """What is written to the handle within the block becomes the file's next version at its end; the file is created
    if it is missing. When the block raises, the file is left as it was. At the end `send` is done, if given, in place
    of `commit`.

    Raises UploadFailed where the servers could not take it: it is then in the local cache; a later command sends it.
    """
    handle, created = open_to_write(files, names, mode)
    try:
        yield handle
        send(handle) if send else commit(files, handle)
    except errors.UploadFailed:
        raise
    except BaseException:
        give_up(files, names, handle, created)
        raise
    files.files.release(handle)


def open_to_write(files: FileSystem, names: Names, mode: int = 0o666, flags: int = 0) -> tuple[Handle, bool]:
    """The file under its write lock, and whether it has been created for that. Nothing of it is changed yet."""
    place, pid = (ROOT_INO, names), os.getpid()
    for _ in range(_ATTEMPTS_MAX):
        with contextlib.suppress(errors.NotFound):
            check_file(files.lookup(place))
            return files.open(place, os.O_WRONLY | flags, pid, privileged=os.getuid() == 0)[0], False
        with contextlib.suppress(errors.AlreadyExists):
            return _create(files, names, stat.S_IFREG | mode), True
    raise errors.Stale("it is created and removed again and again by others")


def _create(files: FileSystem, names: Names, mode: int) -> Handle:
    """A signal that comes when the directory has made the file, and nobody here has its handle, must not leave it."""
    with postponed() as came:
        who = os.getuid(), os.getgid(), os.O_WRONLY, os.getpid()
        handle, _ = files.create((ROOT_INO, names), mode, *who, umask=umask())
        if came.number:
            give_up(files, names, handle, True)
    return handle


def copy_in(
    files: FileSystem, handle: Handle, parts: Iterator[Part], advance: Callable[[int], None] = lambda count: None
) -> None:
    """The content becomes these parts, and what is between them holes; `advance` hears how many bytes each time.

    Nothing is changed before the first of them is there, so a command that is killed while it waits leaves nothing.
    """
    first, end = next(parts, None), 0
    files.files.resize(handle, 0)
    for start, data in itertools.chain([first] if first else [], parts):
        if data:
            files.files.write(handle, data, start)
        else:
            files.files.resize(handle, start)
        advance(start + len(data) - end)
        end = start + len(data)


def commit(files: FileSystem, handle: Handle) -> None:
    """What was written becomes the next version. On UploadFailed the handle is closed, and its content kept."""
    try:
        files.files.flush(handle)
    except errors.DfsError as error:
        lost_the_race = handle.content.failed is not None
        files.files.release(handle)
        raise errors.UploadFailed(_kept(error, lost_the_race)) from None


def _kept(error: errors.DfsError, lost_the_race: bool) -> str:
    if lost_the_race:
        return f"{error}; what was written is kept as a copy beside it"
    return f"not on the servers: {error}; it is kept (see `dfs status`), and a later dfs command sends it"


def give_up(files: FileSystem, names: Names, handle: Handle, created: bool) -> None:
    """The file as it was before it was opened: one that was created for this, and has no version yet, goes."""
    ino, version = handle.content.ino, handle.content.version
    files.files.abandon(handle)
    if not created or version:
        return
    with contextlib.suppress(errors.DfsError):
        if files.lookup((ROOT_INO, names)).ino == ino:
            files.remove((ROOT_INO, names), folder=False)


def umask() -> int:
    """What new files and folders are not permitted."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
