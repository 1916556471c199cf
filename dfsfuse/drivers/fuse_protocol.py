"""The kernel's FUSE protocol, version 7: opcodes, flags and structures of <linux/fuse.h>, by the names that they have
there.

A request is `fuse_in_header` and, by its opcode, one structure and names that end with a zero byte. A reply is
`fuse_out_header` and one structure. Numbers have the machine's byte order and the kernel's sizes. Structures are
`struct.Struct` objects: their fields are in the header's order, padding is part of them where it is read or written.
Times are signed here, as the kernel takes them.

Pure: no file is touched.
"""

from struct import Struct

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 40
FUSE_MINOR_VERSION_MIN = 34
"""Linux 5.15. What came later is asked for by flags."""
FUSE_ROOT_ID = 1

# -- opcodes

FUSE_LOOKUP, FUSE_FORGET, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK, FUSE_SYMLINK = range(1, 7)
FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_LINK = range(8, 14)
FUSE_OPEN, FUSE_READ, FUSE_WRITE, FUSE_STATFS, FUSE_RELEASE = range(14, 19)
FUSE_FSYNC, FUSE_SETXATTR, FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_REMOVEXATTR = range(20, 25)
FUSE_FLUSH, FUSE_INIT, FUSE_OPENDIR, FUSE_READDIR, FUSE_RELEASEDIR, FUSE_FSYNCDIR = range(25, 31)
FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW, FUSE_ACCESS, FUSE_CREATE, FUSE_INTERRUPT = range(31, 37)
FUSE_BMAP, FUSE_DESTROY, FUSE_IOCTL, FUSE_POLL, FUSE_NOTIFY_REPLY, FUSE_BATCH_FORGET = range(37, 43)
FUSE_FALLOCATE, FUSE_READDIRPLUS, FUSE_RENAME2, FUSE_LSEEK, FUSE_COPY_FILE_RANGE = range(43, 48)
FUSE_SETUPMAPPING, FUSE_REMOVEMAPPING, FUSE_SYNCFS, FUSE_TMPFILE, FUSE_STATX = range(48, 53)
FUSE_COPY_FILE_RANGE_64 = 53

FUSE_NOTIFY_POLL, FUSE_NOTIFY_INVAL_INODE, FUSE_NOTIFY_INVAL_ENTRY, FUSE_NOTIFY_STORE = range(1, 5)
FUSE_NOTIFY_INC_EPOCH, FUSE_NOTIFY_PRUNE = 8, 9
FUSE_MINOR_VERSION_INC_EPOCH = 44
"""Linux 6.16."""

OPCODES = {
    number: name.removeprefix("FUSE_")
    for name, number in list(globals().items())
    if name.startswith("FUSE_") and not name.startswith(("FUSE_KERNEL", "FUSE_MINOR", "FUSE_ROOT", "FUSE_NOTIFY_"))
} | {41: "NOTIFY_REPLY"}
"""Opcode -> its name, for the log."""

# -- flags of INIT; bits 32 to 63 travel as flags2

FUSE_ASYNC_READ = 1 << 0
FUSE_POSIX_LOCKS = 1 << 1
FUSE_ATOMIC_O_TRUNC = 1 << 3
FUSE_EXPORT_SUPPORT = 1 << 4
FUSE_BIG_WRITES = 1 << 5
FUSE_DONT_MASK = 1 << 6
FUSE_FLOCK_LOCKS = 1 << 10
FUSE_AUTO_INVAL_DATA = 1 << 12
FUSE_DO_READDIRPLUS = 1 << 13
FUSE_READDIRPLUS_AUTO = 1 << 14
FUSE_ASYNC_DIO = 1 << 15
FUSE_WRITEBACK_CACHE = 1 << 16
FUSE_NO_OPEN_SUPPORT = 1 << 17
FUSE_PARALLEL_DIROPS = 1 << 18
FUSE_HANDLE_KILLPRIV = 1 << 19
FUSE_POSIX_ACL = 1 << 20
FUSE_ABORT_ERROR = 1 << 21
FUSE_MAX_PAGES = 1 << 22
FUSE_CACHE_SYMLINKS = 1 << 23
FUSE_NO_OPENDIR_SUPPORT = 1 << 24
FUSE_EXPLICIT_INVAL_DATA = 1 << 25
FUSE_HANDLE_KILLPRIV_V2 = 1 << 28
FUSE_SETXATTR_EXT = 1 << 29
FUSE_INIT_EXT = 1 << 30
FUSE_HAS_EXPIRE_ONLY = 1 << 35
FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 36
FUSE_PASSTHROUGH = 1 << 37

# -- other flags

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_KILL_SUIDGID = 1 << 11

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_NOFLUSH = 1 << 5
FOPEN_PASSTHROUGH = 1 << 7

