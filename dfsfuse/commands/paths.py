"""PATH, as users of `dfs` give it -> names from the root of the volume.

    /mnt/dfs/notes.txt   below a mount of the volume: the mountpoint is taken off. This wins where both are possible
    notes.txt            relative: below a mount if the working directory is; else from the root of the volume
    /notes.txt           all else: a path in the volume

Mounts are found in the kernel's list, and never touched: so this works while a mount hangs. Symlinks on this machine
that lead to a mount are followed up to the mountpoint; those in the volume are followed by asking the directory.
"""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors, mountpoint
from dfsfuse.messages import Attributes
from dfsfuse.tables import shown

Names = tuple[bytes, ...]
LINKS_MAX = 40
_SOURCE = "dfsfuse:"


class Located(NamedTuple):
    """Names in a volume; `volume` is that of the mount which the path lies below, "" where there is none."""

    names: Names
    volume: str = ""


def locate(text: str) -> Located:
    """Where a PATH leads. Asks nobody but the kernel."""
    absolute = os.path.join(_working_folder(), text)
    return below_mount("/" + absolute.lstrip("/")) or Located(_names(os.path.normpath("/" + text)))


def below_mount(absolute: str) -> Located | None:
    """Where an absolute path leads if it lies below a mount of dfsfuse."""
    mounts = mountpoint.mounts()
    if not any(mount.fstype == mountpoint.FSTYPE for mount in mounts):
        return None
    fuse = {mount.point for mount in mounts if mountpoint.is_fuse(mount)}
    path = _without_symlinks(os.path.normpath(absolute), fuse)
    covering = [mount for mount in mounts if _is_below(path, mount.point)]
    # The longest mountpoint is the innermost mount; of several on one point the last is the uppermost.
    mount = max(enumerate(covering), key=lambda numbered: (len(numbered[1].point), numbered[0]))[1]
    if mount.fstype != mountpoint.FSTYPE or not mount.source.startswith(_SOURCE):
        return None
    below = os.path.relpath(path, mount.point)
    return Located(_names(os.path.normpath(f"{mount.root}/{below}")), mount.source.removeprefix(_SOURCE))


def names_a_folder(text: str) -> bool:
    """Whether a path says that it is a folder's, of this machine or of the volume."""
    return text.endswith(("/", "/."))


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _without_symlinks(path: str, stops: set[str]) -> str:
    """The path with its symlinks followed, up to the first of `stops`: what lies below is not touched."""
    done, rest, links = "/", path.split("/"), 0
    while rest:
        part = rest.pop(0)
        done = os.path.normpath(os.path.join(done, part))
        if done in stops:
            return os.path.normpath("/".join([done, *rest]))
        try:
            target = os.readlink(done)
        except OSError:
            continue
        links += 1
        if links > LINKS_MAX:
            return path
        done, rest = os.path.dirname(done), target.split("/") + rest
        if target.startswith("/"):
            done = "/"
    return done


def _names(path: str) -> Names:
    return tuple(part for part in os.fsencode(path).split(b"/") if part and part != b".")


class Paths:
    """Follows paths in one volume. `lookup` gives the attributes of what is at names, without following symlinks."""

    def __init__(self, lookup: Callable[[Names], Attributes], volume: Callable[[], str]):
        self._lookup, self._volume = lookup, volume

    def names(self, text: str, follow: bool = True) -> Names:
        """Names without symlinks; with `follow` the last one is no symlink either. They need not exist.

        Raises NotFound for a path below a mount of another volume, InvalidArgument where a symlink leads out of this
        one, and NotADirectory where a path that ends with `/` leads to something else than a folder.
        """
        located = locate(text)
        if located.volume and located.volume != self._volume():
            mine = f"lies below a mount of volume {located.volume}, and this cluster has volume {self._volume()}"
            raise errors.NotFound(f"it {mine}; name that mount's cluster with --home DIR or --cluster URL")
        names = self._follow(located.names, follow)
        if names_a_folder(text) and (found := self.at(names)) is not None and not stat.S_ISDIR(found.mode):
            raise errors.NotADirectory("it ends with /, and is no folder")
        return names

    def file(self, text: str) -> Names:
        """As `names`, of a file that may have to be made."""
        if names_a_folder(text):
            raise errors.IsADirectory("it ends with /, as a folder does; name a file")
        return self.names(text)

    def find(self, text: str, follow: bool = True) -> tuple[Names, Attributes]:
        """As `names`, with the attributes of what must be there; a symlink is followed where the path ends with `/`."""
        names = self.names(text, follow or names_a_folder(text))
        return names, self._lookup(names)

    def folder(self, text: str) -> Names | None:
        """The names of a folder; None where nothing is there, or something else."""
        names = self.names(text)
        attributes = self.at(names)
        return names if attributes is not None and stat.S_ISDIR(attributes.mode) else None

    def at(self, names: Names) -> Attributes | None:
        """None where nothing is there."""
        try:
            return self._lookup(names)
        except errors.NotFound:
            return None

    def _follow(self, names: Names, follow: bool) -> Names:
        for _ in range(LINKS_MAX):
            link = self._first_link(names, follow)
            if link is None:
                return names
            count, target = link
            names = self._target(names[: count - 1], target) + names[count:]
        raise errors.InvalidArgument("too many symlinks follow each other")

    def _first_link(self, names: Names, follow: bool) -> tuple[int, bytes] | None:
        """(number of names that lead to it, target) of the first symlink on the way."""
        try:
            whole = self._lookup(names)
            return (len(names), whole.target) if follow and stat.S_ISLNK(whole.mode) else None
        except (errors.NotFound, errors.NotADirectory):
            pass
        for count in range(1, len(names)):
            attributes = self.at(names[:count])
            if attributes is None:
                return None
            if stat.S_ISLNK(attributes.mode):
                return count, attributes.target
        return None

    def _target(self, folder: Names, target: bytes) -> Names:
        text = os.fsdecode(target)
        if not text.startswith("/"):
            return _names(os.path.normpath("/" + os.fsdecode(b"/".join(folder)) + "/" + text))
        located = below_mount(text)
        if located is None or located.volume != self._volume():
            raise errors.InvalidArgument(f"a symlink leads out of the volume, to {shown(target)}")
        return located.names


def path_text(names: Names) -> str:
    """For messages and tables."""
    return "/" + "/".join(shown(name) for name in names)
