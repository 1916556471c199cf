"""put and get: copies into the volume and out of it, with the manners of cp; mode and mtime are kept.

Contents travel in parts, so memory stays flat, and holes stay holes. A copy that fails leaves what it would have
replaced as it was.
"""

import argparse
import contextlib
import functools
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from dfsfuse import errors
from dfsfuse.commands.content import commit, copy_in, reading, replacing
from dfsfuse.commands.names import kind_of, make_folder, target_folder
from dfsfuse.commands.parts import Part, of_handle, of_local_file, of_stream, pieces
from dfsfuse.commands.paths import Names, names_a_folder, path_text
from dfsfuse.commands.progress import Progress
from dfsfuse.commands.reach import about, each, filesystem, in_place_of, paths_of
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO, Attributes, FolderEntry
from dfsfuse.openfiles import Handle
from dfsfuse.tables import complain, shown

_SET_ID = stat.S_ISUID | stat.S_ISGID
"""Not given to a file that belongs to whoever copies it."""

# -- into the volume


def put(arguments: argparse.Namespace) -> int:
    *sources, target = arguments.paths
    with filesystem(arguments) as files, Progress(lambda: sum(map(_local_bytes, sources))) as progress:
        paths = paths_of(files)
        with about(target):
            folder = target_folder(paths.folder(target), target, len(sources))
            new = paths.names(target)

        def copy(source: str) -> int | None:
            name = os.fsencode(os.path.basename(os.path.abspath(source)))
            names = new if folder is None else (*folder, name)
            if not os.path.isdir(source):
                _put_file(files, source, names, progress)
            elif arguments.recursive:
                _put_tree(files, source, names, progress)
            else:
                raise errors.IsADirectory(
                    f"{shown(source)}: it is a folder; copy it with all below it with: dfs put -r"
                )

        return each(sources, copy)


def _local_bytes(source: str) -> int:
    """Bytes of the files in a tree of this machine, or of one file; what cannot be read counts nothing."""
    if not os.path.isdir(source):
        return os.path.getsize(source) if os.path.isfile(source) else 0
    files = (entry for _, _, entries in _local_folders(source, lambda error: None) for entry in entries)
    return sum(map(_bytes_of_local, files))


def _bytes_of_local(entry: os.DirEntry) -> int:
    with contextlib.suppress(OSError):
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    return 0


def _local_folders(source: str, on_error: Callable[[OSError], None]) -> Iterator[tuple[str, Names, list[os.DirEntry]]]:
    """Each folder of a tree of this machine before those in it: its path, its names below `source`, and what is in it
    beside folders. `os.walk` calls itself for each folder on the way, which ends at a thousand."""
    left: list[tuple[str, Names]] = [(source, ())]
    while left:
        folder, below = left.pop()
        try:
            with os.scandir(folder) as listed:
                found = list(listed)
        except OSError as error:
            on_error(error)
            continue
        yield folder, below, [entry for entry in found if not _is_folder(entry)]
        left += [(entry.path, (*below, os.fsencode(entry.name))) for entry in found if _is_folder(entry)]


def _is_folder(entry: os.DirEntry) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _put_file(files: FileSystem, source: str, names: Names, progress: Progress) -> None:
    with open(source, "rb", buffering=0) as local, about(path_text(names)):
        known = os.fstat(local.fileno())
        progress.name(source)

        def send(handle: Handle) -> None:
            with progress.follow(handle.content.size, lambda: files.files.sent_bytes):
                commit(files, handle)
            mode = stat.S_IMODE(known.st_mode)
            files.set_attributes((handle.content.ino, ()), mode=mode, mtime_ns=known.st_mtime_ns)

        with replacing(files, names, known.st_mode & 0o777, send) as handle:
            parts = of_local_file(local.fileno()) if stat.S_ISREG(known.st_mode) else of_stream(local.readinto)
            copy_in(files, handle, parts, lambda count: progress.advance(count / 2))


def _put_tree(files: FileSystem, source: str, names: Names, progress: Progress) -> int:
    """Folders first, so that there is a place for what is in them; their times last, as that changes them."""
    made: list[tuple[str, Names]] = []
    unreadable: list[OSError] = []
    status = 0
    for folder, below, others in _local_folders(source, unreadable.append):
        here = (*names, *below)
        make_folder(files, here, exists_ok=True)
        made.append((folder, here))
        status = max(status, each(others, functools.partial(_put_entry, files, here, progress)))
    for folder, here in reversed(made):
        known = os.stat(folder)
        files.set_attributes((ROOT_INO, here), mode=stat.S_IMODE(known.st_mode), mtime_ns=known.st_mtime_ns)
    return max(status, each(unreadable, _raise))


def _raise(error: OSError) -> None:
    raise error


def _put_entry(files: FileSystem, folder: Names, progress: Progress, entry: os.DirEntry) -> None:
    """Into `folder` of the volume."""
    names = (*folder, os.fsencode(entry.name))
    if entry.is_symlink():
        _put_link(files, os.readlink(entry.path), names)
    elif entry.is_file(follow_symlinks=False):
        _put_file(files, entry.path, names, progress)
    else:
        _skip(shown(entry.path), entry.stat(follow_symlinks=False).st_mode)


def _skip(path: str, mode: int) -> None:
    """Both ways: what has no content stays where it is, and is no failure."""
    complain(f"{path}: a {kind_of(mode)}; not copied")


