"""Listing a folder by offsets, while others change it."""

import itertools
import random
from collections.abc import Iterator

import pytest
from fake_filesystem import attributes

from dfsfuse.drivers.fuse_listings import DOTS, ENTRIES_A_REPLY_MAX, Listing
from dfsfuse.messages import FolderEntry

PAGE = 1000
HOLD_S = 60.0


class Folder:
    """Names in a folder, given out page by page like the directory does. `asked` are the requests."""

    def __init__(self, count: int):
        self.names = {b"%06d" % number for number in range(count)}
        self.asked: list[bytes] = []
        self.fails = 0

    def after(self, name: bytes) -> Iterator[FolderEntry]:
        while True:
            self.asked.append(name)
            if self.fails:
                self.fails -= 1
                raise TimeoutError
            page = sorted(other for other in self.names if other > name)[:PAGE]
            if not page:
                return
            yield from (FolderEntry(other, attributes(int(other) + 2, 0o100644)) for other in page)
            name = page[-1]


def begun(folder: Folder, hold_s: float = HOLD_S) -> Listing:
    return Listing(folder.after(b""), folder.after, hold_s)


def listed(listing: Listing, at_once: int, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """All (offset, name), taken `at_once` at a time and asked for again from the offset of the last one."""
    while taken := list(itertools.islice(listing.entries_from(offset), at_once)):
        yield from ((following, entry.name) for following, entry in taken)
        offset = taken[-1][0]


@pytest.mark.parametrize("at_once", [1, 7, 1000, 5000])
def test_every_entry_comes_once(at_once):
    """Goal: whatever the room in a reply, all names come in order, at offsets that rise."""
    folder = Folder(2500)
    found = list(listed(begun(folder), at_once))
    assert [name for _, name in found] == sorted(folder.names)
    assert [offset for offset, _ in found] == list(range(DOTS + 1, DOTS + 2501))


def test_a_reply_has_an_end():
    """Goal: one reply takes a bounded number of entries, so what the kernel may go back to is still remembered."""
    listing = begun(Folder(5000))
    assert len(list(listing.entries_from(0))) == ENTRIES_A_REPLY_MAX


def test_others_add_and_remove_meanwhile():
    """Goal: what was there all the time comes exactly once, wherever names are added and removed."""
    random.seed(3)
    folder = Folder(4000)
    stays = {name for name in folder.names if int(name) % 3}
    found = []
    for _, name in listed(begun(folder), 13):
        found.append(name)
        if random.random() < 0.5:
            folder.names.discard(b"%06d" % (3 * random.randrange(1400)))
            folder.names.add(b"%06d" % (3 * random.randrange(1400)))
    assert stays <= set(found)
    assert len(found) == len(set(found))


def test_removing_what_was_listed():
    """Goal: `rm -r` removes what it has been given while it goes on: nothing is passed over."""
    folder = Folder(3000)
    for _, name in listed(begun(folder), 100):
        folder.names.remove(name)
    assert not folder.names


def test_going_back_within_what_is_remembered():
    """Goal: the kernel asks again from any entry of its latest reply, and gets the same ones, without a request."""
    folder = Folder(3000)
    listing = begun(folder)
    offsets = dict(listed(listing, 500))
    names = sorted(folder.names)
    folder.names.clear()
    folder.asked.clear()
    assert next(iter(listing.entries_from(2000 + DOTS)))[1].name == names[2000]
    assert folder.asked == []
    assert len(offsets) == 3000


@pytest.mark.parametrize("number", [1, 500, 999, 1000, 1001, 4321])
def test_going_back_far(number):
    """Goal: seekdir() to any offset that telldir() gave leads to the same entry, in a folder that stays as it is."""
    folder = Folder(5000)
    listing = begun(folder)
    assert len(list(listed(listing, 999))) == 5000
    rest = [name for _, name in listed(listing, 999, number + DOTS)]
    assert rest == sorted(folder.names)[number:]


def test_beginning_again_shows_what_is_new():
    """Goal: rewinddir() reads the folder anew."""
    folder = Folder(3)
    listing = begun(folder)
    assert len(list(listed(listing, 10))) == 3
    folder.names.add(b"000003")
    assert len(list(listed(listing, 10))) == 4


def test_first_entries_are_asked_for_once():
    """Goal: opening asks for them, and so fails where there is no folder; reading uses what was asked for, save where
    it comes later."""
    folder = Folder(10)
    listing = begun(folder)
    assert folder.asked == [b""]
    assert len(list(listing.entries_from(0))) == 10
    assert folder.asked == [b"", b"000009"]
    late = begun(folder, -1.0)
    folder.names.clear()
    assert list(late.entries_from(0)) == []
    folder.fails = 1
    with pytest.raises(TimeoutError):
        begun(folder)


def test_nothing_is_asked_for_unless_it_is_wanted():
    """Goal: a listing that nobody reads or checks costs no request."""
    folder = Folder(10)
    listing = Listing(None, folder.after, 0.0)
    assert folder.asked == []
    assert len(list(listing.entries_from(0))) == 10


def test_failure_does_not_end_the_listing():
    """Goal: who asks again after an error goes on where it was, and does not get a shorter folder."""
    folder = Folder(2500)
    listing, found = begun(folder), []
    for offset, name in listed(listing, 10):
        found.append(name)
        if len(found) == 1000:
            folder.fails = 2
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    next(iter(listing.entries_from(offset)))
    assert found == sorted(folder.names)


def test_memory_does_not_grow_with_the_folder():
    """Goal: of a large folder a few pages are held, and one name for each page before them."""
    listing = begun(Folder(20_000))
    assert sum(1 for _ in listed(listing, 1000)) == 20_000
    assert len(listing._entries) <= 2 * ENTRIES_A_REPLY_MAX
    assert len(listing._marks) == 21


def test_offsets_that_nobody_gave_out():
    """Goal: an offset beyond the end is the end."""
    listing = begun(Folder(10))
    assert list(listing.entries_from(1 << 40)) == []
    assert len(list(listing.entries_from(0))) == 10
