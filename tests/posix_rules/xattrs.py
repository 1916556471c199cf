"""Extended attributes: namespaces, flags, sizes, and who may."""

import errno
import os
from pathlib import Path

from support import error

from posix_rules.calls import getxattr, listxattr
from posix_rules.files import made, made_folder, opened
from posix_rules.processes import as_user, in_child, needs_root

VALUE_MAX = 65536
NAME_MAX = 255

# -- setting and getting


def setxattr_keeps_a_value(folder: Path) -> None:
    """What was set is what is got, byte by byte, also when it is empty. (setxattr(2))"""
    made(folder / "file")
    for value in (b"value", b"", bytes(range(256)), b"\0"):
        os.setxattr(folder / "file", "user.name", value)
        assert os.getxattr(folder / "file", "user.name") == value


def setxattr_works_on_folders(folder: Path) -> None:
    """Folders have attributes as files have. (xattr(7))"""
    (folder / "sub").mkdir()
    os.setxattr(folder / "sub", "user.name", b"value")
    assert os.getxattr(folder / "sub", "user.name") == b"value"


def setxattr_by_descriptor(folder: Path) -> None:
    """fsetxattr(), fgetxattr(), flistxattr() and fremovexattr() work on the open file. (fsetxattr(2))"""
    with opened(folder / "file") as fd:
        os.setxattr(fd, "user.name", b"value")
        assert os.getxattr(folder / "file", "user.name") == os.getxattr(fd, "user.name") == b"value"
        assert _user_names(fd) == ["user.name"]
        os.removexattr(fd, "user.name")
    assert _user_names(folder / "file") == []


def setxattr_follows_symlinks(folder: Path) -> None:
    """The target's attribute is set and got, unless the symlink itself is meant. (setxattr(2))"""
    made(folder / "file")
    os.symlink("file", folder / "link")
    os.setxattr(folder / "link", "user.name", b"value")
    assert os.getxattr(folder / "file", "user.name") == b"value"
    with error(errno.ENODATA):
        os.getxattr(folder / "link", "user.name", follow_symlinks=False)


def setxattr_replaces(folder: Path) -> None:
    """A second value takes the place of the first, longer or shorter. (setxattr(2))"""
    made(folder / "file")
    for value in (b"value", b"a longer value", b"x"):
        os.setxattr(folder / "file", "user.name", value)
        assert os.getxattr(folder / "file", "user.name") == value
    assert _user_names(folder / "file") == ["user.name"]


def xattr_create_refuses_what_exists(folder: Path) -> None:
    """XATTR_CREATE of an existing attribute is EEXIST, and the value stays. (setxattr(2))"""
    made(folder / "file")
    os.setxattr(folder / "file", "user.name", b"value", os.XATTR_CREATE)
    with error(errno.EEXIST):
        os.setxattr(folder / "file", "user.name", b"other", os.XATTR_CREATE)
    assert os.getxattr(folder / "file", "user.name") == b"value"


def xattr_replace_refuses_what_is_missing(folder: Path) -> None:
    """XATTR_REPLACE of a missing attribute is ENODATA, and none is made. (setxattr(2))"""
    made(folder / "file")
    with error(errno.ENODATA):
        os.setxattr(folder / "file", "user.name", b"value", os.XATTR_REPLACE)
    assert _user_names(folder / "file") == []
    os.setxattr(folder / "file", "user.name", b"value")
    os.setxattr(folder / "file", "user.name", b"other", os.XATTR_REPLACE)
    assert os.getxattr(folder / "file", "user.name") == b"other"


def setxattr_refuses_unknown_flags(folder: Path) -> None:
    """Flags that nobody knows are EINVAL. (setxattr(2))"""
    made(folder / "file")
    with error(errno.EINVAL):
        os.setxattr(folder / "file", "user.name", b"value", 0x10)


def a_missing_attribute_is_enodata(folder: Path) -> None:
    """Getting and removing what is not set. (getxattr(2))"""
    made(folder / "file")
    for call in (os.getxattr, os.removexattr):
        with error(errno.ENODATA):
            call(folder / "file", "user.none")


def attributes_of_a_missing_file_are_refused(folder: Path) -> None:
    """ENOENT, by every call. (getxattr(2))"""
    calls = (
        lambda path: os.getxattr(path, "user.name"),
        lambda path: os.setxattr(path, "user.name", b"value"),
        lambda path: os.removexattr(path, "user.name"),
        os.listxattr,
    )
    for call in calls:
        with error(errno.ENOENT):
            call(folder / "none")


