"""Where what is in etcd.

base/serving     who serves the directory, bound to a lease (election.py)
base/locking     the same for locks
base/sent        the number of the latest request that changed something (sender.py)
base/data/       the keys of the store
base/redo/       a large transaction on its way (writes.py)
"""

from typing import NamedTuple


class Keys(NamedTuple):
    """Of one volume. `base` ends in a slash."""

    base: bytes

    @property
    def serving(self) -> bytes:
        return self.base + b"serving"

    @property
    def locking(self) -> bytes:
        return self.base + b"locking"

    @property
    def sent(self) -> bytes:
        return self.base + b"sent"

    @property
    def data(self) -> bytes:
        return self.base + b"data/"

    @property
    def redo(self) -> bytes:
        return self.base + b"redo/"
