"""What /proc tells of the programs that use a mount."""

import os


def command_of(pid: int) -> str:
    """The name of a process, "" where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as comm:
            return comm.read().decode(errors="replace").strip()
    except OSError:
        return ""


def process_of(thread: int) -> int:
    """The process of a thread: the kernel names the thread that called. The thread itself where it is gone."""
    try:
        # Only the first thread of a process, whose number is the process's, can be opened so.
        os.close(os.pidfd_open(thread))
    except OSError:
        return _group_of(thread)
    return thread


def _group_of(thread: int) -> int:
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            return next((int(line[5:]) for line in status if line.startswith(b"Tgid:")), thread)
    except OSError:
        return thread
