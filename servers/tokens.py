"""Tokens of locks: each larger than any before, over restarts too. Pure."""

from dfsfuse import errors
from dfsfuse.messages import START_UNKNOWN

TOKENS_PER_START = 1 << 32


class Tokens:
    """`start_number` is larger at each start; 0 before it is known. `given`: how many it has given out."""

    def __init__(self) -> None:
        self.start_number = self.given = 0

    @property
    def left(self) -> int:
        """How many grants this start number is still good for."""
        return TOKENS_PER_START - 1 - self.given

    def next(self) -> int:
        if not self.left:
            raise errors.Internal("this start number has no tokens left; the lock service must be started anew")
        self.given += 1
        return self.start_number * TOKENS_PER_START + self.given

    def is_of_this_start(self, start_number: int) -> bool:
        """Whether a client that was told this number last has been answered since this start. Before the service has a
        number nobody can say so: 0 is what a client names that was never answered."""
        return start_number == START_UNKNOWN or 0 < start_number == self.start_number

    def may_be_of_before(self, token: int) -> bool:
        """Whether an earlier start may have given it."""
        return not self.start_number or token < self.start_number * TOKENS_PER_START
