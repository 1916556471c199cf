"""Names and attributes: ls, stat, mkdir, mv, rm."""

import argparse
import functools
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator

from dfsfuse import errors, tables
from dfsfuse.commands.content import umask
from dfsfuse.commands.paths import Names, path_text
from dfsfuse.commands.reach import Metadata, about, each, filesystem, metadata, paths_of
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import LIST_PAGE_MAX, ROOT_INO, Attributes, FolderEntry, ListFolder, Listing, bytes_as_text
from dfsfuse.tables import shown

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

# -- looking


def ls(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked, about(arguments.path):
        names, attributes = asked.paths.find(arguments.path, follow=not arguments.long)
        if stat.S_ISDIR(attributes.mode):
            entries = entries_of(asked, names)
        else:
            entries = iter([FolderEntry(os.fsencode(arguments.path), attributes)])
        if arguments.json:
            tables.write_json_list({"name": bytes_as_text(e.name), **as_json(e.attributes)} for e in entries)
        elif arguments.long:
            tables.write_table([""] * 7, map(_long_row, entries), right=())
        else:
            _write_names(entries)
    return 0


def entries_of(asked: Metadata, names: Names) -> Iterator[FolderEntry]:
    """All entries of a folder, fetched a page at a time."""
    after, more = b"", True
    while more:
        request = ListFolder(names=list(names), after=after, limit=LIST_PAGE_MAX)
        page: Listing = asked.ask("list", request, Listing)
        yield from page.entries
        more = page.more
        after = page.entries[-1].name if page.entries else b""


def _write_names(entries: Iterable[FolderEntry]) -> None:
    """As they are for a program; on one line each for people."""
    for_people = sys.stdout.isatty()
    for entry in entries:
        tables.write_line(shown(entry.name) if for_people else tables.text_of(entry.name))


def _long_row(entry: FolderEntry) -> list[str]:
    a = entry.attributes
    link = f" -> {shown(a.target)}" if stat.S_ISLNK(a.mode) else ""
    who = [_user(a.uid), _group(a.gid)]
    device = stat.S_ISCHR(a.mode) or stat.S_ISBLK(a.mode)
    size = f"{os.major(a.rdev)}, {os.minor(a.rdev)}" if device else str(a.size)
    return [stat.filemode(a.mode), str(a.nlink), *who, size.rjust(12), tables.time_text(a.mtime_ns),
            shown(entry.name) + link]  # fmt: skip


@functools.cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@functools.cache
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def as_json(attributes: Attributes) -> dict[str, object]:
    """Everything that is known of an inode; `mode` is the permission bits in octal."""
    a = attributes
    found: dict[str, object] = {
        "type": type_of(a), "inode": a.ino, "mode": f"{stat.S_IMODE(a.mode):04o}", "nlink": a.nlink, "uid": a.uid,
        "gid": a.gid, "size": a.size, "allocated_bytes": a.allocated_bytes, "version": a.version,
        "commit_id": a.commit_id.hex(), "mtime_ns": a.mtime_ns, "ctime_ns": a.ctime_ns, "atime_ns": a.atime_ns,
    }  # fmt: skip
    if stat.S_ISLNK(a.mode):
        found["target"] = bytes_as_text(a.target)
    return found


def type_of(attributes: Attributes) -> str:
    return kind_of(attributes.mode)


def kind_of(mode: int) -> str:
    return TYPES.get(stat.S_IFMT(mode), "unknown")


def stat_(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked, about(arguments.path):
        names, attributes = asked.paths.find(arguments.path, follow=False)
        if arguments.json:
            tables.write_json({"path": bytes_as_text(b"/" + b"/".join(names)), **as_json(attributes)})
        else:
            tables.write_table(["", ""], _stat_rows(names, attributes))
    return 0


def _stat_rows(names: Names, a: Attributes) -> Iterator[list[str]]:
    yield ["path", path_text(names) + (f" -> {shown(a.target)}" if stat.S_ISLNK(a.mode) else "")]
    yield ["type", type_of(a)]
    yield ["inode", str(a.ino)]
    yield ["mode", f"{stat.S_IMODE(a.mode):04o} {stat.filemode(a.mode)}"]
    yield ["names", str(a.nlink)]
    yield ["owner", f"{_user(a.uid)} ({a.uid})"]
    yield ["group", f"{_group(a.gid)} ({a.gid})"]
    if stat.S_ISCHR(a.mode) or stat.S_ISBLK(a.mode):
        yield ["device", f"{os.major(a.rdev)}, {os.minor(a.rdev)}"]
    yield ["size", tables.count_text(a.size, "byte")]
    if stat.S_ISREG(a.mode):
        yield ["stored", tables.count_text(a.allocated_bytes, "byte")]
    yield ["version", str(a.version)]
    yield ["commit id", a.commit_id.hex() or "-"]
    for title, time_ns in (("modified", a.mtime_ns), ("changed", a.ctime_ns), ("accessed", a.atime_ns)):
        yield [title, tables.time_text(time_ns)]


# -- changing


def mkdir(arguments: argparse.Namespace) -> int:
    with filesystem(arguments) as files:

        def make(text: str) -> None:
            with about(text):
                names = paths_of(files).names(text)
                for count in range(1 if arguments.parents else len(names), len(names)):
                    make_folder(files, names[:count], exists_ok=True)
                make_folder(files, names, exists_ok=arguments.parents)

        return each(arguments.paths, make)


def make_folder(files: FileSystem, names: Names, exists_ok: bool) -> None:
    """AlreadyExists where something else than a folder has the name, or anything unless `exists_ok`."""
    try:
        if not names:
            raise errors.AlreadyExists("the root is always there")
        files.make((ROOT_INO, names), stat.S_IFDIR | 0o777, os.getuid(), os.getgid(), umask=umask())
    except errors.AlreadyExists:
        if not exists_ok:
            raise
        if not stat.S_ISDIR(files.lookup((ROOT_INO, names)).mode):
            raise errors.AlreadyExists(f"{path_text(names)} is there and is not a folder") from None


def mv(arguments: argparse.Namespace) -> int:
    with filesystem(arguments) as files:
        paths = paths_of(files)
        *sources, target = arguments.paths
        with about(target):
            folder = target_folder(paths.folder(target), target, len(sources))
            new = paths.names(target, follow=False) if folder is None else folder

        def move(text: str) -> None:
            with about(text):
                old = not_root(paths.names(text, follow=False))
                files.rename((ROOT_INO, old), (ROOT_INO, new if folder is None else (*folder, old[-1])))

        return each(sources, move)


def target_folder(folder: Names | None, text: str, sources: int) -> Names | None:
    """What cp and mv expect of their last argument: several things, or a name that ends with `/`, need a folder."""
    if folder is None and (sources > 1 or text.endswith("/")):
        raise errors.NotADirectory("it must be an existing folder" + (" for several sources" if sources > 1 else ""))
    return folder


def not_root(names: Names) -> Names:
    if not names:
        raise errors.Busy("the root of the volume can be neither moved nor removed")
    return names


def rm(arguments: argparse.Namespace) -> int:
    with filesystem(arguments) as files:

        def remove(text: str) -> None:
            with about(text):
                names = not_root(paths_of(files).names(text, follow=False))
                is_folder = stat.S_ISDIR(files.lookup((ROOT_INO, names)).mode)
                if is_folder and not arguments.recursive:
                    raise errors.IsADirectory("it is a folder; remove it and all below it with: dfs rm -r")
                if is_folder:
                    _remove_tree(files, names)
                else:
                    files.remove((ROOT_INO, names), folder=False)

        return each(arguments.paths, remove)


def _remove_tree(files: FileSystem, names: Names) -> None:
    """What is below a folder, then the folder; no deeper in Python's stack for a deeper tree."""
    left = [names]
    while left:
        folders = []
        for entry in list(files.list_folder((ROOT_INO, left[-1]))):
            below = (*left[-1], entry.name)
            if stat.S_ISDIR(entry.attributes.mode):
                folders.append(below)
            else:
                files.remove((ROOT_INO, below), folder=False)
        if not folders:
            files.remove((ROOT_INO, left.pop()), folder=True)
        left += folders
