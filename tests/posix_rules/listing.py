"""readdir and its family: every name once, with its number and type, also while names come and go."""

import errno
import os
import shutil
import stat
from pathlib import Path

from support import error

from posix_rules.calls import Stream, getdents
from posix_rules.files import MIB, ino, made, made_folder, opened
from posix_rules.processes import in_child

DT_FIFO, DT_DIR, DT_REG, DT_LNK, DT_SOCK = 1, 4, 8, 10, 12
DOTS = {".", ".."}
PIECE = 4096


def listing_has_dots(folder: Path) -> None:
    """`.` and `..` are listed, with the numbers of the folder and of the one above. (POSIX readdir)"""
    (folder / "sub").mkdir()
    with Stream(folder / "sub") as stream:
        entries = {name: number for name, number, _ in iter(stream.read, None)}
    assert entries == {".": ino(folder / "sub"), "..": ino(folder)}


def listing_has_each_name_once(folder: Path) -> None:
    """Files, folders and symlinks, hidden ones too. (POSIX readdir)"""
    names = {"file", ".hidden", "sub", "link"}
    made(folder / "file")
    made(folder / ".hidden")
    (folder / "sub").mkdir()
    os.symlink("none", folder / "link")
    with Stream(folder) as stream:
        assert sorted(stream.rest()) == sorted(names | DOTS)


