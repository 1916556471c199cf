"""What every file system call does, on one real mount."""

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import error

pytestmark = [pytest.mark.mounted, pytest.mark.drivers("linux", "fusepy")]


# -- content


def test_create_read_write_append(mount: Path):
    """Goal: what was written is what is read, at once and after the file is opened again."""
    file = mount / "file"
    with file.open("w+b") as handle:
        handle.write(b"hello")
        handle.flush()
        handle.seek(0)
        assert handle.read() == b"hello"
    assert file.read_bytes() == b"hello"
    with file.open("ab") as handle:
        handle.write(b", world")
    assert file.read_bytes() == b"hello, world"
    with file.open("r+b") as handle:
        handle.seek(7)
        handle.write(b"W")
    assert file.read_bytes() == b"hello, World"
    assert file.stat().st_size == 12


def test_empty_file(mount: Path):
    """Goal: a file that nothing was written to is there, empty."""
    (mount / "empty").touch()
    assert (mount / "empty").read_bytes() == b""
    assert os.listdir(mount) == ["empty"]


def test_truncate_by_path_and_by_descriptor(mount: Path):
    """Goal: both cut and grow, with and without an open file, and what is grown reads as zeros."""
    file = mount / "file"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert file.read_bytes() == b"0123"
    os.truncate(file, 8)
    assert file.read_bytes() == b"0123\0\0\0\0"
    with file.open("r+b") as handle:
        os.ftruncate(handle.fileno(), 2)
        assert os.fstat(handle.fileno()).st_size == file.stat().st_size == 2
        os.truncate(file, 5)
        assert os.fstat(handle.fileno()).st_size == 5
        os.pwrite(handle.fileno(), b"xyz", 1)
    assert file.read_bytes() == b"0xyz\0"
    with file.open("r+b") as handle:
        handle.truncate(0)
    assert file.read_bytes() == b""


def test_o_trunc_of_a_file_that_is_open(mount: Path):
    """Goal: the other descriptor sees the file cut, as on a local disk, and mtime moves also when it was empty."""
    file = mount / "file"
    file.write_bytes(b"0123456789")
    with file.open("r+b") as other:
        file.open("wb").close()
        assert os.fstat(other.fileno()).st_size == 0
        assert os.pread(other.fileno(), 10, 0) == b""
    os.utime(file, ns=(1, 1))
    file.open("wb").close()
    assert file.stat().st_mtime_ns > 10**18


def test_holes_read_as_zeros_and_take_no_space(mount: Path):
    """Goal: a byte far beyond the end makes a file of that size; what lies between is zeros."""
    file = mount / "sparse"
    with file.open("wb") as handle:
        handle.seek(100 << 20)
        handle.write(b"end")
    assert file.stat().st_size == (100 << 20) + 3
    with file.open("rb") as handle:
        assert handle.read(1 << 20) == bytes(1 << 20)
        handle.seek(99 << 20)
        assert handle.read() == bytes(1 << 20) + b"end"


def test_large_file_in_odd_pieces(mount: Path):
    """Goal: 20 MiB written at odd offsets and out of order are read back as written."""
    content = os.urandom(20 << 20)
    cuts = [*range(0, len(content), 1_234_567), len(content)]
    pieces = list(zip(cuts, cuts[1:], strict=False))
    file = mount / "large"
    with file.open("wb") as handle:
        for start, end in pieces[1::2] + pieces[::2]:
            os.pwrite(handle.fileno(), content[start:end], start)
    assert file.read_bytes() == content
    with file.open("rb") as handle:
        for start, end in reversed(pieces):
            assert os.pread(handle.fileno(), end - start, start) == content[start:end]


def test_unlinked_file_goes_on_through_its_descriptor(mount: Path):
    """Goal: reading, writing and growing go on after unlink; nothing appears anywhere when it is closed."""
    file = mount / "file"
    with file.open("w+b") as handle:
        handle.write(b"before")
        handle.flush()
        file.unlink()
        assert not file.exists()
        assert os.pread(handle.fileno(), 10, 0) == b"before"
        os.pwrite(handle.fileno(), b"after and more", 0)
        assert os.pread(handle.fileno(), 100, 0) == b"after and more"
        os.fsync(handle.fileno())
    assert os.listdir(mount) == []
    assert not [name for name in os.listdir(mount.parent) if "lost" in name]


