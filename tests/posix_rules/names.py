"""Names and paths: which bytes, how long, and what slashes and dots mean."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.files import CREATE, ino, made, made_folder, missing, opened
from posix_rules.processes import in_child

PATH_MAX = 4096

# -- names


def names_may_have_255_bytes(folder: Path) -> None:
    """NAME_MAX is 255: files, folders and symlinks with such names are made, listed, renamed and removed.
    (POSIX limits.h)"""
    long = "x" * 254
    made(folder / f"{long}f")
    os.mkdir(folder / f"{long}d")
    os.symlink("target", folder / f"{long}l")
    os.rename(folder / f"{long}f", folder / f"{long}g")
    assert sorted(os.listdir(folder)) == [long + end for end in "dgl"]
    os.rmdir(folder / f"{long}d")
    assert len(os.listdir(folder)) == 2


def names_of_256_bytes_are_refused(folder: Path) -> None:
    """ENAMETOOLONG by every call, before anything else is looked at. (POSIX path resolution)"""
    made(folder / "file")
    long = folder / ("x" * 256)
    calls: list[Callable[[], object]] = [
        lambda: os.stat(long),
        lambda: os.open(long, CREATE),
        lambda: os.mkdir(long),
        lambda: os.rmdir(long),
        lambda: os.unlink(long),
        lambda: os.symlink("target", long),
        lambda: os.mkfifo(long),
        lambda: os.rename(folder / "file", long),
        lambda: os.rename(long, folder / "other"),
        lambda: os.stat(long / "below"),
    ]
    for call in calls:
        with error(errno.ENAMETOOLONG):
            call()


def names_count_bytes_not_characters(folder: Path) -> None:
    """128 letters of two bytes are one byte too many. (POSIX limits.h)"""
    made(folder / ("ü" * 127 + "x"))
    with error(errno.ENAMETOOLONG):
        os.mkdir(folder / ("ü" * 128))
    assert os.listdir(folder) == ["ü" * 127 + "x"]


def names_may_have_any_byte(folder: Path) -> None:
    """Every byte but slash and NUL, each as a name of its own and all in one. (POSIX path resolution)"""
    place = os.fsencode(folder)
    every = [bytes([number]) for number in range(1, 256) if number not in b"/."]
    names = [*every[::7], b"".join(every), b"\xff\xfe", b"\xc3\x28"]
    for name in names:
        os.mkdir(place + b"/" + name)
    assert sorted(os.listdir(place)) == sorted(names)
    for name in names:
        os.rmdir(place + b"/" + name)
    assert os.listdir(place) == []


def names_may_look_odd(folder: Path) -> None:
    """Newlines, blanks, dashes, backslashes, quotes and colons are as good as letters. (POSIX path resolution)"""
    names = ["a\nb", " ", "-rf", "a\\b", "'\"`$", "C:", "...", ".hidden", "a ", "%41", "*"]
    for name in names:
        made(folder / name, name.encode())
    assert sorted(os.listdir(folder)) == sorted(names)
    assert [(folder / name).read_bytes() for name in names] == [name.encode() for name in names]


def names_differ_by_case(folder: Path) -> None:
    """ "a" and "A" are two names. (POSIX path resolution)"""
    made(folder / "name", b"small")
    made(folder / "NAME", b"large")
    assert ((folder / "name").read_bytes(), (folder / "NAME").read_bytes()) == (b"small", b"large")


def names_are_not_normalised(folder: Path) -> None:
    """One letter composed and decomposed are two names, each listed as given. (POSIX path resolution)"""
    names = [b"\xc3\xa9", b"e\xcc\x81"]
    for name in names:
        made(folder / os.fsdecode(name))
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)


def names_are_free_again_at_once(folder: Path) -> None:
    """A name may be used again for another type, many times. (POSIX unlink)"""
    path = folder / "name"
    for _ in range(5):
        made(path, b"content").unlink()
        path.mkdir()
        path.rmdir()
        os.symlink("target", path)
        path.unlink()
        assert missing(path)


# -- paths


def an_empty_path_is_refused(folder: Path) -> None:
    """ "" is ENOENT. (POSIX path resolution)"""
    for call in (os.stat, os.mkdir, os.unlink, lambda path: os.open(path, CREATE)):
        with error(errno.ENOENT):
            call("")


def a_path_of_path_max_is_refused(folder: Path) -> None:
    """4096 bytes with the closing NUL are the most: 4095 work, 4096 are ENAMETOOLONG. (POSIX limits.h)"""
    made(folder / "f", b"content")
    slashes = "/" * (PATH_MAX - 1 - len(os.fsencode(folder)) - 1)
    assert os.stat(f"{folder}{slashes}f").st_size == 7
    with error(errno.ENAMETOOLONG):
        os.stat(f"{folder}{slashes}/f")


def files_may_be_deeper_than_path_max(folder: Path) -> None:
    """Relative paths reach what has no path short enough. (POSIX path resolution)"""

    def work() -> bytes:
        os.chdir(folder)
        for _ in range(20):
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
        made(Path("file"), b"content")
        content = Path("file").read_bytes()
        os.unlink("file")
        for _ in range(20):
            os.chdir("..")
            os.rmdir("x" * 250)
        return content

    assert in_child(work) == b"content"
    assert os.listdir(folder) == []


def slashes_may_be_many(folder: Path) -> None:
    """Several slashes are as one. (POSIX path resolution)"""
    made(made_folder(folder / "sub") / "file", b"content")
    assert os.stat(f"{folder}//sub///file").st_ino == ino(folder / "sub" / "file")


def dots_name_folders(folder: Path) -> None:
    """`.` is the folder itself, `..` the one above, wherever they stand in a path. (POSIX path resolution)"""
    made(made_folder(folder / "sub") / "file", b"content")
    assert os.stat(f"{folder}/./sub/../sub/./file").st_ino == ino(folder / "sub" / "file")
    assert os.stat(f"{folder}/sub/.").st_ino == ino(folder / "sub")


def dots_after_a_missing_folder_are_refused(folder: Path) -> None:
    """none/.. is ENOENT and file/.. ENOTDIR: nothing is shortened by its letters. (POSIX path resolution)"""
    made(folder / "file")
    with error(errno.ENOENT):
        os.stat(f"{folder}/none/..")
    with error(errno.ENOTDIR):
        os.stat(f"{folder}/file/..")


def dots_cannot_be_made(folder: Path) -> None:
    """`.` and `..` exist already: EEXIST; they are folders: EISDIR. (POSIX path resolution)"""
    for name in (".", ".."):
        with error(errno.EEXIST):
            os.mkdir(f"{folder}/{name}")
        with error(errno.EEXIST):
            os.symlink("target", f"{folder}/{name}")
        with error(errno.EISDIR):
            os.open(f"{folder}/{name}", CREATE)


def a_slash_after_a_file_is_refused(folder: Path) -> None:
    """file/ is ENOTDIR for whatever call; for creating, EISDIR. (POSIX path resolution)"""
    made(folder / "file")
    for call in (os.stat, os.lstat, os.listdir, os.unlink, lambda path: os.open(path, os.O_RDONLY)):
        with error(errno.ENOTDIR):
            call(f"{folder}/file/")
    with error(errno.EISDIR):
        os.open(f"{folder}/new/", CREATE)


def a_file_within_a_path_is_refused(folder: Path) -> None:
    """file/x is ENOTDIR for whatever call. (POSIX path resolution)"""
    made(folder / "file")
    below = f"{folder}/file/x"
    for call in (os.stat, os.mkdir, os.rmdir, os.unlink, os.mkfifo, lambda path: os.open(path, CREATE)):
        with error(errno.ENOTDIR):
            call(below)


def a_slash_after_a_folder_is_taken(folder: Path) -> None:
    """sub/ is the folder. (POSIX path resolution)"""
    (folder / "sub").mkdir()
    assert os.stat(f"{folder}/sub/").st_ino == ino(folder / "sub")
    os.chmod(f"{folder}/sub/", 0o700)
    assert os.listdir(f"{folder}/sub/") == []


# -- paths that count from a descriptor


def dir_fd_is_where_paths_begin(folder: Path) -> None:
    """openat, mkdirat, symlinkat, renameat, fstatat and unlinkat count from their descriptor. (POSIX openat)"""
    (folder / "sub").mkdir()
    with opened(folder / "sub", os.O_RDONLY | os.O_DIRECTORY) as place:
        with opened("file", CREATE, dir_fd=place) as fd:
            os.write(fd, b"content")
        os.mkdir("d", dir_fd=place)
        os.symlink("file", "link", dir_fd=place)
        os.rename("file", "d/moved", src_dir_fd=place, dst_dir_fd=place)
        assert os.stat("d/moved", dir_fd=place).st_size == 7
        assert os.readlink("link", dir_fd=place) == "file"
        os.unlink("d/moved", dir_fd=place)
        os.rmdir("d", dir_fd=place)
    assert os.listdir(folder / "sub") == ["link"]


def dir_fd_must_be_a_folder(folder: Path) -> None:
    """A descriptor of a file is ENOTDIR, one that is closed EBADF; absolute paths do not look at it. (POSIX openat)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd:
        with error(errno.ENOTDIR):
            os.stat("x", dir_fd=fd)
        assert os.stat(folder / "file", dir_fd=fd).st_size == 7
    with error(errno.EBADF):
        os.stat("x", dir_fd=fd)


def unlinkat_tells_files_from_folders(folder: Path) -> None:
    """Without AT_REMOVEDIR a folder is EISDIR, with it a file is ENOTDIR. (POSIX unlinkat)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as place:
        with error(errno.EISDIR):
            os.unlink("sub", dir_fd=place)
        with error(errno.ENOTDIR):
            os.rmdir("file", dir_fd=place)