# -- listing and removing


def _user_names(path: Path | int) -> list[str]:
    """The names in user., sorted: a machine's security module may add some of its own."""
    return sorted(name for name in os.listxattr(path) if name.startswith("user."))


def listxattr_has_every_name(folder: Path) -> None:
    """All that were set and not removed, each once. (listxattr(2))"""
    made(folder / "file")
    names = [f"user.{number:02}" for number in range(20)]
    for name in names:
        os.setxattr(folder / "file", name, b"value")
    assert _user_names(folder / "file") == names
    for name in names[::2]:
        os.removexattr(folder / "file", name)
    assert _user_names(folder / "file") == names[1::2]


def a_new_file_has_no_user_attributes(folder: Path) -> None:
    """A file that is made under a name that was used has none of the former's. (listxattr(2))"""
    os.setxattr(made(folder / "file"), "user.name", b"value")
    (folder / "file").unlink()
    assert _user_names(made(folder / "file")) == []


def names_of_attributes_may_have_any_byte(folder: Path) -> None:
    """Dots, blanks and bytes that are no text. (xattr(7))"""
    path = os.fsencode(made(folder / "file"))
    names = [b"user.a.b.c", b"user. ", b"user.\xff\xfe", "user.Grüße".encode()]
    for name in names:
        os.setxattr(path, name, name)
    assert sorted(map(os.fsencode, _user_names(folder / "file"))) == sorted(names)
    assert [os.getxattr(path, name) for name in names] == names


def attributes_stay_with_the_file(folder: Path) -> None:
    """rename, writing and chmod leave them. (xattr(7))"""
    os.setxattr(made(folder / "old"), "user.name", b"value")
    os.rename(folder / "old", folder / "new")
    made(folder / "new", b"content").chmod(0o600)
    assert os.getxattr(folder / "new", "user.name") == b"value"


def attributes_are_seen_by_others_at_once(folder: Path) -> None:
    """Another process gets the value that this one has set, and the next. (setxattr(2))"""
    made(folder / "file")
    for value in (b"one", b"two"):
        os.setxattr(folder / "file", "user.name", value)
        assert in_child(os.getxattr, folder / "file", "user.name") == value


# -- sizes


def getxattr_tells_the_size(folder: Path) -> None:
    """With a buffer of 0 it returns the size of the value. (getxattr(2))"""
    os.setxattr(made(folder / "file"), "user.name", b"x" * 100)
    assert getxattr(folder / "file", "user.name", 0) == 100
    assert getxattr(folder / "file", "user.name", 100) == 100
    assert getxattr(folder / "file", "user.name", 1000) == 100


def getxattr_into_a_short_buffer_is_refused(folder: Path) -> None:
    """A buffer that is too short is ERANGE. (getxattr(2))"""
    os.setxattr(made(folder / "file"), "user.name", b"x" * 100)
    with error(errno.ERANGE):
        getxattr(folder / "file", "user.name", 99)


def listxattr_tells_the_size(folder: Path) -> None:
    """With a buffer of 0 it returns the size of the list; a short buffer is ERANGE. (listxattr(2))"""
    path = made(folder / "file")
    os.setxattr(path, "user.one", b"value")
    size = listxattr(path, 0)
    os.setxattr(path, "user.three", b"value")
    assert listxattr(path, 0) == size + len("user.three\0") == listxattr(path, 1000)
    with error(errno.ERANGE):
        listxattr(path, size)


def values_may_have_kilobytes(folder: Path) -> None:
    """3,000 bytes fit on every file system. (xattr(7))"""
    value = os.urandom(3000)
    os.setxattr(made(folder / "file"), "user.name", value)
    assert os.getxattr(folder / "file", "user.name") == value


def values_beyond_64_kib_are_refused(folder: Path) -> None:
    """More than XATTR_SIZE_MAX is E2BIG. (xattr(7))"""
    with error(errno.E2BIG):
        os.setxattr(made(folder / "file"), "user.name", b"x" * (VALUE_MAX + 1))


def names_of_attributes_may_have_255_bytes(folder: Path) -> None:
    """The whole name counts; one byte more is ERANGE. (xattr(7))"""
    path = made(folder / "file")
    longest = "user." + "x" * (NAME_MAX - 5)
    os.setxattr(path, longest, b"value")
    assert _user_names(path) == [longest]
    with error(errno.ERANGE):
        os.setxattr(path, longest + "x", b"value")


