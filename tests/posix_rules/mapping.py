"""mmap: what a mapping shows, what stores into it do, and when."""

import errno
import os
import signal
from pathlib import Path

from support import error

from posix_rules.files import MIB, made, moved, opened
from posix_rules.memory import EXECUTE, MS_ASYNC, PAGE, PRIVATE, READ, SHARED, WRITE, Mapping
from posix_rules.processes import child, in_child

# -- reading


def a_mapping_shows_the_content(folder: Path) -> None:
    """A shared and a private mapping show what the file holds; behind its end the page is zeros. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd:
        for kind in (SHARED, PRIVATE):
            with Mapping(fd, PAGE, READ, kind) as memory:
                assert memory.read(0, 10) == b"content\0\0\0"


def a_mapping_may_begin_at_any_page(folder: Path) -> None:
    """The offset is a multiple of a page; others are EINVAL. (POSIX mmap)"""
    made(folder / "file", b"a" * PAGE + b"b" * PAGE)
    with opened(folder / "file", os.O_RDONLY) as fd:
        with Mapping(fd, PAGE, READ, offset=PAGE) as memory:
            assert memory.read(0, PAGE) == b"b" * PAGE
        with error(errno.EINVAL):
            Mapping(fd, PAGE, READ, offset=100)


def a_mapping_of_nothing_is_refused(folder: Path) -> None:
    """A length of 0 is EINVAL. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd, error(errno.EINVAL):
        Mapping(fd, 0, READ)


def a_mapping_outlives_its_descriptor(folder: Path) -> None:
    """close() does not end the mapping. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd:
        memory = Mapping(fd, PAGE, READ)
    with memory:
        assert memory.read(0, 7) == b"content"


def a_mapping_outlives_the_name(folder: Path) -> None:
    """After unlink and close the mapping still shows the content, and takes stores. (POSIX unlink)"""
    made(folder / "file", b"x" * PAGE * 4)
    with opened(folder / "file", os.O_RDWR) as fd:
        memory = Mapping(fd, PAGE * 4)
    with memory:
        (folder / "file").unlink()
        memory.store(PAGE, b"stored")
        assert memory.read(PAGE - 1, 8) == b"xstoredx"


def a_mapping_follows_rename(folder: Path) -> None:
    """Stores go into the file, whatever its name is by now. (POSIX rename)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        os.rename(folder / "file", folder / "other")
        made(folder / "file", b"another")
        memory.store(0, b"C")
        memory.sync()
        assert (folder / "other").read_bytes() == b"Content"
    assert (folder / "file").read_bytes() == b"another"


def a_mapping_shows_later_writes(folder: Path) -> None:
    """What write() changes is seen in a shared mapping at once. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE, READ) as memory:
        assert memory.read(0, 7) == b"content"
        os.pwrite(fd, b"C", 0)
        assert memory.read(0, 7) == b"Content"


def a_mapping_shows_what_the_file_grows_by(folder: Path) -> None:
    """Pages behind the end become accessible when the file grows. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, 4 * PAGE, READ) as memory:
        os.ftruncate(fd, 4 * PAGE)
        os.pwrite(fd, b"far", 3 * PAGE)
        assert memory.read(3 * PAGE, 4) == b"far\0"


def a_program_may_run_from_a_mapping(folder: Path) -> None:
    """PROT_EXEC is granted: shared libraries are loaded so. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd, Mapping(fd, PAGE, READ | EXECUTE, PRIVATE) as memory:
        assert memory.read(0, 7) == b"content"


def many_pages_in_any_order(folder: Path) -> None:
    """Pages are brought in one by one, wherever they are touched. (POSIX mmap)"""
    made(folder / "file", b"".join(number.to_bytes(4, "big") * (PAGE // 4) for number in range(512)))
    with opened(folder / "file", os.O_RDONLY) as fd, Mapping(fd, 512 * PAGE, READ) as memory:
        for number in (511, 0, 255, 17, 510, 256):
            assert memory.read(number * PAGE + 8, 4) == number.to_bytes(4, "big")


# -- storing


def a_store_is_read_at_once(folder: Path) -> None:
    """What was stored in a shared mapping is what read() returns. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        memory.store(0, b"C")
        assert os.pread(fd, 100, 0) == b"Content"


def a_store_reaches_the_file_at_msync(folder: Path) -> None:
    """After msync(MS_SYNC) every open of the file has it, in other processes too. (POSIX msync)"""
    made(folder / "file", b"x" * (2 * MIB))
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, 2 * MIB) as memory:
        memory.store(MIB, b"stored")
        memory.sync()
        assert in_child((folder / "file").read_bytes)[MIB - 1 : MIB + 7] == b"xstoredx"