def test_replaced_file_goes_on_through_its_descriptor(mount: Path):
    """Goal: as unlink, when another file was renamed over it."""
    (mount / "old").write_bytes(b"old")
    (mount / "new").write_bytes(b"newer")
    with (mount / "old").open("rb") as handle:
        os.rename(mount / "new", mount / "old")
        assert handle.read() == b"old"
        assert (mount / "old").read_bytes() == b"newer"
    assert os.listdir(mount) == ["old"]


# -- names


def test_rename_in_its_cases(mount: Path):
    """Goal: onto nothing, a file, an empty folder, itself; into another folder; and what rename(2) refuses."""
    for name in ("a", "b"):
        (mount / name).write_text(name)
    for name in ("d", "e", "full"):
        (mount / name).mkdir()
    (mount / "full" / "file").touch()
    os.rename(mount / "a", mount / "c")
    os.rename(mount / "c", mount / "b")
    assert (mount / "b").read_text() == "a"
    os.rename(mount / "b", mount / "b")
    os.rename(mount / "b", mount / "d" / "b")
    assert (mount / "d" / "b").read_text() == "a"
    os.rename(mount / "d", mount / "e")
    assert (mount / "e" / "b").read_text() == "a"
    with error(errno.ENOTEMPTY):
        os.rename(mount / "e", mount / "full")
    with error(errno.EISDIR):
        os.rename(mount / "e" / "b", mount / "full")
    with error(errno.ENOTDIR):
        os.rename(mount / "full", mount / "e" / "b")
    with error(errno.EINVAL):
        os.rename(mount / "e", mount / "e" / "below")
    with error(errno.ENOENT):
        os.rename(mount / "none", mount / "some")
    assert sorted(os.listdir(mount)) == ["e", "full"]


def test_rename_flags(mount: Path):
    """Goal: RENAME_NOREPLACE refuses to replace, RENAME_EXCHANGE exchanges."""
    libc = ctypes.CDLL(None, use_errno=True)

    def rename(old: str, new: str, flags: int) -> int:
        paths = os.fsencode(mount / old), os.fsencode(mount / new)
        return ctypes.get_errno() if libc.renameat2(-100, paths[0], -100, paths[1], flags) else 0

    (mount / "a").write_text("a")
    (mount / "b").write_text("b")
    assert rename("a", "b", 1) == errno.EEXIST
    assert rename("a", "c", 1) == 0
    assert rename("c", "b", 2) == 0
    assert ((mount / "b").read_text(), (mount / "c").read_text()) == ("a", "b")


def test_a_name_that_is_made_again(mount: Path):
    """Goal: a name that was just removed is there again once it is made, whatever it is made by."""
    (mount / "folder").mkdir()
    file, name = mount / "file", mount / "folder" / "name"
    file.write_text("content")
    for make in (lambda: name.hardlink_to(file), lambda: name.symlink_to("../file"), lambda: os.rename(file, name)):
        make()
        assert name.read_text() == "content"
        name.unlink()
        assert not name.exists()


def test_renamed_while_open(mount: Path):
    """Goal: a writer does not care where its file goes meanwhile, nor where the folder goes."""
    (mount / "d").mkdir()
    with (mount / "d" / "file").open("w") as handle:
        handle.write("one ")
        handle.flush()
        os.rename(mount / "d" / "file", mount / "d" / "moved")
        os.rename(mount / "d", mount / "e")
        handle.write("two")
    assert (mount / "e" / "moved").read_text() == "one two"


