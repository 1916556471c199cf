"""Giving files other attributes: as the directory is told, or with the first commit of a file that was just made here.

Threads: any. `Content.committing` is held while the directory is told of what a commit may be taking along.
"""

import time

import msgspec

from dfsfuse import owed_attributes
from dfsfuse.attributes import AttributeTable
from dfsfuse.looks import Looks
from dfsfuse.messages import Attributes, NewAttributes, SetAttributes
from dfsfuse.openfiles import OpenFiles
from dfsfuse.places import Place
from dfsfuse.session import Session

TIME_NS_MIN, TIME_NS_MAX = -(1 << 31) * 10**9, ((1 << 34) - (1 << 31) - 1) * 10**9
"""From 1901 to 2446: what ext4 keeps; times beyond become these, as they do there."""


class GivingAttributes:
    def __init__(self, session: Session, attributes: AttributeTable, files: OpenFiles, looks: Looks):
        self._session, self._attributes, self._files, self._looks = session, attributes, files, looks

    def give(self, place: Place, changes: NewAttributes) -> Attributes:
        """What is at the place has these then."""
        changes.mtime_ns, changes.atime_ns = _kept(changes.mtime_ns), _kept(changes.atime_ns)
        new = None if place[1] else self._files.of_new_file(place[0])
        if new is None:
            return self._looks.as_written(self._tell(place, changes))
        known = self._attributes.get(place)
        if known is not None:
            shown = self._looks.as_written(known)
            if owed_attributes.put_off(new, known, shown, changes, time.time_ns()):
                return self._looks.as_written(known)
        with new.committing:
            told = self._tell(place, changes)
            owed_attributes.given(new, changes, told)
        return self._looks.as_written(told)

    def _tell(self, place: Place, changes: NewAttributes) -> Attributes:
        request = SetAttributes(base=place[0], names=list(place[1]), **msgspec.structs.asdict(changes))
        with self._attributes.changing(place) as asked_at:
            attributes: Attributes = self._session.change(request, Attributes)
            self._attributes.put_changed(attributes, asked_at)
        content = self._files.attributes_set(attributes.ino)
        if content is not None:
            content.attributes_set(changes.mode, changes.mtime_ns)
        return attributes


def _kept(time_ns: int | None) -> int | None:
    return None if time_ns is None else min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)