def msync_without_waiting_is_accepted(folder: Path) -> None:
    """MS_ASYNC returns at once, and the store is there. (POSIX msync)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        memory.store(0, b"C")
        memory.sync(MS_ASYNC)
    assert (folder / "file").read_bytes() == b"Content"


def a_store_after_close_reaches_the_file(folder: Path) -> None:
    """What is stored after close() and before munmap() is in the file. (POSIX mmap)"""
    made(folder / "file", b"x" * (3 * PAGE))
    with opened(folder / "file", os.O_RDWR) as fd:
        memory = Mapping(fd, 3 * PAGE)
    memory.store(2 * PAGE, b"late")
    memory.unmap()
    assert (folder / "file").read_bytes() == b"x" * 2 * PAGE + b"late" + b"x" * (PAGE - 4)


def a_store_into_a_hole_fills_it(folder: Path) -> None:
    """A store into a page that nobody has written makes it content. (POSIX mmap)"""
    with opened(folder / "file") as fd:
        os.ftruncate(fd, 4 * PAGE)
        with Mapping(fd, 4 * PAGE) as memory:
            memory.store(2 * PAGE + 1, b"filled")
    assert (folder / "file").read_bytes() == bytes(2 * PAGE + 1) + b"filled" + bytes(2 * PAGE - 7)


def a_store_behind_the_end_is_not_written(folder: Path) -> None:
    """Bytes of the last page behind the end never reach the file, also when it grows later. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd:
        with Mapping(fd, PAGE) as memory:
            memory.store(5, b"NT-BEHIND")
            memory.sync()
        assert os.fstat(fd).st_size == 7
        os.ftruncate(fd, 20)
    assert (folder / "file").read_bytes() == b"conteNT" + bytes(13)


def a_private_store_stays_private(folder: Path) -> None:
    """MAP_PRIVATE needs no right to write, and its stores never reach the file. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd, Mapping(fd, PAGE, READ | WRITE, PRIVATE) as memory:
        memory.store(0, b"C")
        assert memory.read(0, 7) == b"Content"
        assert os.pread(fd, 7, 0) == b"content"
    assert (folder / "file").read_bytes() == b"content"


def two_mappings_are_one_memory(folder: Path) -> None:
    """Shared mappings of one file, through different descriptors, see each other's stores. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as one, opened(folder / "file", os.O_RDWR) as other:
        with Mapping(one, PAGE) as first, Mapping(other, PAGE) as second:
            first.store(0, b"C")
            assert second.read(0, 7) == b"Content"


def mappings_of_two_processes_are_one_memory(folder: Path) -> None:
    """A store of another process is seen without any call in between. (POSIX mmap)"""
    made(folder / "file", b"content")

    def store() -> None:
        with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
            memory.store(0, b"C")

    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        in_child(store)
        assert memory.read(0, 7) == b"Content"


def a_child_inherits_mappings(folder: Path) -> None:
    """After fork() parent and child share what is mapped shared. (POSIX fork)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        in_child(memory.store, 0, b"C")
        assert memory.read(0, 7) == b"Content"
    assert (folder / "file").read_bytes() == b"Content"


def a_store_moves_mtime(folder: Path) -> None:
    """Between a store and the msync() that follows, mtime and ctime are marked. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, Mapping(fd, PAGE) as memory:
        assert moved(folder / "file", lambda: (memory.store(0, b"C"), memory.sync())) == {"mtime", "ctime"}


# -- what is refused


def a_shared_mapping_for_writing_needs_o_rdwr(folder: Path) -> None:
    """PROT_WRITE with MAP_SHARED through O_RDONLY is EACCES. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd, error(errno.EACCES):
        Mapping(fd, PAGE, READ | WRITE, SHARED)


def a_mapping_needs_a_descriptor_for_reading(folder: Path) -> None:
    """O_WRONLY is EACCES, for whatever protection. (POSIX mmap)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_WRONLY) as fd:
        for protection in (READ, WRITE):
            with error(errno.EACCES):
                Mapping(fd, PAGE, protection, SHARED)


def a_folder_cannot_be_mapped(folder: Path) -> None:
    """mmap of a folder is ENODEV. (POSIX mmap)"""
    with opened(folder, os.O_RDONLY) as fd, error(errno.ENODEV):
        Mapping(fd, PAGE, READ)


def a_page_behind_the_end_is_sigbus(folder: Path) -> None:
    """Touching a whole page behind the end ends the process with SIGBUS. (POSIX mmap)"""
    made(folder / "file", b"content")

    def touch(_: object) -> None:
        with opened(folder / "file", os.O_RDONLY) as fd:
            Mapping(fd, 4 * PAGE, READ).read(2 * PAGE, 1)

    with child(touch) as process:
        assert process.status() == -signal.SIGBUS


def a_page_that_was_cut_off_is_sigbus(folder: Path) -> None:
    """The same of a page that was there when it was mapped, and was cut off. (POSIX mmap)"""
    made(folder / "file", b"x" * (4 * PAGE))

    def touch(_: object) -> None:
        with opened(folder / "file", os.O_RDWR) as fd:
            memory = Mapping(fd, 4 * PAGE, READ)
            assert memory.read(3 * PAGE, 1) == b"x"
            os.ftruncate(fd, PAGE)
            memory.read(3 * PAGE, 1)

    with child(touch) as process:
        assert process.status() == -signal.SIGBUS