def _put_link(files: FileSystem, target: str, names: Names) -> None:
    with about(path_text(names)):
        for _ in range(2):
            try:
                kind = stat.S_IFLNK | 0o777
                files.make((ROOT_INO, names), kind, os.getuid(), os.getgid(), target=os.fsencode(target))
                return
            except errors.AlreadyExists:
                files.remove((ROOT_INO, names), folder=False)


# -- out of the volume


def get(arguments: argparse.Namespace) -> int:
    *sources, target = arguments.paths
    if len(sources) > 1 and not os.path.isdir(target):
        raise errors.NotADirectory(f"{shown(target)}: it must be an existing folder for several sources")
    with filesystem(arguments) as files, Progress(lambda: _bytes_of(files, sources)) as progress:

        def copy(source: str) -> int | None:
            with about(source):
                names, attributes = paths_of(files).find(source)
                local = target
                if os.path.isdir(target):
                    local = os.path.join(target, os.fsdecode(names[-1]) if names else "")
                if not stat.S_ISDIR(attributes.mode):
                    if names_a_folder(local):
                        raise errors.NotADirectory(f"{shown(local)} ends with /, and there is no such folder")
                    return _get_file(files, names, local, progress)
                if arguments.recursive:
                    return _get_tree(files, names, attributes, local, progress)
                raise errors.IsADirectory("it is a folder; copy it with all below it with: dfs get -r")

        return each(sources, copy)


def _bytes_of(files: FileSystem, sources: list[str]) -> int:
    """Bytes of all files below these; what is not there is complained about later."""
    total = 0
    for source in sources:
        with contextlib.suppress(errors.DfsError):
            names, attributes = paths_of(files).find(source)
            below = [entry.attributes for _, entry in _walk(files, names)] if stat.S_ISDIR(attributes.mode) else []
            total += sum(a.size for a in [attributes, *below] if stat.S_ISREG(a.mode))
    return total


def _walk(files: FileSystem, names: Names) -> Iterator[tuple[Names, FolderEntry]]:
    """All that is below a folder, each folder before what is in it."""
    left = [names]
    while left:
        here = left.pop()
        for entry in files.list_folder((ROOT_INO, here)):
            yield (*here, entry.name), entry
            if stat.S_ISDIR(entry.attributes.mode):
                left.append((*here, entry.name))


def _get_file(files: FileSystem, names: Names, local: str, progress: Progress) -> None:
    with reading(files, names) as (handle, attributes), _written(local) as out:
        progress.name(names[-1])
        if not stat.S_ISREG(os.fstat(out.fileno()).st_mode):
            for piece in pieces(files, handle):
                out.write(piece)
                progress.advance(len(piece))
        else:
            _fill(out, of_handle(files, handle), progress)
            os.fchmod(out.fileno(), stat.S_IMODE(attributes.mode) & ~_SET_ID)
            os.utime(out.fileno(), ns=(attributes.atime_ns, attributes.mtime_ns))


def _fill(out: BinaryIO, parts: Iterator[Part], progress: Progress) -> None:
    """What is in no part becomes a hole where the disk has such."""
    end = 0
    for start, data in parts:
        out.seek(start)
        out.write(data)
        progress.advance(start + len(data) - end)
        end = start + len(data)
    out.truncate(end)


@contextlib.contextmanager
def _written(local: str) -> Iterator[BinaryIO]:
    """A file of this machine that is replaced as a whole when the block ends well; a device or pipe is written to."""
    if os.path.exists(local) and not os.path.isfile(local):
        with open(local, "wb") as out:
            yield out
        return
    real = os.path.realpath(local)
    folder, name = os.path.split(real)
    if not os.path.isdir(folder):
        raise errors.NotFound(f"{shown(os.fsencode(local))}: there is no folder {shown(os.fsencode(folder))}")
    passing = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.dfs")
    with in_place_of(local, passing):
        out = open(passing, "xb", opener=_private)  # noqa: SIM115
    with out:
        try:
            yield out
            out.close()
            os.replace(passing, real)
        except BaseException:
            os.unlink(passing)
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _get_tree(files: FileSystem, names: Names, attributes: Attributes, local: str, progress: Progress) -> int:
    made = [(local, attributes)]
    _make_local_folder(local)

    def copy(found: tuple[Names, FolderEntry]) -> None:
        below, entry = found
        path = os.path.join(local, *map(os.fsdecode, below[len(names) :]))
        with about(path_text(below)):
            if stat.S_ISDIR(entry.attributes.mode):
                _make_local_folder(path)
                made.append((path, entry.attributes))
            elif stat.S_ISLNK(entry.attributes.mode):
                _make_local_link(os.fsdecode(entry.attributes.target), path)
            elif stat.S_ISREG(entry.attributes.mode):
                _get_file(files, below, path, progress)
            else:
                _skip(path_text(below), entry.attributes.mode)

    status = each(_walk(files, names), copy)
    for path, known in reversed(made):
        os.chmod(path, stat.S_IMODE(known.mode) & ~_SET_ID)
        os.utime(path, ns=(known.atime_ns, known.mtime_ns))
    return status


def _make_local_folder(path: str) -> None:
    """Nothing of a tree is written through a symlink that stands where its folder should be."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.islink(path) or not os.path.isdir(path):
            raise


def _make_local_link(target: str, path: str) -> None:
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)
    os.symlink(target, path)
