"""A directory process under load, for tests that kill it or break its disk: clients that ask until they are answered,
and a model of what must have come of it."""

import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from models import Tree, nlink_of
from test_directory_random import random_step
from test_directory_service import TOKEN, Service
from volumes import FILE, FOLDER, names

from dfsfuse import errors, messages
from dfsfuse.messages import (
    Attributes,
    Begin,
    Begun,
    Commit,
    Create,
    Link,
    ListFolder,
    Listing,
    Lookup,
    Made,
    Manifest,
    Remove,
    Removed,
    RemoveXattr,
    Rename,
    Renamed,
    SetXattr,
    XattrNames,
)
from dfsfuse.rpc import Rpc

PATIENCE_S = 60.0
_STEPS = {"create", "remove", "rename", "link", "write", "give", "take"}


class LoadedClient:
    """Works in a folder of its own, with one session and one slot, and does the same to a model. What is not answered,
    or fails for the directory's disk, is asked again with the same number until it is answered."""

    def __init__(self, service: Service, number: int, seed: int):
        self._rpc, self._url = Rpc(TOKEN), f"http://127.0.0.1:{service.port}"
        self._choose, self._tree = random.Random(seed), Tree()
        self._folder = f"c{number}"
        begun: Begun = self._until_answered("begin", Begin(key=secrets.token_bytes(16)), Begun)
        self._session, self._sequence = begun.session, 0
        self._change("create", Create(names=names(self._folder), ino=0, mode=FOLDER), Made)
        self.steps = self.repeated = 0

    def _until_answered(self, operation: str, request: messages.Message, reply: type) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._rpc.call(self._url, operation, request, reply, 5.0)
            except (errors.Unreachable, errors.TimedOut, errors.ServerError):
                if time.monotonic() > deadline:
                    raise
            self.repeated += 1
            time.sleep(0.005)

    def _change(self, operation: str, request: messages.Change, reply: type) -> Any:
        self._sequence += 1
        request.session, request.slot, request.sequence = self._session, 1, self._sequence
        return self._until_answered(operation, request, reply)

    def step(self) -> None:
        """One random operation; AssertionError where its outcome is not that of the model."""
        what, *arguments = random_step(self._choose, self._tree)
        if what not in _STEPS:
            return
        of_model = _outcome(getattr(self._tree, what), *(_in_names(argument) for argument in arguments))
        outcome = _outcome(getattr(self, what), *arguments)
        assert outcome is of_model, (what, arguments, outcome, of_model)
        self.steps += 1

    def _at(self, path: str) -> list[bytes]:
        return names(f"{self._folder}/{path}")

    def create(self, path: str, folder: bool) -> None:
        self._change("create", Create(names=self._at(path), ino=0, mode=FOLDER if folder else FILE), Made)

    def remove(self, path: str, folder: bool) -> None:
        self._change("remove", Remove(names=self._at(path), folder=folder), Removed)

    def rename(self, old: str, new: str, flags: int) -> None:
        self._change("rename", Rename(names=self._at(old), new_names=self._at(new), flags=flags), Renamed)

    def link(self, old: str, new: str) -> None:
        self._change("link", Link(names=self._at(old), new_names=self._at(new)), Made)

    def write(self, path: str, size: int) -> None:
        known = self._lookup(path)
        request = Commit(
            ino=known.ino, token=0, base_version=known.version, base_commit_id=known.commit_id, size=size,
            commit_id=secrets.token_bytes(16), mtime_ns=None, manifest=Manifest(), durable=self._choose.random() < 0.1,
        )  # fmt: skip
        self._change("commit", request, Attributes)

    def give(self, path: str, name: bytes, flags: int) -> None:
        self._change("set_xattr", SetXattr(names=self._at(path), name=name, value=b"v", flags=flags), Attributes)

    def take(self, path: str, name: bytes) -> None:
        self._change("remove_xattr", RemoveXattr(names=self._at(path), name=name), Attributes)

    def _lookup(self, path: str) -> Attributes:
        return self._until_answered("lookup", Lookup(names=self._at(path)), Attributes)

    def compare(self) -> None:
        """What there is is what the model has, and nothing else."""
        tree, found = self._tree.walk(), self._walk("")
        assert set(found) == set(tree), self._folder
        for path, known in found.items():
            assert (known.nlink, known.size) == (nlink_of(tree[path]), tree[path].size), path
            request = messages.ListXattrs(base=known.ino)
            listed = self._until_answered("list_xattrs", request, XattrNames)
            assert listed.names == sorted(tree[path].xattrs), path
        assert len({known.ino for known in found.values()}) == len(set(tree.values()))
        self._rpc.close()

    def _walk(self, path: str) -> dict[bytes, Attributes]:
        found: dict[bytes, Attributes] = {}
        listing: Listing = self._until_answered("list", ListFolder(names=self._at(path)), Listing)
        for entry in listing.entries:
            below = f"{path}/{entry.name.decode()}"
            found[below.encode()] = entry.attributes
            if entry.attributes.mode & 0o170000 == FOLDER & 0o170000:
                found |= self._walk(below)
        return found


def _outcome(operation: Callable[..., None], *arguments: Any) -> type | None:
    try:
        operation(*arguments)
    except errors.DfsError as error:
        return type(error)
    return None


def _in_names(argument: Any) -> Any:
    return names(argument) if isinstance(argument, str) else argument


class Load:
    """So many clients, each in a thread, until `end`."""

    def __init__(self, service: Service, clients: int, seed: int):
        self.clients = [LoadedClient(service, number, seed * 100 + number) for number in range(clients)]
        self._ended = threading.Event()
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self.clients]
        for thread in self._threads:
            thread.start()

    def _run(self, client: LoadedClient) -> None:
        try:
            while not self._ended.is_set():
                client.step()
        except BaseException as error:
            self.failures.append(error)

    @property
    def steps(self) -> int:
        return sum(client.steps for client in self.clients)

    def end(self) -> None:
        """AssertionError unless everything that was answered is there, whole and once, and nothing else."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S + 10)
        assert self.failures == []
        for client in self.clients:
            client.compare()
