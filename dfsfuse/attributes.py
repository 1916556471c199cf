"""Names and attributes that the client may use without asking: what the directory has promised to call back about,
until it does or the lease ends; and all else for `hold_s`.

What is known is known as of the moment at which it was asked for. A change by this client makes all earlier knowledge
of what it touched void, also answers that are still under way; and so does a broken promise. As the directory promises
nothing while a client has not heard of a change, an answer that was asked for later than that is as new as the change.
While a change by this client is under way, nothing that it touches is promised (under_way.py).

A path is promised where each name on the way is. What was asked for by a path as a whole counts for the hold alone, as
a folder on the way may move.

Threads: one mutex around all tables; it is never held across a request.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from dfsfuse.known_inodes import Inodes
from dfsfuse.known_names import ABSENT, UNKNOWN, Names
from dfsfuse.known_paths import Paths
from dfsfuse.messages import EVERYTHING, Attributes, Doubt, Renamed
from dfsfuse.options import KNOWN_FILES
from dfsfuse.places import Place
from dfsfuse.promise_lease import PromiseLease
from dfsfuse.read_times import ReadTimes
from dfsfuse.under_way import UnderWay

HOLD_S = 0.7

OnBroken = Callable[[int, bytes], None]
"""As `Broken`: (inode number or EVERYTHING, name or b"")."""


class AttributeTable:
    """Inodes, and names by folder: at most `items_max` of each, which take some 600 bytes together. `reads`: what was
    read here, and the directory does not know yet."""

    def __init__(
        self,
        hold_s: float = HOLD_S,
        clock: Callable[[], float] = time.monotonic,
        items_max: int = KNOWN_FILES,
        reads: ReadTimes | None = None,
    ):
        self._reads = reads or ReadTimes()
        self._hold_s, self._clock, self.items_max = hold_s, clock, items_max
        self._mutex = threading.Lock()
        self._inodes = Inodes(self._reads)
        self._names = Names()
        self._paths = Paths()
        self._held_since = 0.0
        self._lease, self._under_way = PromiseLease(), UnderWay()
        self._on_broken: list[OnBroken] = []

    def __len__(self) -> int:
        return max(len(self._inodes), self._names.count)

    def now(self) -> float:
        """The time to give as `asked_at` to what is asked next."""
        return self._clock()

    # -- asking

    def get(self, place: Place, uses: bool = True) -> Attributes | None:
        """What may be told without asking; `promised` says whether that is so until `on_broken` tells otherwise. It
        `uses` them: they are the last to go where there is no room."""
        with self._mutex:
            now = self._clock()
            ino, promised = self._ino_at(place, now)
            known = self._inodes.use(ino) if uses else self._inodes.get(ino)
            attributes = known.attributes
            if attributes is None:
                return None
            counts, kept = self._standing(known.asked_at, attributes.promised, now, self._under_way.since(ino))
            if attributes.promised and not (promised and kept):
                attributes = msgspec.structs.replace(attributes, promised=False)
            return attributes if counts else None

    def _ino_at(self, place: Place, now: float) -> tuple[int, bool]:
        """(inode number, whether each name on the way is promised). UNKNOWN where nothing may be said; ABSENT only
        where that is promised."""
        ino, names = place
        promised = True
        for name in names:
            known = self._names.get(ino, name)
            counts, kept = self._standing(known.asked_at, known.promised, now, self._under_way.since(ino, name))
            if not counts or known.ino == ABSENT and not kept:
                return self._ino_at_path(place, now), False
            ino, promised = known.ino, promised and kept
            if ino <= 0:
                break
        return ino, promised

    def _ino_at_path(self, place: Place, now: float) -> int:
        ino, asked_at = self._paths.get(place)
        return ino if self._standing(asked_at, False, now)[0] else UNKNOWN

    def is_absent(self, place: Place) -> bool:
        """The directory has promised that nothing is there."""
        with self._mutex:
            return self._ino_at(place, self._clock())[0] == ABSENT

    def _standing(
        self, asked_at: float, promised: bool, now: float, changing_since: float | None = None
    ) -> tuple[bool, bool]:
        """(whether it may be told, whether it is promised). What this client is changing was promised until then."""
        if promised and self._lease.counts(now):
            if changing_since is None:
                return True, True
            asked_at = max(asked_at, changing_since)
        return asked_at >= max(now - self._hold_s, self._held_since), False

    def learnt(self, place: Place, ino: int) -> float:
        """When it was asked for that this place leads to this inode; 0.0 where it is not known to."""
        with self._mutex:
            known, asked_at = self._last_at(place)
            return asked_at if known == ino else 0.0

    def last_ino(self, place: Place) -> int:
        """The inode that a place was last known to lead to, however long ago; not above 0 where none was."""
        with self._mutex:
            return self._last_at(place)[0]

    def _last_at(self, place: Place) -> tuple[int, float]:
        """(the inode that a place was last known to lead to, however long ago; when that was asked for)."""
        base, names = place
        if not names:
            return base, self._clock()
        if len(names) == 1:
            known = self._names.get(base, names[0])
            return known.ino, known.asked_at
        return self._paths.get(place)

    def promised_version(self, ino: int) -> int:
        """The version of the content that is promised to be the newest, also while other things of the file are
        changed here; 0 where none is, and of a file without a name, of which there is nothing that could break it."""
        with self._mutex:
            known = self._inodes.get(ino).attributes
            if known is None or not (known.promised and known.nlink and self._lease.counts(self._clock())):
                return 0
            return known.version

    def promises(self, place: Place, ino: int) -> bool:
        """Is it promised that the place leads to this inode, and what its attributes are?"""
        known = self.get(place)
        return known is not None and known.ino == ino and known.promised

    def last(self, ino: int) -> Attributes | None:
        """What was last known of an inode, however long ago."""
        with self._mutex:
            return self._inodes.get(ino).attributes

    def is_newest(self, attributes: Attributes) -> bool:
        """Nothing was learnt of the inode since these were put here."""
        known = self.last(attributes.ino)
        return (
            known is attributes
            or known is not None
            and known == msgspec.structs.replace(attributes, promised=known.promised)
        )

    # -- answers

    def put(self, place: Place, attributes: Attributes, asked_at: float, uses: bool = True) -> None:
        """`asked_at` is when the request was sent: the answer is no younger than that. If it is promised, so is the
        entry that leads there. `uses` as in `get`."""
        with self._mutex:
            if self._put_name(place, attributes, asked_at):
                self._inodes.put(attributes, asked_at, self._floor(attributes.ino), uses)
            gone = self._make_room()
        self._tell_gone(gone)

    def _put_name(self, place: Place, attributes: Attributes, asked_at: float) -> bool:
        base, names = place
        if len(names) == 1:
            floor = self._floor(base)
            if attributes.promised:
                self._names.promised(base, asked_at, floor)
            return self._names.put(base, names[0], attributes.ino, asked_at, floor, attributes.promised)
        return not names or self._paths.put(place, attributes.ino, asked_at, self._inodes.void_before)

    def read_at(self, attributes: Attributes, atime_ns: int) -> Attributes | None:
        """A file is read of which this is promised: what it has since. None: only the directory can note it."""
        if not self._reads.note(attributes, atime_ns):
            return None
        with self._mutex:
            return self._inodes.read_at(attributes, atime_ns)

    def listed(self, ino: int, asked_at: float) -> None:
        """All entries of a folder have been put since then, and each answer was promised."""
        with self._mutex:
            self._names.listed(ino, asked_at, self._floor(ino))

    # -- changes by this client

    @contextmanager
    def changing(self, *places: Place, made: Place | None = None) -> Iterator[float]:
        """The block asks for a change of what is at these places, and enters the answer; nothing is at `made` before.
        What it yields is the time to give as `asked_at` to the answer."""
        with self._mutex:
            now = self._clock()
            touched = self._under_way.begin(places, made, lambda place: self._ino_at(place, now), now)
        try:
            yield now
        finally:
            with self._mutex:
                for ino, name in self._under_way.end(touched):
                    self._forget_name(ino, name)

    def put_changed(self, attributes: Attributes, asked_at: float) -> None:
        """What a change has answered, whatever name leads to it. Who asked during the change may have been answered
        before it, so such an answer is void. So are the answers of two changes that arrive in another order than the
        directory's, where the older one comes last. A promise that was broken meanwhile may be of what is here."""
        with self._mutex:
            self._inodes.changed(attributes, asked_at, self._clock(), self._floor(attributes.ino))
            gone = self._make_room()
        self._tell_gone(gone)

    def name_changed(self, place: Place, folder: Attributes, asked_at: float, ino: int = UNKNOWN) -> None:
        """A change that was asked for at `asked_at` has made a name lead to `ino`, or ABSENT, and this is its folder
        since. A driver that knows paths asks again."""
        with self._mutex:
            self._paths.forget(place, self._clock())
            if folder.promised:
                self._names.promised(folder.ino, asked_at, self._floor(folder.ino))
            self._names.changed(folder.ino, place[1][-1], ino, asked_at, self._clock(), folder.promised)
            self._inodes.changed_with(folder, asked_at, self._clock(), self._floor(folder.ino))
            gone = self._make_room()
        self._tell_gone(gone)

    def folder_made(self, ino: int, asked_at: float) -> None:
        """A new folder, which is promised: it is empty."""
        with self._mutex:
            self._names.made(ino, asked_at, self._floor(ino))

    def renamed(self, old: Place, new: Place, renamed: Renamed, exchanged: bool, asked_at: float) -> None:
        """Paths below a folder that has moved go with it."""
        led_to = renamed.other if exchanged else ABSENT, renamed.ino
        with self._mutex:
            for attributes in renamed.since:
                self._inodes.changed_with(attributes, asked_at, self._clock(), self._floor(attributes.ino))
            if len(old[1]) > 1 or len(new[1]) > 1:
                self._clear()
            self._forget_paths()
            for (base, names), ino in zip((old, new), led_to, strict=True):
                self._names.changed(base, names[-1], ino, asked_at, self._clock(), renamed.promised)
            for ino in {old[0], new[0], renamed.ino, renamed.other}.difference(each.ino for each in renamed.since):
                self._forget_inode(ino)

    # -- forgetting

    def forget_place(self, place: Place) -> None:
        """A name was made, removed or replaced: it, what it led to, and its folder are no longer known. Where it is not
        promised which folder that is, nothing is."""
        base, names = place
        with self._mutex:
            self._forget_inode(self._last_at(place)[0])
            self._paths.forget(place, self._clock())
            if not names:
                return
            folder, promised = self._ino_at((base, names[:-1]), self._clock())
            if folder > 0 and (promised or len(names) == 1):
                self._forget_name(folder, names[-1])
                self._forget_inode(folder)
            else:
                self._clear()

    def _forget_paths(self) -> None:
        """They also said that older answers are void."""
        self._paths.clear()
        self._inodes.void_before = self._clock()

    def forget_ino(self, ino: int) -> None:
        with self._mutex:
            self._forget_inode(ino)

    def _forget_name(self, folder: int, name: bytes) -> None:
        self._names.changed(folder, name, UNKNOWN, 0.0, self._clock(), promised=False)

    def _forget_inode(self, ino: int) -> None:
        if ino not in (ABSENT, UNKNOWN):
            self._inodes.forget(ino, self._clock())

    def forget_held(self) -> None:
        """A name did not lead where it was thought to: only what is promised counts from now on."""
        with self._mutex:
            self._held_since = self._clock()

    def _clear(self) -> None:
        self._inodes.clear(self._clock())
        self._names.clear()
        self._paths.clear()

    # -- promises

    def on_broken(self, tell: OnBroken) -> None:
        """`tell` comes after each loss of a promise, from the thread that hears of it; it must not wait."""
        self._on_broken.append(tell)

    def lease(self, until: float, settled: Sequence[Doubt] = ()) -> None:
        """Promises count until then. Where the lease before has ended, they have ended with it. `settled` are doubts
        that the directory has been told of."""
        with self._mutex:
            lapsed = self._lease.extend(until, settled, self._clock())
            if lapsed:
                self._clear()
        if lapsed:
            self._tell(EVERYTHING, b"")

    def lapse(self) -> float:
        """If the lease has ended meanwhile, whoever was told of promises hears it, once. How long it lasts still, in
        seconds; 0.0: it has ended."""
        with self._mutex:
            now = self._clock()
            ended, left_s = self._lease.has_ended(now), self._lease.left_s(now)
        if ended:
            self._tell(EVERYTHING, b"")
        return left_s

    def lease_counts(self) -> bool:
        return self._lease.counts(self._clock())

    def end_lease(self) -> None:
        """No promise counts until the next lease, and none of before it does then."""
        with self._mutex:
            self._lease.end()
        self._tell(EVERYTHING, b"")

    def in_doubt(self, doubt: Doubt) -> None:
        """A change of this client's may be made or not."""
        with self._mutex:
            self._lease.in_doubt(doubt)

    def doubts(self) -> list[Doubt]:
        with self._mutex:
            return self._lease.doubts

    def broken(self, ino: int, name: bytes) -> None:
        """The directory calls back."""
        with self._mutex:
            self._break(ino, name)
        self._tell(ino, name)

    def _break(self, ino: int, name: bytes) -> None:
        if ino == EVERYTHING:
            self._clear()
            return
        self._forget_inode(ino)
        if name:
            self._forget_name(ino, name)
        else:
            self._names.forget(ino)
            self._inodes.broken(ino, self._clock())

    def _floor(self, ino: int) -> float:
        """Answers that were asked for until then are void."""
        return self._clock() if ino in self._lease.dropping else self._inodes.floor(ino)

    def _tell(self, ino: int, name: bytes) -> None:
        for tell in self._on_broken:
            tell(ino, name)

    # -- room

    def dropped(self) -> list[int]:
        """Inodes of which nothing is remembered any more: the directory need not tell of them. Once it is told so
        `drop_heard` follows."""
        with self._mutex:
            return self._lease.dropped()

    def drop_heard(self, dropped: list[int]) -> None:
        with self._mutex:
            self._lease.drop_heard(dropped)
            for ino in dropped:
                self._inodes.broken(ino, self._clock())

    def _make_room(self) -> list[int]:
        """The least used go, a tenth of all. The inodes are returned: whoever was told of them, or of names in them,
        must not go on using that."""
        if len(self._paths) > self.items_max:
            self._forget_paths()
        if len(self) <= self.items_max:
            return []
        gone = self._names.make_room(self.items_max, self._inodes.__contains__)
        if len(self._inodes) > self.items_max:
            gone += self._inodes.make_room(self.items_max // 10 + 1, self._names.was_used)
        for ino in gone:
            self._inodes.pop(ino)
            self._names.forget(ino)
        self._lease.drop(gone)
        return gone

    def _tell_gone(self, gone: list[int]) -> None:
        for ino in gone:
            self._tell(ino, b"")
