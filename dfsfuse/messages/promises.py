"""Messages about promises: what the directory calls back about, and how a client hears it."""

from dfsfuse.messages.base import Message
from dfsfuse.messages.tree import OwedAttributes

EVERYTHING = 0
"""In place of an inode number: all that was promised."""


class Broken(Message):
    """What is about to change. With `name`: that entry of the folder `ino`, and the folder's attributes; the promise
    about its other entries goes on. Without: the inode, and its entries if it is a folder; the promise has ended."""

    ino: int
    name: bytes = b""


class Doubt(Message, frozen=True):
    """A change whose outcome the client does not know, as it has not been answered in time."""

    session: int
    slot: int
    sequence: int


class Owed(Message):
    """What a client has set of an inode's attributes, and not told yet (tree.py)."""

    ino: int
    attributes: OwedAttributes


class Watch(Message, kw_only=True):
    """Wait for what breaks the session's promises. Each one renews the lease of all promises, and says that the events
    up to `heard` are heard: nothing of what they name is used any more.

    `epoch` is that of the answer before; 0: there was none. `number` rises with each: one that a later one has
    overtaken, or that has been answered before, is refused (0: they are taken as they come). `dropped`: inodes of which
    nothing need be told any more. `doubts` are not executed from now on, if they have not been: they would break this
    client's own promises. `owed` is of what is about to change, and comes before that."""

    session: int
    epoch: int = 0
    number: int = 0
    heard: int = 0
    dropped: list[int] = []
    doubts: list[Doubt] = []
    owed: list[Owed] = []


class Watched(Message, kw_only=True):
    """`events` are all that were not heard, `number` that of the last one. `void`: nothing that was promised before is
    any more, as this is another epoch."""

    epoch: int
    number: int = 0
    events: list[Broken] = []
    void: bool = False
