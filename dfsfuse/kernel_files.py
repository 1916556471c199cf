"""The files of the cache that the kernel reads and writes itself, as drivers ask for them.

    lending.py         what may be given, and who may still have it
    unseen_writes.py   what programs have written
    room.py            room for what they write

Threads: any; see there.
"""

from dfsfuse import lending, unseen_writes
from dfsfuse.cache import Cache
from dfsfuse.content import Content
from dfsfuse.room import Room


class KernelFiles:
    """`sizes`: from which size to which the kernel may write files; None: none."""

    def __init__(self, cache: Cache):
        self.sizes: tuple[int, int] | None = None
        self.lend, self.take_back, self.is_in_memory = lending.lend, lending.take_back, lending.is_in_memory
        self.ask_for_lease, self.leave, self.lend_to_write = lending.ask_for_lease, lending.leave, lending.lend_to_write
        self.may_close, self.not_lent, self.find = lending.may_close, lending.not_lent, unseen_writes.find
        self._room = Room(cache.home, cache.evict_all, lambda: any(each.unseen.writers for each in cache.in_use()))

    def prepare_to_write(self, content: Content) -> bool:
        """As lending.py has it, and where the disk has room for what will be written."""
        if not self._room.is_ample() or not lending.prepare_to_write(content):
            return False
        self._room.keep()
        return True

    def opened_to_write(self, content: Content) -> None:
        """Before the index is told that it may be written."""
        if not content.unseen.writers:
            content.unseen.passes = content.unseen.rested() and lending.passes(content, self.sizes)
