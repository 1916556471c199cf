"""Listing a folder: a page at a time, stable while others change the folder, with attributes that are remembered.

Entries come in the order of their names, and each page begins after the last name of the former one: so what is there
all the time comes once, whatever is made and removed meanwhile.
"""

from collections.abc import Iterator

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable, Place
from dfsfuse.messages import LIST_PAGE_MAX, FolderEntry, ListFolder, Listing
from dfsfuse.session import Session


def list_folder(
    session: Session, attributes: AttributeTable, place: Place, after: bytes, seen_at: Place
) -> Iterator[FolderEntry]:
    """All entries whose names sort after `after`; what they are is remembered below `seen_at`, while that place is
    known to lead to this folder. It goes on when the folder is renamed meanwhile, and ends when it is removed, as on a
    local disk."""
    page = _page(session, attributes, place, after, seen_at)
    folder = page.folder.ino, ()
    yield from page.entries
    while page.more:
        try:
            page = _page(session, attributes, folder, page.entries[-1].name, seen_at)
        except (errors.NotFound, errors.Stale):
            return
        yield from page.entries


def _page(session: Session, attributes: AttributeTable, place: Place, after: bytes, seen_at: Place) -> Listing:
    asked_at = attributes.now()
    request = ListFolder(base=place[0], names=list(place[1]), after=after, limit=LIST_PAGE_MAX)
    page: Listing = session.query(request, Listing)
    learnt_at = asked_at if seen_at == place else attributes.learnt(seen_at, page.folder.ino)
    base, names = seen_at
    for entry in page.entries if learnt_at else ():
        attributes.put((base, (*names, entry.name)), entry.attributes, min(asked_at, learnt_at))
    return page
