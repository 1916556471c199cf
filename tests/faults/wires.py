"""Slow links: python -m faults.wires DELAY_S NAME ... carries frames between two interfaces for each name, to-NAME and
at-NAME, each way DELAY_S after they have come. It writes a line when they are there, and goes on until it is killed.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import struct
import sys
import time

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_FRAME_BYTES = 65536


def interface(name: str) -> int:
    """An Ethernet interface whose frames are read from and written to this descriptor."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


class Wires:
    """`pairs`: descriptors of interfaces that are joined."""

    def __init__(self, pairs: list[tuple[int, int]], delay_s: float):
        self._other = dict(pairs) | {other: one for one, other in pairs}
        self._delay_s = delay_s
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()
        self._poll = select.poll()
        for tap in self._other:
            self._poll.register(tap, select.POLLIN)

    def run(self) -> None:
        """For ever."""
        while True:
            due_s = self._under_way[0][0] - time.monotonic() if self._under_way else 60.0
            for tap, _ in self._poll.poll(max(0.0, due_s) * 1000):
                self._take(tap)
            self._deliver(time.monotonic())

    def _take(self, tap: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = os.read(tap, _FRAME_BYTES)
                at_s = time.monotonic() + self._delay_s
                heapq.heappush(self._under_way, (at_s, next(self._count), self._other[tap], frame))

    def _deliver(self, now_s: float) -> None:
        while self._under_way and self._under_way[0][0] <= now_s:
            _, _, tap, frame = heapq.heappop(self._under_way)
            # An interface that is not up yet, or whose queue is full, loses what comes.
            with contextlib.suppress(OSError):
                os.write(tap, frame)


if __name__ == "__main__":
    made = [(interface(f"to-{name}"), interface(f"at-{name}")) for name in sys.argv[2:]]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Wires(made, float(sys.argv[1])).run()