def listing_tells_types(folder: Path) -> None:
    """d_type is the type of the name itself, not of a symlink's target. (readdir(3))"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")
    with Stream(folder) as stream:
        types = {name: kind for name, _, kind in iter(stream.read, None)}
    assert types == {".": DT_DIR, "..": DT_DIR, "file": DT_REG, "sub": DT_DIR, "link": DT_LNK}


def listing_tells_types_of_special_files(folder: Path) -> None:
    """The same of FIFOs and sockets. (readdir(3))"""
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    with Stream(folder) as stream:
        types = {name: kind for name, _, kind in iter(stream.read, None) if name not in DOTS}
    assert types == {"fifo": DT_FIFO, "socket": DT_SOCK}


def listing_tells_inode_numbers(folder: Path) -> None:
    """d_ino is st_ino: programs find hard links and loops by it. (POSIX readdir)"""
    for name in ("a", "b"):
        made(folder / name)
        (folder / f"{name}-folder").mkdir()
    with os.scandir(folder) as entries:
        listed = {entry.name: entry.inode() for entry in entries}
    assert listed == {name: ino(folder / name) for name in os.listdir(folder)}


def _many(folder: Path, count: int, prefix: str = "") -> list[str]:
    """New names, so long that PIECE bytes have room for some 15 of them."""
    names = [f"{prefix}{number:03}-{'x' * 230}" for number in range(count)]
    for name in names:
        os.symlink("none", folder / name)
    return names


def _rest(fd: int) -> list[str]:
    """The names from here to the end, a piece at a time."""
    return [entry.name for piece in iter(lambda: getdents(fd, PIECE), []) for entry in piece]


def listing_in_pieces_is_whole(folder: Path) -> None:
    """A folder whose listing takes several calls is listed whole, and each name once. (getdents(2))"""
    names = _many(folder, 50)
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        first = getdents(fd, PIECE)
        assert len(first) < 20
        assert sorted([*(entry.name for entry in first), *_rest(fd)]) == sorted([*names, *DOTS])


def listing_into_a_short_buffer_is_refused(folder: Path) -> None:
    """A buffer that no entry fits into is EINVAL, and nothing is skipped. (getdents(2))"""
    made(folder / "file")
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        with error(errno.EINVAL):
            getdents(fd, 16)
        assert sorted(_rest(fd)) == sorted(["file", *DOTS])


def listing_begins_again(folder: Path) -> None:
    """rewinddir() starts over, and sees what was added meanwhile. (POSIX rewinddir)"""
    made(folder / "one")
    with Stream(folder) as stream:
        assert set(stream.rest()) == DOTS | {"one"}
        made(folder / "two")
        stream.rewind()
        assert set(stream.rest()) == DOTS | {"one", "two"}


def listing_goes_on_at_a_place(folder: Path) -> None:
    """seekdir() to what telldir() told goes on with the same entries. (POSIX seekdir)"""
    _many(folder, 20)
    with Stream(folder) as stream:
        for _ in range(8):
            stream.read()
        place = stream.tell()
        rest = stream.rest()
        stream.seek(place)
        assert stream.rest() == rest
        assert len(rest) == 14


def listing_goes_on_at_any_entry(folder: Path) -> None:
    """The place behind each entry is one to go on from, whatever call has brought it. (getdents(2))"""
    _many(folder, 50)
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        entries = [entry for piece in iter(lambda: getdents(fd, PIECE), []) for entry in piece]
        names = [entry.name for entry in entries]
        for number in (0, 10, 25, 40):
            os.lseek(fd, entries[number].offset, os.SEEK_SET)
            assert _rest(fd) == names[number + 1 :]


def listing_goes_on_while_names_are_added(folder: Path) -> None:
    """What was there all the time is listed once, whatever else comes. (POSIX readdir)"""
    before = _many(folder, 50)
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        listed = [entry.name for entry in getdents(fd, PIECE)]
        _many(folder, 20, "added-")
        listed += _rest(fd)
    assert len(listed) == len(set(listed))
    assert set(before) <= set(listed)


def listing_goes_on_while_names_are_removed(folder: Path) -> None:
    """Removing what each call has brought empties the folder: rm -r works so. (POSIX readdir)"""
    _many(folder, 50)
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        while piece := getdents(fd, PIECE):
            for entry in piece:
                if entry.name not in DOTS:
                    os.unlink(folder / entry.name)
    assert os.listdir(folder) == []


def listing_keeps_what_stays_while_others_are_removed(folder: Path) -> None:
    """Every second name is removed during the listing; the others are all listed once. (POSIX readdir)"""
    names = _many(folder, 50)
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        listed = [entry.name for entry in getdents(fd, PIECE)]
        for name in names[1::2]:
            os.unlink(folder / name)
        listed += _rest(fd)
    assert len(listed) == len(set(listed))
    assert set(names[::2]) <= set(listed)


def listing_of_a_renamed_name(folder: Path) -> None:
    """After rename the new name is listed and the old is not, in both folders. (POSIX rename)"""
    made(made_folder(folder / "a") / "old")
    (folder / "b").mkdir()
    assert os.listdir(folder / "a") == ["old"]
    os.rename(folder / "a" / "old", folder / "b" / "new")
    assert (os.listdir(folder / "a"), os.listdir(folder / "b")) == ([], ["new"])


def listing_sees_what_others_have_made(folder: Path) -> None:
    """Names of another process are listed at once, and their removal too. (POSIX readdir)"""
    in_child(made, folder / "file")
    assert os.listdir(folder) == ["file"]
    in_child(os.unlink, folder / "file")
    assert os.listdir(folder) == []


def listing_through_a_descriptor(folder: Path) -> None:
    """fdopendir() lists an open folder, time and again. (POSIX fdopendir)"""
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        for names in ([], ["one"], ["one", "two"]):
            for name in names:
                made(folder / name)
            assert sorted(os.listdir(fd)) == names


def listing_of_an_open_folder_follows_rename(folder: Path) -> None:
    """The descriptor lists the folder that was opened, not one that has its former name. (POSIX fdopendir)"""
    made(made_folder(folder / "old") / "file")
    with opened(folder / "old", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename(folder / "old", folder / "new")
        assert os.listdir(fd) == ["file"]
        made(made_folder(folder / "old") / "another")
        assert os.listdir(fd) == ["file"]


def listing_refuses_what_is_no_folder(folder: Path) -> None:
    """A file is ENOTDIR, a missing name ENOENT. (POSIX opendir)"""
    made(folder / "file")
    for name, number in (("file", errno.ENOTDIR), ("none", errno.ENOENT)):
        with error(number):
            os.listdir(folder / name)


def listing_leaves_sizes_exact(folder: Path) -> None:
    """What a listing brings along of a file does not hide later changes of it. (POSIX stat)"""
    with opened(folder / "file") as fd:
        for size in (0, 10, 5, MIB):
            os.ftruncate(fd, size)
            with os.scandir(folder) as entries:
                assert [entry.stat().st_size for entry in entries] == [size]


def listing_of_a_tree_and_its_removal(folder: Path) -> None:
    """os.walk finds everything, and rmtree removes it. (POSIX nftw)"""
    root = folder / "tree"
    for name in ("a/b/c", "d"):
        (root / name).mkdir(parents=True)
        made(root / name / "file")
    found = {os.path.relpath(path, root): (set(folders), files) for path, folders, files in os.walk(root)}
    assert found == {
        ".": ({"a", "d"}, []),
        "a": ({"b"}, []),
        "a/b": ({"c"}, []),
        "a/b/c": (set(), ["file"]),
        "d": (set(), ["file"]),
    }
    shutil.rmtree(root)
    assert os.listdir(folder) == []