FUSE_GETATTR_FH = 1 << 0
FUSE_OPEN_KILL_SUIDGID = 1 << 0
FUSE_READ_LOCKOWNER = 1 << 1
FUSE_WRITE_CACHE = 1 << 0
FUSE_WRITE_KILL_SUIDGID = 1 << 2
FUSE_FSYNC_FDATASYNC = 1 << 0
FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1
FUSE_LK_FLOCK = 1 << 0
FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0

STATX_BASIC_STATS = 0x7FF

# -- structures; those whose end is a name or data are without it

_ATTR = "QQQqqqIIIIIIIIII"
_ATTR_OUT = "QII" + _ATTR
_ENTRY_OUT = "QQQQII" + _ATTR
_FILE_LOCK = "QQII"
_SX_TIME = "qIi"

fuse_in_header = Struct("=IIQQIIIHH")
fuse_out_header = Struct("=IiQ")

fuse_init_in = Struct("=IIII")
"""Without flags2 and what follows, which only FUSE_INIT_EXT promises."""
fuse_init_in_ext = Struct("=IIIII44x")
fuse_init_out = Struct("=IIIIHHIIHHII24x")
"""The last field is max_stack_depth."""

fuse_attr = Struct("=" + _ATTR)
fuse_attr_out = Struct("=" + _ATTR_OUT)
fuse_entry_out = Struct("=" + _ENTRY_OUT)
fuse_getattr_in = Struct("=IIQ")
fuse_setattr_in = Struct("=I4xQQQqqqIIII4xII4x")
fuse_statx_in = Struct("=IIQII")
fuse_statx_out = Struct("=QII16x" + "IIQIIIHHQQQQ" + 4 * _SX_TIME + "IIII112x")
fuse_statfs_out = Struct("=QQQQQIIII24x")

fuse_forget_in = Struct("=Q")
fuse_batch_forget_in = Struct("=II")
fuse_forget_one = Struct("=QQ")

fuse_mknod_in = Struct("=IIII")
fuse_mkdir_in = Struct("=II")
fuse_rename_in = Struct("=Q")
fuse_rename2_in = Struct("=QI4x")
fuse_link_in = Struct("=Q")

fuse_open_in = Struct("=II")
fuse_create_in = Struct("=IIII")
fuse_open_out = Struct("=QII")
"""(fh, FOPEN_ flags, backing id)"""
fuse_create_out = Struct("=" + _ENTRY_OUT + "QII")
"""What CREATE answers: fuse_entry_out and fuse_open_out."""
fuse_release_in = Struct("=QIIQ")
fuse_flush_in = Struct("=Q8xQ")
fuse_fsync_in = Struct("=QI4x")
fuse_read_in = Struct("=QQIIQI4x")
fuse_write_in = Struct("=QQIIQI4x")
fuse_write_out = Struct("=I4x")
fuse_fallocate_in = Struct("=QQQI4x")
fuse_lseek_in = Struct("=QQI4x")
fuse_lseek_out = Struct("=Q")
fuse_copy_file_range_in = Struct("=QQQQQQQ")
fuse_copy_file_range_out = Struct("=Q")

fuse_setxattr_in = Struct("=IIII")
"""As with FUSE_SETXATTR_EXT."""
fuse_getxattr_in = Struct("=I4x")
fuse_getxattr_out = Struct("=I4x")

fuse_file_lock = Struct("=" + _FILE_LOCK)
fuse_lk_in = Struct("=QQ" + _FILE_LOCK + "I4x")
fuse_interrupt_in = Struct("=Q")

fuse_dirent = Struct("=QQII")
fuse_direntplus = Struct("=" + _ENTRY_OUT + "QQII")

fuse_notify_inval_inode_out = Struct("=Qqq")
fuse_notify_inval_entry_out = Struct("=QII")
"""(folder's node, length of the name, flags); the name follows, with a zero byte."""
fuse_notify_store_out = Struct("=QQI4x")
"""(node, offset, length); the data follows."""
fuse_notify_prune_out = Struct("=I12x")
"""How many numbers of nodes follow."""

FUSE_DEV_IOC_CLONE = 0x8004E500
"""_IOR(229, 0, uint32_t)"""
fuse_dev_ioc_clone = Struct("=I")
FUSE_DEV_IOC_BACKING_OPEN = 0x4010E501
"""_IOW(229, 1, struct fuse_backing_map); answers with the backing id"""
fuse_backing_map = Struct("=iI8x")
"""(descriptor, flags)"""
FUSE_DEV_IOC_BACKING_CLOSE = 0x4004E502
"""_IOW(229, 2, uint32_t)"""
fuse_dev_ioc_backing_close = Struct("=I")


def fuse_dirent_align(length: int) -> int:
    """The room that a fuse_dirent or fuse_direntplus of `length` bytes takes, name included."""
    return length + 7 & ~7