# -- namespaces


def user_attributes_are_for_files_and_folders(folder: Path) -> None:
    """user. cannot be set on symlinks and FIFOs: EPERM. (xattr(7))"""
    os.symlink("none", folder / "link")
    os.mkfifo(folder / "fifo")
    for name in ("link", "fifo"):
        with error(errno.EPERM):
            os.setxattr(folder / name, "user.name", b"value", follow_symlinks=False)


@needs_root
def trusted_attributes_are_for_root(folder: Path) -> None:
    """Root sets and lists trusted., others cannot set it (EPERM) nor see it (ENODATA). (xattr(7))"""
    made(folder / "file").chmod(0o666)
    os.setxattr(folder / "file", "trusted.name", b"value")
    assert os.getxattr(folder / "file", "trusted.name") == b"value"
    assert "trusted.name" in os.listxattr(folder / "file")
    with error(errno.EPERM):
        as_user(os.setxattr, folder / "file", "trusted.name", b"other")
    with error(errno.ENODATA):
        as_user(os.getxattr, folder / "file", "trusted.name")


@needs_root
def trusted_attributes_are_not_listed_to_others(folder: Path) -> None:
    """listxattr() of an unprivileged process leaves trusted. out. (xattr(7))"""
    made(folder / "file")
    os.setxattr(folder / "file", "trusted.name", b"value")
    os.setxattr(folder / "file", "user.name", b"value")
    listed = as_user(os.listxattr, folder / "file")
    assert "user.name" in listed
    assert "trusted.name" not in listed


@needs_root
def trusted_attributes_work_on_symlinks(folder: Path) -> None:
    """What user. cannot. (xattr(7))"""
    os.symlink("none", folder / "link")
    os.setxattr(folder / "link", "trusted.name", b"value", follow_symlinks=False)
    assert os.getxattr(folder / "link", "trusted.name", follow_symlinks=False) == b"value"


@needs_root
def security_attributes_are_for_root(folder: Path) -> None:
    """Root sets security., everybody may read it, others cannot set it: EPERM. (xattr(7))"""
    made(folder / "file").chmod(0o666)
    os.setxattr(folder / "file", "security.name", b"value")
    assert as_user(os.getxattr, folder / "file", "security.name") == b"value"
    with error(errno.EPERM):
        as_user(os.setxattr, folder / "file", "security.name", b"other")


def unknown_namespaces_are_refused(folder: Path) -> None:
    """A name without a known prefix is EOPNOTSUPP. (xattr(7))"""
    for name in ("name", "unknown.name", "username"):
        with error(errno.EOPNOTSUPP):
            os.setxattr(made(folder / "file"), name, b"value")


def a_namespace_alone_is_no_name(folder: Path) -> None:
    """A prefix that nothing follows is EINVAL for all calls. (xattr(7))"""
    path = made(folder / "file")
    for name in ("user.", "trusted.", "security."):
        for call in (os.getxattr, os.removexattr, lambda path, name: os.setxattr(path, name, b"value")):
            with error(errno.EINVAL):
                call(path, name)


# -- permissions


@needs_root
def user_attributes_follow_the_mode(folder: Path) -> None:
    """Getting needs r and setting w of the file: EACCES. (xattr(7))"""
    os.setxattr(made(folder / "file"), "user.name", b"value")
    (folder / "file").chmod(0o604)
    assert as_user(os.getxattr, folder / "file", "user.name") == b"value"
    with error(errno.EACCES):
        as_user(os.setxattr, folder / "file", "user.name", b"other")
    (folder / "file").chmod(0o602)
    as_user(os.setxattr, folder / "file", "user.name", b"other")
    with error(errno.EACCES):
        as_user(os.getxattr, folder / "file", "user.name")


@needs_root
def user_attributes_of_a_sticky_folder_are_for_its_owner(folder: Path) -> None:
    """In a folder as /tmp is, who may write cannot set user. on the folder itself: EPERM. (xattr(7))"""
    made_folder(folder / "tmp", 0o1777)
    with error(errno.EPERM):
        as_user(os.setxattr, folder / "tmp", "user.name", b"value")
    os.setxattr(folder / "tmp", "user.name", b"value")
