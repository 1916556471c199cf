"""dfs unmount: umount, with a word about what is not on the servers yet; with --flush that is sent first."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from dfsfuse import errors, mountpoint, tables
from dfsfuse import home as homes
from dfsfuse.commands.leftovers import Ask, Upload, has_ended, uploads_of
from dfsfuse.commands.progress import Progress
from dfsfuse.commands.reach import home_of
from dfsfuse.messages import size_as_text
from dfsfuse.rpc import Rpc
from dfsfuse.sent_bytes import sent_in
from dfsfuse.tables import count_text, shown

_LOOK_S = 0.1
_END_GRACE_S = 10.0
_SOURCE = "dfsfuse:"


def unmount(arguments: argparse.Namespace) -> int:
    point = mountpoint.resolve(arguments.mountpoint)
    folder = _folder_of(point, home_of(arguments))
    if has_ended(folder):
        return _unmount_dead(point, folder, arguments.flush)
    if arguments.flush:
        _flush(point, folder, arguments.timeout)
    _told(lambda: mountpoint.unmount(point))
    _await_end(point, folder, arguments.timeout + _END_GRACE_S)
    left = _pending(folder)
    tables.write_line(f"{point} is unmounted; {_left_text(point, left)}")
    return 1 if left and arguments.flush else 0


def _folder_of(point: str, home: Path) -> Path:
    """The folder of the client that is mounted there. Raises NotFound."""
    mount = mountpoint.mounted_at(point)
    if mount is None or mount.fstype != mountpoint.FSTYPE:
        raise errors.NotFound(f"{point}: no dfsfuse volume is mounted there")
    folder = homes.client_folder(home, mount.source.removeprefix(_SOURCE), point)
    if not (folder / homes.CLIENT_LOCK).exists():
        raise errors.NotFound(
            f"{point}: its client is not of home {home}; name its home (--home DIR before the command, or $DFS_HOME)"
        )
    return folder


def _unmount_dead(point: str, folder: Path, flush: bool) -> int:
    if flush:
        raise errors.Unreachable(
            f"{point}: its client was killed, so nothing is sent; mount it again: what it has left is sent then"
        )
    _told(lambda: mountpoint.detach(point))
    tables.write_line(f"{point} is unmounted, as its client was killed; {_left_text(point, _pending(folder))}")
    return 0


def _told(work: Callable[[], None]) -> None:
    try:
        work()
    except mountpoint.MountError as error:
        raise errors.Busy(str(error)) from None


def _pending(folder: Path) -> list[Upload]:
    """What is not on the servers yet, as far as the client has heard, of what programs have closed."""
    return uploads_of(folder, Ask(Rpc(""), None))


def _left_text(point: str, left: list[Upload]) -> str:
    if not left:
        return "all of it is on the servers"
    how_much = f"{count_text(len(left), 'file')}, {size_as_text(sum(upload.size for upload in left))}"
    return f"not on the servers yet: {how_much}; the next mount on {point} sends them (`dfs status` lists them)"


def _await_end(point: str, folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not has_ended(folder):
        if time.monotonic() > deadline:
            raise errors.TimedOut(f"{point} is unmounted, but its client (see {folder / 'client.log'}) has not ended")
        time.sleep(_LOOK_S)


# -- flushing


class Stall:
    """Whether something that is looked at now and then has stood still for `wait_s`."""

    def __init__(self, wait_s: float, clock: Callable[[], float] = time.monotonic):
        self._wait_s, self._clock = wait_s, clock
        self._seen: object = None
        self._until_s = 0.0

    def is_over(self, now: object) -> bool:
        """`now` is what is seen: whatever differs from what was seen before is progress."""
        if now != self._seen or not self._until_s:
            self._seen, self._until_s = now, self._clock() + self._wait_s
        return self._clock() > self._until_s


def _flush(point: str, folder: Path, timeout_s: float) -> None:
    """Returns when nothing is pending; raises TimedOut when nothing has gone on for `timeout_s`."""
    stall, left, told = Stall(timeout_s), _pending(folder), -1
    with Progress(lambda: sum(upload.size for upload in left)) as progress:
        bar = _Bar(progress, left, sent_in(folder))
        while left:
            if stall.is_over(([upload[:2] for upload in left], sent_in(folder))):
                raise errors.TimedOut(_stalled_text(point, left, timeout_s))
            if len(left) != told and not progress.is_shown:
                told = len(left)
                tables.write_progress(_waiting_text(left))
            bar.look(left, sent_in(folder))
            time.sleep(_LOOK_S)
            left = _pending(folder)
        bar.look(left, sent_in(folder))


class _Bar:
    """Bytes that are not pending any more, and of those that are being sent what the servers have taken."""

    def __init__(self, progress: Progress, left: list[Upload], sent: int):
        self._progress, self._total, self._shown = progress, sum(upload.size for upload in left), 0
        self._left, self._sent = left, sent

    def look(self, left: list[Upload], sent: int) -> None:
        if left != self._left:
            self._left, self._sent = left, sent
        pending = sum(upload.size for upload in left)
        done = max(self._shown, self._total - pending + min(pending, sent - self._sent))
        self._progress.advance(done - self._shown)
        self._shown = done
        if left:
            self._progress.name(f"{count_text(len(left), 'file')} left, {os.fsdecode(left[0].path)}")


def _waiting_text(left: list[Upload]) -> str:
    size = size_as_text(sum(upload.size for upload in left))
    return f"waiting for {count_text(len(left), 'file')}, {size}: {shown(left[0].path)}: {shown(left[0].reason)}"


def _stalled_text(point: str, left: list[Upload], timeout_s: float) -> str:
    return (
        f"{point} stays mounted, as {count_text(len(left), 'file')} could not be sent, and nothing has gone on for "
        f"{timeout_s:g} s: {shown(left[0].path)}: {shown(left[0].reason)}; without --flush the next mount sends them"
    )
