"""How a command reaches the cluster: by plain requests (`metadata`), or as a client with a cache (`filesystem`).

A client needs a folder of its own. Commands share a row of them, `dfs-0`, `dfs-1`, ...: each claims with a lock the
first that is free, those first in which a killed command has left something; so that is sent by a later command.
"""

import argparse
import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dfsfuse import cache_index, cluster, directories, errors, joining
from dfsfuse import home as homes
from dfsfuse.commands.paths import Names, Paths
from dfsfuse.endpoints import Endpoint
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO, Attributes, Cluster, Lookup, Message, Nothing
from dfsfuse.options import ClientOptions
from dfsfuse.private_folder import make_private_folder
from dfsfuse.rpc import Rpc, until_answered
from dfsfuse.tables import complain, count_text, shown

CACHE_BYTES = 1 << 30
METADATA_TIMEOUT_S = 10.0
_CLAIMS_MAX = 1000

Item = TypeVar("Item")


def home_of(arguments: argparse.Namespace) -> Path:
    return Path(arguments.home).absolute() if arguments.home else homes.default_home()


# -- plain requests


class Metadata:
    """The directory and its servers, asked without a session."""

    def __init__(self, endpoint: Endpoint, timeout_s: float):
        self.url, self._timeout_s = endpoint.url, timeout_s
        self.rpc = Rpc(endpoint.token)
        self._refind = _finders(endpoint).refind
        self.paths = Paths(self.lookup, lambda: self.cluster.volume)

    def ask(self, operation: str, request: Message, reply: type) -> Any:
        """One operation of the directory that changes nothing; repeated until it is answered."""
        return until_answered(
            lambda left_s: self.rpc.call(self.url, operation, request, reply, left_s),
            self._timeout_s,
            on_silence=self._look_again,
        )

    def _look_again(self) -> None:
        if self._refind is not None:
            self.url = self._refind()

    def lookup(self, names: Names) -> Attributes:
        return self.ask("lookup", Lookup(names=list(names)), Attributes)

    @cached_property
    def cluster(self) -> Cluster:
        return self.fresh_cluster()

    def fresh_cluster(self) -> Cluster:
        """As it is now."""
        return self.ask("cluster", Nothing(), Cluster)


@contextlib.contextmanager
def metadata(arguments: argparse.Namespace) -> Iterator[Metadata]:
    """Needs the directory alone: a cluster that runs already is asked whatever else of it is down."""
    with _running(arguments) or _ready(arguments) as endpoint:
        asked = Metadata(endpoint, min(arguments.timeout, METADATA_TIMEOUT_S))
        try:
            yield asked
        finally:
            asked.rpc.close()


def _running(arguments: argparse.Namespace) -> Endpoint | None:
    """A cluster that can be asked at once; None where it must be started first."""
    if arguments.cluster is None:
        _require_cluster(home_of(arguments))
        return cluster.find_running(home_of(arguments))
    return joining.join_from(home_of(arguments), arguments.cluster, arguments.volume)


def _require_cluster(home: Path) -> None:
    """A mistyped home must not look like an empty volume."""
    if not (home / homes.TOKEN).exists():
        raise errors.NotFound(no_cluster(home))


def no_cluster(home: Path) -> str:
    return (
        f"no cluster in {home}; name another home (--home DIR before the command, or $DFS_HOME), or make a "
        "cluster there: dfs cluster start, or a mount"
    )


def _ready(arguments: argparse.Namespace) -> Endpoint:
    """A cluster that can be written to; the embedded one is started where none runs."""
    home = home_of(arguments)
    if arguments.cluster is None:
        _require_cluster(home)
        return cluster.find_or_start(home)
    return joining.join_from(home, arguments.cluster, arguments.volume)


# -- a client


@contextlib.contextmanager
def filesystem(arguments: argparse.Namespace) -> Iterator[FileSystem]:
    """A client of the cluster, until the block ends; what an earlier command could not send is sent before."""
    from dfsfuse.client import connect

    _show_errors_of_the_core()
    home = home_of(arguments)
    with _ready(arguments) as endpoint, _claimed(home, endpoint.volume) as mountpoint:
        files = connect(_options(arguments, endpoint, mountpoint))
        try:
            _send_what_is_left(files)
            yield files
        finally:
            files.close()