def test_folder_that_is_renamed_or_replaced_while_open(mount: Path):
    """Goal: an open folder is listed wherever it goes meanwhile; another one that takes its name is another one, and
    what the listing tells is not taken for its own."""
    (mount / "d").mkdir()
    (mount / "d" / "x").write_text("old")
    folder = os.open(mount / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rename(mount / "d", mount / "e")
        assert os.listdir(folder) == ["x"]
        (mount / "d").mkdir()
        assert os.listdir(folder) == ["x"]
        assert not (mount / "d" / "x").exists()
        assert os.listdir(mount / "d") == []
        (mount / "e" / "y").touch()
        assert sorted(os.listdir(folder)) == ["x", "y"]
    finally:
        os.close(folder)


def test_names_of_any_bytes(mount: Path):
    """Goal: every byte but / and NUL, and 255 of them; 256 are too long everywhere."""
    names = [bytes(n for n in range(1, 256) if n != ord("/")), b"\xff\xfe", "Grüße".encode(), b" ", b"-rf", b"a\nb"]
    names.append(b"x" * 255)
    folder = os.fsencode(mount)
    for name in names:
        with open(folder + b"/" + name, "wb") as handle:
            handle.write(name)
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        with open(folder + b"/" + name, "rb") as handle:
            assert handle.read() == name
    long = folder + b"/" + b"x" * 256
    for call in (
        os.stat,
        os.mkdir,
        os.unlink,
        os.listdir,
        lambda p: os.open(p, os.O_CREAT),
        lambda p: os.symlink("a", p),
    ):
        with error(errno.ENAMETOOLONG):
            call(long)
    with error(errno.ENAMETOOLONG):
        os.rename(folder + b"/" + names[1], long)


def test_errors(mount: Path):
    """Goal: each call gives the errno that it gives on a local disk."""
    file, folder = mount / "file", mount / "folder"
    file.touch()
    (folder / "sub").mkdir(parents=True)
    cases = [
        (errno.ENOENT, lambda: os.stat(mount / "none")),
        (errno.ENOENT, lambda: os.open(mount / "none", os.O_RDONLY)),
        (errno.ENOENT, lambda: os.unlink(mount / "none")),
        (errno.ENOENT, lambda: os.mkdir(mount / "none" / "sub")),
        (errno.EEXIST, lambda: os.mkdir(folder)),
        (errno.EEXIST, lambda: os.symlink("x", file)),
        (errno.EEXIST, lambda: os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        (errno.ENOTEMPTY, lambda: os.rmdir(folder)),
        (errno.ENOTDIR, lambda: os.rmdir(file)),
        (errno.EISDIR, lambda: os.unlink(folder)),
        (errno.EISDIR, lambda: os.open(folder, os.O_WRONLY)),
        (errno.ENOTDIR, lambda: os.stat(file / "below")),
        (errno.ENOTDIR, lambda: os.listdir(file)),
        (errno.EINVAL, lambda: os.readlink(file)),
        (errno.EINVAL, lambda: os.truncate(file, -1)),
    ]
    for number, call in cases:
        with error(number):
            call()


def test_o_excl_makes_one_winner(mount: Path):
    """Goal: of many who create a name exclusively at once, one succeeds, and a lock file works."""
    code = "import os, sys\ntry: os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY); print('won')\n"
    code += "except FileExistsError: print('lost')"
    command = [sys.executable, "-S", "-c", code, str(mount / "lock")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert sorted(racer.communicate()[0] for racer in racers) == ["lost\n"] * 7 + ["won\n"]


def test_symlinks(mount: Path):
    """Goal: targets are any bytes and are followed; a broken one is there all the same."""
    (mount / "file").write_text("content")
    os.symlink("file", mount / "link")
    os.symlink(b"/no/\xff" + b"x" * 3000, os.fsencode(mount / "broken"))
    assert (mount / "link").read_text() == "content"
    assert os.readlink(os.fsencode(mount / "broken")) == b"/no/\xff" + b"x" * 3000
    assert not (mount / "broken").exists()
    assert stat.S_ISLNK(os.lstat(mount / "broken").st_mode)
    (mount / "link").unlink()
    assert (mount / "file").exists()


def test_listing_of_two_thousand(mount: Path):
    """Goal: every name once, with its type; also while the folder is being emptied."""
    names = {f"{number:04}" for number in range(2000)}
    for name in names:
        os.symlink("nowhere", mount / name)
    (mount / "file").touch()
    (mount / "folder").mkdir()
    with os.scandir(mount) as entries:
        kinds = [(entry.name, entry.is_symlink(), entry.is_dir()) for entry in entries]
    assert len(kinds) == 2002
    assert {name for name, is_link, _ in kinds if is_link} == names
    assert [name for name, _, is_folder in kinds if is_folder] == ["folder"]
    with os.scandir(mount) as entries:
        for entry in entries:
            if entry.is_symlink():
                os.unlink(entry)
    assert sorted(os.listdir(mount)) == ["file", "folder"]


# -- attributes


def test_chmod_and_chown(mount: Path):
    """Goal: mode bits, owner and group are kept, on files and folders; -1 leaves one as it is."""
    (mount / "file").touch()
    (mount / "folder").mkdir(mode=0o2750)
    os.chmod(mount / "file", 0o4751)
    os.chown(mount / "file", 12, 34)
    os.chmod(mount / "file", 0o4751)
    os.chown(mount / "folder", -1, 56)
    file, folder = os.stat(mount / "file"), os.stat(mount / "folder")
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid) == (0o4751, 12, 34)
    assert (stat.S_ISDIR(folder.st_mode), folder.st_uid, folder.st_gid) == (True, 0, 56)


def test_umask_is_applied_once(mount: Path):
    """Goal: new files and folders have mode & ~umask."""
    before = os.umask(0o027)
    try:
        os.close(os.open(mount / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(mount / "folder", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(mount / "file").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(mount / "folder").st_mode) == 0o750


def test_times_in_nanoseconds(mount: Path):
    """Goal: utimensat's times are kept to the nanosecond, before 1970 too; `touch` sets now."""
    file = mount / "file"
    file.touch()
    for times in ((1_234_567_890_123_456_789, 987_654_321_012_345_678), (-5, -1_500_000_000)):
        os.utime(file, ns=times)
        assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == times
    before = time.time_ns()
    os.utime(file)
    assert abs(file.stat().st_mtime_ns - before) < 5 * 10**9
    os.utime(mount, ns=(7, 8))
    assert (mount.stat().st_atime_ns, mount.stat().st_mtime_ns) == (7, 8)


def test_mtime_after_close_is_that_of_the_last_write(mount: Path):
    """Goal: neither close nor the upload moves it; times that were set after the last write stay (cp -p, tar)."""
    file = mount / "file"
    with file.open("wb") as handle:
        handle.write(b"content")
        handle.flush()
        written = os.fstat(handle.fileno()).st_mtime_ns
        assert abs(written - time.time_ns()) < 2 * 10**9
        # The clock must have moved on before close() for the test to mean something.
        while time.time_ns() < written + 30_000_000:
            time.sleep(0.005)
    assert file.stat().st_mtime_ns == written
    with file.open("ab") as handle:
        handle.write(b"more")
        handle.flush()
        os.utime(handle.fileno(), ns=(1_000, 2_000))
    assert file.stat().st_mtime_ns == 2_000
    with file.open("ab") as handle:
        os.utime(handle.fileno(), ns=(1_000, 2_000))
        handle.write(b"more")
    assert file.stat().st_mtime_ns > 10**18


def test_cp_p_keeps_times_and_modes(mount: Path, tmp_path: Path):
    """Goal: cp -p brings mode and mtime along, to the mount and on it."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    source.chmod(0o640)
    os.utime(source, ns=(10**18 + 1, 10**18 + 2))
    subprocess.run(["cp", "-p", source, mount / "one"], check=True)
    subprocess.run(["cp", "-p", mount / "one", mount / "two"], check=True)
    for copy in (mount / "one", mount / "two"):
        assert (copy.stat().st_mtime_ns, stat.S_IMODE(copy.stat().st_mode)) == (10**18 + 2, 0o640)
        assert copy.read_bytes() == source.read_bytes()


def test_size_and_links_of_folders_and_files(mount: Path):
    """Goal: link counts are those that find and tar rely on; inode numbers are unique and stable."""
    (mount / "sub").mkdir()
    (mount / "file").write_bytes(b"x" * 1000)
    assert (mount / "file").stat().st_nlink == 1
    assert mount.stat().st_nlink in (1, 3)
    inos = {path.stat().st_ino for path in (mount, mount / "sub", mount / "file")}
    assert len(inos) == 3
    assert {os.stat(mount / entry.name).st_ino for entry in os.scandir(mount)} == {
        entry.inode() for entry in os.scandir(mount)
    }


def test_statfs_answers(mount: Path):
    """Goal: df has figures that make sense, and names may have 255 bytes."""
    space = os.statvfs(mount)
    assert space.f_namemax == 255
    assert 0 < space.f_bavail <= space.f_blocks
    assert subprocess.run(["df", "-i", mount], capture_output=True, check=True).stdout


def test_fsync_of_files_and_folders(mount: Path):
    """Goal: both succeed, also twice and without a change."""
    with (mount / "file").open("wb") as handle:
        handle.write(b"content")
        handle.flush()
        for _ in range(2):
            os.fsync(handle.fileno())
            os.fdatasync(handle.fileno())
    folder = os.open(mount, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# -- users


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_permissions_of_another_user(mount: Path):
    """Goal: the kernel checks modes for everybody: nobody reads what is public and nothing else, and owns its own."""
    (mount / "public").write_text("public")
    (mount / "secret").write_text("secret")
    (mount / "secret").chmod(0o600)
    (mount / "drop").mkdir()
    (mount / "drop").chmod(0o1777)
    (mount / "drop" / "root").write_text("")

    def as_nobody(script: str) -> int:
        command = [*NOBODY, "sh", "-c", script]
        return subprocess.run(command, cwd=mount, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode

    assert as_nobody("cat public") == 0
    assert as_nobody("cat secret") != 0
    assert as_nobody("echo x >> public") != 0
    assert as_nobody("echo x > new") != 0
    assert as_nobody("echo x > drop/own && cat drop/own && chmod 600 drop/own") == 0
    assert (mount / "drop" / "own").stat().st_uid == 65534
    assert as_nobody("rm -f drop/root") != 0
    assert as_nobody("chmod 777 public") != 0


@pytest.mark.drivers("linux", "fusepy")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it")
def test_set_ids_and_devices_count_where_root_says_so(shared, mount: Path):
    """Goal: a device node cannot be opened, and a set-user-id program runs with nobody's rights but the caller's, save
    on a mount that lifts these guards."""
    shutil.copy("/usr/bin/id", mount / "id")
    os.chown(mount / "id", 65534, 65534)
    os.chmod(mount / "id", 0o4755)
    os.mknod(mount / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    trusting = shared.mount("--suid", "--dev")
    try:
        for folder, uid in ((mount, "0"), (trusting.point / mount.name, "65534")):
            ran = subprocess.run([folder / "id", "-u"], capture_output=True, text=True, check=True)
            assert ran.stdout == f"{uid}\n"
        with error(errno.EACCES):
            os.open(mount / "zero", os.O_RDONLY)
        assert (trusting.point / mount.name / "zero").open("rb").read(3) == bytes(3)
    finally:
        trusting.unmount()


def test_read_only_mount(shared, mount: Path):
    """Goal: reading works and every change is EROFS."""
    (mount / "file").write_text("content")
    reader = shared.mount("--read-only")
    there = reader.point / mount.name
    try:
        assert (there / "file").read_text() == "content"
        assert os.listdir(there) == ["file"]
        changes = [
            lambda: os.open(there / "new", os.O_CREAT | os.O_WRONLY),
            lambda: os.open(there / "file", os.O_WRONLY | os.O_APPEND),
            lambda: os.mkdir(there / "folder"),
            lambda: os.unlink(there / "file"),
            lambda: os.rename(there / "file", there / "other"),
            lambda: os.chmod(there / "file", 0o600),
            lambda: os.truncate(there / "file", 0),
            lambda: os.utime(there / "file"),
        ]
        for change in changes:
            with error(errno.EROFS):
                change()
    finally:
        reader.unmount()
