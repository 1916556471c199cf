"""Attributes that programs set on a file which this client has made and not committed yet: its first commit takes them
along, so that unpacking an archive pays no request for them. Until then this client alone knows them.

Another client may set the same meanwhile. It is promised here that this has not happened when something is put off, so
theirs comes later, and is to hold: what is owed goes to the directory with the word that this client has heard, before
the other change is made. A client that is cut off then is not waited for for ever; so each attribute is owed together
with what it was before, and what is another by now stays.

A client that is killed loses them with what was not committed. So what takes rights from somebody is not put off:
content that the next client sends must not be open to more than the program has said.

Pure over a content, of which `owed` is what the next commit takes along. While one is under way, or in doubt, nothing
is added to that.

Threads: any; `Content.mutex` is held. `Content.committing` is held by who takes something away.
"""

import stat

import msgspec

from dfsfuse.content import Content
from dfsfuse.messages import Attributes, NewAttributes, OwedAttributes, without_set_ids

_RIGHTS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


def put_off(content: Content, known: Attributes, shown: Attributes, changes: NewAttributes, now_ns: int) -> bool:
    """The file, which is `known` to the directory and `shown` to programs here, is given others; False: the directory
    must be told at once."""
    with content.mutex:
        if not (known.promised and _is_new(content)) or known.has_xattrs or _takes_rights(shown, changes):
            return False
        if changes.mode is None and (changes.uid, changes.gid) != (None, None):
            changes = msgspec.structs.replace(changes, mode=stat.S_IMODE(without_set_ids(shown.mode)))
        former = content.owed or OwedAttributes()
        pairs = {field: (OwedAttributes.value(known, field), value) for field, value in changes.given().items()}
        content.owed = msgspec.structs.replace(former, **pairs)
        content.changed_ns = max(now_ns, shown.ctime_ns + 1)
        content.attributes_set(changes.mode, changes.mtime_ns)
        return True


def _is_new(content: Content) -> bool:
    """Nobody but this client has had anything of it, and a close() is to come."""
    settled = not content.sending and content.in_doubt is None and content.failed is None
    return content.version == 0 and content.writers > 0 and settled and not content.shared


def _takes_rights(shown: Attributes, changes: NewAttributes) -> bool:
    """From anybody but root: by another mode, from who was the owner, or from the group that it had."""
    if changes.mode is not None and shown.mode & _RIGHTS & ~changes.mode:
        return True
    if changes.uid not in (None, shown.uid) and shown.uid != 0:
        return True
    group, others = shown.mode >> 3 & 7, shown.mode & 7
    return changes.gid not in (None, shown.gid) and bool(group & ~others)


def given(content: Content, changes: NewAttributes, known: Attributes) -> None:
    """The directory has given the file these, and it is as `known` since: what is owed, or in doubt, comes too late for
    them."""
    with content.mutex:
        content.owed = _less(content.owed, changes, known)
        if content.in_doubt is not None:
            request = content.in_doubt.request
            request.attributes = _less(request.attributes, changes, known)


def _less(owed: OwedAttributes | None, changes: NewAttributes, known: Attributes) -> OwedAttributes | None:
    if owed is None:
        return None
    if owed.mode is not None and (changes.uid, changes.gid) != (None, None):
        former, mode = map(without_set_ids, owed.mode)
        owed = msgspec.structs.replace(owed, mode=(former, mode) if former == stat.S_IMODE(known.mode) else None)
    return msgspec.structs.replace(owed, **dict.fromkeys(changes.given()))


def taken_along(content: Content) -> OwedAttributes | None:
    """What the commit that is being made takes along: a time of before the last write does not count any more."""
    with content.mutex:
        if content.owed is None or content.mtime_set:
            return content.owed
        return msgspec.structs.replace(content.owed, mtime_ns=None)


def taken(content: Content) -> OwedAttributes | None:
    """All that is owed, which is not any more, as the directory is about to be told; but what a commit takes along."""
    with content.mutex:
        if content.sending or content.in_doubt is not None:
            return None
        owed, content.owed = taken_along(content), None
        return owed


def shown_with(attributes: Attributes, owed: OwedAttributes) -> Attributes:
    """What the directory knows, with what it is owed."""
    new = owed.due(attributes).given()
    if "mode" in new:
        new["mode"] |= stat.S_IFMT(attributes.mode)
    return msgspec.structs.replace(attributes, **new)
