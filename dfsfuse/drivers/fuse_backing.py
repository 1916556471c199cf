"""Files that the kernel reads itself (passthrough): it is given a descriptor and answers with an id, which the reply to
an open names.

Linux 6.9 or newer has it, for root, on file systems that are not stacked upon others (overlayfs). Whether it works here
is tried when the mount begins.

Threads: any. Fields are simple values whose races do no harm.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from dfsfuse.drivers import fuse_protocol as fuse

log = logging.getLogger(__name__)

LEAST_BYTES = 1 << 20
"""Smaller files are quicker through the kernel's own pages, which it keeps from open to open."""


class Backing:
    """`device` is the mount's. `on`: files can be given to the kernel."""

    def __init__(self, device: int):
        self._device = device
        self.on = False

    def try_in(self, folder: Path, ask_for_lease: Callable[[int], None]) -> None:
        """Find out whether files there can be given, and whether the system then tells who has them."""
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                ask_for_lease(file.fileno())
                self._close(self._open(file.fileno()))
        except OSError as error:
            self.refused(f"{folder}: {error.strerror}")
            return
        self.on = True
        log.info("passthrough: cached files of %d KiB or more are read by the kernel itself", LEAST_BYTES >> 10)

    def refused(self, why: str) -> None:
        self.on = False
        log.info("no passthrough (%s): all reads go through this client", why)

    def open(self, fd: int) -> int:
        """The id; 0 where the kernel does not take it."""
        try:
            return self._open(fd)
        except OSError as error:
            log.warning("the kernel does not take a file: %s", error)
            return 0

    def close(self, number: int) -> None:
        """What is open goes on."""
        try:
            self._close(number)
        except OSError as error:
            log.warning("the kernel does not give a file back: %s", error)

    def _open(self, fd: int) -> int:
        # The answer is the call's own value, which Python returns for a buffer that may be changed alone.
        # One for reading, as the system is asked later whether anybody else has the file open for writing.
        given = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            asked = bytearray(fuse.fuse_backing_map.pack(given, 0))
            return fcntl.ioctl(self._device, fuse.FUSE_DEV_IOC_BACKING_OPEN, asked)
        finally:
            os.close(given)

    def _close(self, number: int) -> None:
        fcntl.ioctl(self._device, fuse.FUSE_DEV_IOC_BACKING_CLOSE, fuse.fuse_dev_ioc_backing_close.pack(number))
