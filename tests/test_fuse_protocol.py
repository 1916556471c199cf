"""Structures of the FUSE protocol: their sizes, and the kernel's own header where this machine has it."""

import re
from pathlib import Path
from struct import Struct, calcsize

import pytest

from dfsfuse.drivers import fuse_protocol as fuse

HEADER = Path("/usr/include/linux/fuse.h")
SIZES = {
    "fuse_in_header": 40, "fuse_out_header": 16, "fuse_init_in": 16, "fuse_init_in_ext": 64, "fuse_init_out": 64,
    "fuse_attr": 88, "fuse_attr_out": 104, "fuse_entry_out": 128, "fuse_getattr_in": 16, "fuse_setattr_in": 88,
    "fuse_statx_in": 24, "fuse_statx_out": 288, "fuse_statfs_out": 80, "fuse_forget_in": 8, "fuse_batch_forget_in": 8,
    "fuse_forget_one": 16, "fuse_mknod_in": 16, "fuse_mkdir_in": 8, "fuse_rename_in": 8, "fuse_rename2_in": 16,
    "fuse_link_in": 8, "fuse_open_in": 8, "fuse_create_in": 16, "fuse_open_out": 16, "fuse_create_out": 144,
    "fuse_release_in": 24, "fuse_flush_in": 24, "fuse_fsync_in": 16, "fuse_read_in": 40, "fuse_write_in": 40,
    "fuse_write_out": 8, "fuse_fallocate_in": 32, "fuse_lseek_in": 24, "fuse_lseek_out": 8,
    "fuse_copy_file_range_in": 56, "fuse_copy_file_range_out": 8, "fuse_setxattr_in": 16, "fuse_getxattr_in": 8,
    "fuse_getxattr_out": 8, "fuse_file_lock": 24, "fuse_lk_in": 48, "fuse_interrupt_in": 8, "fuse_dirent": 24,
    "fuse_direntplus": 152, "fuse_notify_inval_inode_out": 24, "fuse_notify_inval_entry_out": 16,
    "fuse_notify_store_out": 24, "fuse_notify_prune_out": 16, "fuse_dev_ioc_clone": 4, "fuse_backing_map": 16,
    "fuse_dev_ioc_backing_close": 4,
}  # fmt: skip
OWN = {"fuse_init_in_ext", "fuse_create_out", "fuse_dev_ioc_clone", "fuse_dev_ioc_backing_close", "fuse_init_in"}
"""Compositions, and structures in the form that this driver negotiates."""


def structures() -> dict[str, Struct]:
    return {name: value for name, value in vars(fuse).items() if isinstance(value, Struct)}


def test_sizes_are_the_kernels():
    """Goal: each structure has the size that the kernel counts with."""
    assert {name: structure.size for name, structure in structures().items()} == SIZES


def fields_of(structure: Struct) -> list[tuple[int, int]]:
    """(offset, size) of each field that is no padding."""
    found, offset = [], 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", structure.format):
        times = 1 if kind == "x" else int(count or 1)
        size = calcsize("=" + kind) if kind != "x" else int(count or 1)
        for _ in range(times):
            if kind != "x":
                found.append((offset, size))
            offset += size
    return found


class Header:
    """What <linux/fuse.h> says."""

    def __init__(self, text: str):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        self.structures = dict(re.findall(r"struct (\w+) \{(.*?)\n\};", text, flags=re.S))
        defined = re.findall(r"#define\s+(FUSE_\w+|FATTR_\w+|FOPEN_\w+)\s+(\(1(?:ULL)? << \d+\)|\d+)\s*\n", text)
        self.numbers = {name: eval(value.replace("ULL", "")) for name, value in defined}  # noqa: S307
        self.numbers |= {name: int(value) for name, value in re.findall(r"(FUSE_\w+)\s*= (\d+),", text)}

    def fields(self, name: str, start: int = 0) -> list[tuple[int, int]]:
        """(offset, size) of each field of a structure, those of inner ones included."""
        found, sizes = [], {"64": 8, "32": 4, "16": 2}
        for kind, field, count in re.findall(r"([\w ]+?)\s+(\w+)(?:\[(\d*)\])?;", self.structures[name]):
            kind = kind.strip()
            if kind == "char":
                continue
            for _ in range(int(count or 1)):
                inner = self.fields(kind.split()[1], start) if kind.startswith("struct") else None
                inner = inner or [(start, sizes[re.sub(r"\D", "", kind)])]
                found += inner
                start = inner[-1][0] + inner[-1][1]
            assert field
        return found


@pytest.mark.skipif(not HEADER.exists(), reason="NOT RUN: there is no /usr/include/linux/fuse.h (linux-libc-dev)")
def test_structures_are_those_of_the_header():
    """Goal: each field that is read or written stands where the kernel's own header has one of its size."""
    header = Header(HEADER.read_text())
    compared = 0
    for name, structure in structures().items():
        if name in header.structures and name not in OWN:
            assert set(fields_of(structure)) <= set(header.fields(name)), name
            compared += 1
    assert compared > 35


@pytest.mark.skipif(not HEADER.exists(), reason="NOT RUN: there is no /usr/include/linux/fuse.h (linux-libc-dev)")
def test_numbers_are_those_of_the_header():
    """Goal: opcodes and flags have the header's values, where it is new enough to have them."""
    header = Header(HEADER.read_text())
    ours = {name: value for name, value in vars(fuse).items() if isinstance(value, int) and name in header.numbers}
    ours.pop("FUSE_KERNEL_MINOR_VERSION")
    assert len(ours) > 100
    assert ours == {name: header.numbers[name] for name in ours}


def test_times_before_1970_keep_their_sign():
    """Goal: the kernel takes seconds as signed, although its header says otherwise."""
    packed = fuse.fuse_attr.pack(1, 2, 3, -4, -5, -6, *range(10))
    assert fuse.fuse_attr.unpack(packed)[3:6] == (-4, -5, -6)


def test_every_opcode_has_its_name():
    """Goal: the log names requests, and no two opcodes share a number."""
    names = [name for name in vars(fuse) if name.startswith("FUSE_") and fuse.OPCODES.get(vars(fuse)[name]) == name[5:]]
    assert len(names) == len(fuse.OPCODES) == 51
    assert fuse.OPCODES[fuse.FUSE_READDIRPLUS] == "READDIRPLUS"
