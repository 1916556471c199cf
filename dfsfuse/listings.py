"""Listing a folder: a page at a time, stable while others change the folder, with attributes that are remembered.

Entries come in the order of their names, and each page begins after the last name of the former one: so what is there
all the time comes once, whatever is made and removed meanwhile. Once a folder that is promised was listed to its end,
what is not known of it is not there.
"""

from collections.abc import Iterator

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.messages import LIST_PAGE_MAX, FolderEntry, ListFolder, Listing
from dfsfuse.places import Place
from dfsfuse.session import Session


def list_folder(
    session: Session,
    attributes: AttributeTable,
    place: Place,
    after: bytes,
    ino: int,
    seen_at: Place | None,
    atime_ns: int = 0,
) -> Iterator[FolderEntry]:
    """All entries whose names sort after `after`, each once, in the order of their names; what they are is remembered
    for the look-ups that follow: below the inode, or below `seen_at`, for a driver that knows paths and lists by inode,
    while that place is known to lead to this folder. It goes on when the folder is renamed meanwhile, and ends when it
    is removed, as on a local disk. With `ino`: Stale where the place leads to another folder; `seen_at` is by the inode
    then. `atime_ns`, if not 0, is now."""
    page, asked_at = _page(session, attributes, place, after, atime_ns)
    begun_at, promised = asked_at, page.promised and not after
    folder = page.folder.ino, ()
    if ino and page.folder.ino != ino:
        raise errors.Stale("the name leads to another folder now")
    seen_at = folder if ino else seen_at or place
    _remember(attributes, page, asked_at, seen_at, place)
    if page.promised or atime_ns and page.folder.atime_ns == atime_ns:
        attributes.put(folder, page.folder, asked_at)
    yield from page.entries
    while page.more:
        try:
            page, asked_at = _page(session, attributes, folder, page.entries[-1].name)
        except (errors.NotFound, errors.Stale):
            return
        promised = promised and page.promised
        _remember(attributes, page, asked_at, seen_at, folder)
        yield from page.entries
    if promised and seen_at == folder:
        attributes.listed(page.folder.ino, begun_at)


def _page(
    session: Session, attributes: AttributeTable, place: Place, after: bytes, atime_ns: int = 0
) -> tuple[Listing, float]:
    """The next page, and when it was asked for."""
    asked_at = attributes.now()
    base, names = place
    request = ListFolder(
        base=base, names=list(names), after=after, limit=LIST_PAGE_MAX, atime_ns=atime_ns, session=session.id
    )
    page: Listing = session.query(request, Listing)
    page.folder.promised = page.promised
    for entry in page.entries:
        entry.attributes.promised = page.promised
    return page, asked_at


def _remember(attributes: AttributeTable, page: Listing, asked_at: float, seen_at: Place, place: Place) -> None:
    known_at = asked_at if seen_at == place or not seen_at[1] else attributes.learnt(seen_at, page.folder.ino)
    base, names = seen_at
    for entry in page.entries if known_at else ():
        attributes.put((base, (*names, entry.name)), entry.attributes, min(asked_at, known_at), uses=False)