def paths_of(files: FileSystem) -> Paths:
    return Paths(lambda names: files.lookup((ROOT_INO, names)), lambda: files.session.cluster.volume)


def _options(arguments: argparse.Namespace, endpoint: Endpoint, mountpoint: str) -> ClientOptions:
    home, finders = home_of(arguments), _finders(endpoint)
    return ClientOptions(
        url=endpoint.url,
        token=endpoint.token,
        home=home,
        mountpoint=mountpoint,
        cache_bytes=CACHE_BYTES,
        lock_wait_s=arguments.lock_wait,
        timeout_s=arguments.timeout,
        refind=finders.refind,
        another=finders.another,
        volume=endpoint.volume,
    )


def _finders(endpoint: Endpoint) -> directories.Finders:
    if endpoint.home is not None:
        return directories.Finders(cluster.refinder(endpoint.home))
    return directories.finders(endpoint.urls or endpoint.url, endpoint.token)


def _show_errors_of_the_core() -> None:
    """A conflict copy, for one, is told of in the log alone."""
    logging.basicConfig(level=logging.ERROR, format="dfs: %(message)s")


def _send_what_is_left(files: FileSystem) -> None:
    if left := files.files.send_unsent():
        complain(f"not on the servers yet: {count_text(left, 'file')} of an earlier command; `dfs status` shows why")


@contextlib.contextmanager
def _claimed(home: Path, volume: str) -> Iterator[str]:
    """The name of a client's folder that is this command's alone within the block."""
    homes.prepare(home)
    for name in _names_to_claim(home, volume):
        folder = homes.client_folder(home, volume, name)
        make_private_folder(folder)
        lock = homes.open_lock(folder / homes.CLIENT_LOCK)
        try:
            if homes.try_lock(lock, exclusive=True):
                yield name
                return
        finally:
            os.close(lock)
    raise errors.Busy(f"{_CLAIMS_MAX} dfs commands run at the same time with home {home}; wait for one to end")


def _names_to_claim(home: Path, volume: str) -> Iterator[str]:
    names = [f"dfs-{number}" for number in range(_CLAIMS_MAX)]
    known = list(itertools.takewhile(lambda name: homes.client_folder(home, volume, name).is_dir(), names))
    left = {name for name in known if _has_left(homes.client_folder(home, volume, name))}
    yield from sorted(names, key=lambda name: name not in left)


def _has_left(folder: Path) -> bool:
    try:
        return (folder / "index.db").exists() and bool(cache_index.unsent_in(folder / "index.db"))
    except sqlite3.Error:
        return False


# -- complaints


@contextlib.contextmanager
def about(what: str | bytes) -> Iterator[None]:
    """Errors within the block begin with what they are about."""
    try:
        yield
    except errors.DfsError as error:
        raise type(error)(f"{shown(what)}: {error}", error.detail) from None


@contextlib.contextmanager
def in_place_of(asked: str, passing: str) -> Iterator[None]:
    """Errors about a file that is to take another's place are about that one: nobody else knows of it."""
    try:
        yield
    except OSError as error:
        if error.filename == passing:
            error.filename = asked
        raise


def each(items: Iterable[Item], act: Callable[[Item], int | None]) -> int:
    """`act` on each; one that fails is complained about and does not keep the others. The exit status, for which what
    `act` returns counts too."""
    status = 0
    for item in items:
        try:
            status = max(status, act(item) or 0)
        except BrokenPipeError:
            raise
        except (errors.DfsError, OSError) as error:
            complain(line_of(error))
            status = 1
    return status


def line_of(error: BaseException) -> str:
    """What an error says to a user."""
    if not isinstance(error, OSError) or isinstance(error, errors.DfsError):
        return str(error)
    what = f"{shown(os.fsencode(error.filename))}: " if error.filename is not None else ""
    return what + (error.strerror or str(error))
