"""One node of the kernel's, and how a file is opened through it. The rules are in fuse_nodes.py."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dfsfuse.content import Content
from dfsfuse.drivers.fuse_late_reads import LateReads
from dfsfuse.messages import Attributes

GENERATION = 0

Name = tuple[int, bytes]
"""(the folder's inode number, the name in it)."""


class Way(NamedTuple):
    """How a file is opened: the kernel keeps its pages; past them (direct I/O); it must ask for the attributes again;
    the id of the file that it reads itself, 0: it asks the driver. `drop`: it makes the kernel do that one of the
    node's `drops`; 0: none."""

    keep: bool
    direct: bool
    look_again: bool
    backing: int = 0
    drop: int = 0


Lend = Callable[[bool, int], int]
"""Gives the kernel a content's file: (the kernel has pages of it, the id by which it has the file already, or 0) -> the
id, 0 where it is not to have it."""


class Node:
    """`opens` are the files that the kernel has open through the node, `users` those of them that go through its pages,
    or in passthrough; `content` is theirs while there are any. `pages` names the content that the pages are of once the
    kernel has dropped what it had before, which it was told `drops` times; if `dropped` it is known to have done so.
    `told` is what the kernel was told last, and `told_at` when; 0.0: it asks again anyway. `asks`: it was told to use
    that once. `holds`: it may have been told something for longer since it was last told that all is over. `folder`: of
    a folder, all that it was told: programs go on with it when it is removed. `again`: it was looked up again since
    `Nodes.surplus` has last come by.

    `was` is the name that was taken from it last, `looked_at` (monotonic) when the latest look-up that has found it was
    begun, `found_at` when one has found it last. `backing` is the id of the file that the kernel reads itself, 0: none.
    `superseded`, `calm_until` (monotonic) and `several` (its inode has, or had, other nodes): see fuse_nodes.py.
    `writing` opens for writing are under way. `late_reads`: the reads through its pages while programs have it open for
    writing, once there was one. `stored` is the place of the byte that the kernel was given last
    (fuse_forgetting.py), -1: it does not matter. `said`: with all that was to be said until then the kernel was told
    that its attributes are over.
    """

    __slots__ = (
        "id", "ino", "lookups", "name", "was", "looked_at", "found_at", "opens", "users", "content", "pages", "told",
        "told_at", "asks", "holds", "folder", "again", "backing", "superseded", "calm_until", "several", "writing",
        "drops", "dropped", "stored", "said", "late_reads",
    )  # fmt: skip

    def __init__(self, number: int, ino: int):
        self.id, self.ino = number, ino
        self.lookups = self.opens = self.users = self.backing = self.writing = self.drops = self.said = 0
        self.superseded = self.several = self.dropped = self.asks = self.holds = False
        self.calm_until, self.stored = 0.0, -1
        self.name: Name | None = None
        self.was: Name | None = None
        self.looked_at = self.found_at = 0.0
        self.content: Content | None = None
        self.pages: tuple[int, int] | None = None
        self.told = 0
        self.told_at = 0.0
        self.folder: Attributes | None = None
        self.again = False
        self.late_reads: LateReads | None = None

    def keeps_pages(self, content: Content) -> bool:
        """Would the kernel use the pages that it has, if the content were opened once more through the node?"""
        plain = self.content is content and self.dropped and not (self.superseded or self.backing)
        return plain and self.pages == (content.row, content.lineage)

    def removed_folder(self) -> Attributes | None:
        """What is left of a folder that is gone; None where it was no folder."""
        return None if self.folder is None else msgspec.structs.replace(self.folder, nlink=0)


def held_from(asks: bool, promised: bool) -> float:
    """`Node.told_at` for what is told now."""
    if asks:
        return 0.0
    return math.inf if promised else time.monotonic()


def told(attributes: Attributes) -> int:
    """What makes the kernel's idea of a file right or wrong, in one number: there may be a million nodes."""
    return hash((attributes.size, attributes.mtime_ns, attributes.atime_ns))
