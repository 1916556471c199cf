"""Listing a folder: a page at a time, stable while others change the folder, with attributes that are remembered.

Entries come in the order of their names, and each page begins after the last name of the former one: so what is there
all the time comes once, whatever is made and removed meanwhile.
"""

import contextlib
from collections.abc import Iterator

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable, Place
from dfsfuse.messages import LIST_PAGE_MAX, FolderEntry, ListFolder, Listing
from dfsfuse.session import Session


def list_folder(session: Session, attributes: AttributeTable, place: Place, after: bytes) -> Iterator[FolderEntry]:
    """All entries whose names sort after `after`. It goes on when the folder is renamed meanwhile, and ends when it is
    removed, as on a local disk."""
    page = _page(session, attributes, place, after)
    folder = page.folder.ino, ()
    yield from page.entries
    while page is not None and page.more:
        after = page.entries[-1].name
        page = _page_of(session, attributes, place, folder[0], after)
        if page is None:
            place, page = folder, _page_of(session, attributes, folder, folder[0], after)
        yield from page.entries if page is not None else ()


def _page(session: Session, attributes: AttributeTable, place: Place, after: bytes) -> Listing:
    asked_at = attributes.now()
    request = ListFolder(base=place[0], names=list(place[1]), after=after, limit=LIST_PAGE_MAX)
    page: Listing = session.query(request, Listing)
    for entry in page.entries:
        attributes.put((place[0], (*place[1], entry.name)), entry.attributes, asked_at)
    return page


def _page_of(session: Session, attributes: AttributeTable, place: Place, ino: int, after: bytes) -> Listing | None:
    """None where the place does not lead to this folder any more."""
    with contextlib.suppress(errors.NotFound, errors.NotADirectory, errors.Stale):
        page = _page(session, attributes, place, after)
        return page if page.folder.ino == ino else None
    return None
