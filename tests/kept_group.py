"""A real directory and three real file servers as processes, whose scrubs and deletions are quick; and a client that
stores files of some chunks, without a mount."""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from chunk_homes import kept
from file_group import DEADLINE_S, TOKEN, FileServer, free_port, knows_two_others, wait_until
from support import ROOT
from volume_checks import assert_at_rest

from dfsfuse import messages
from dfsfuse.chunks import ENTRY_BYTES, Piece, chunk_name
from dfsfuse.messages import INLINE_ENTRIES, ChunkReceipts, Manifest
from servers.file_service import Pace

QUICK = Pace(scrub_bytes_s=1e9, scrub_every_s=0.5, collect_every_s=0.2, walk_every_s=0.5)
RESTING = Pace(scrub_bytes_s=0, collect_every_s=1e9)


class KeptGroup:
    """`files`: what was committed, path -> its chunks."""

    def __init__(self, folder: Path, pace: Pace = QUICK):
        self.folder, self.pace, self.port = folder, pace, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "token").write_text(TOKEN)
        self.start_directory()
        self.servers = {name: self._server(name) for name in "ABC"}
        self.files: dict[str, list[bytes]] = {}
        self.wait_whole()
        self.wait_acquainted()

    def wait_acquainted(self) -> None:
        """Each server, all of which run, knows where the others are now."""
        for server in self.servers.values():
            wait_until(functools.partial(_is_ready, server), f"{server.name} knows the others")

    def start_directory(self) -> None:
        command = [sys.executable, "-m", "servers", "directory", "--home", self.folder / "directory"]
        command += ["--port", str(self.port), "--token-file", self.folder / "token"]
        with open(self.folder / "directory.log", "ab") as log:
            self.directory = subprocess.Popen(command, cwd=ROOT, stderr=log)
        wait_until(self._directory_answers, "the directory answers")

    def _directory_answers(self) -> bool:
        try:
            return bool(self.ask("ping", messages.Nothing(), messages.Nothing))
        except requests.RequestException:
            return False

    def _server(self, name: str) -> FileServer:
        return FileServer(name, self.folder / name, self.port, pace=self.pace)

    def ask(self, operation: str, request: messages.Message, kind: type) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/msgpack"}
            reply = session.post(
                f"{self.url}/v1/{operation}", data=messages.to_msgpack(request), headers=headers, timeout=DEADLINE_S
            )
        assert reply.status_code == 200, reply.text
        return messages.from_msgpack(reply.content, kind)

    def is_void(self, operation: str, request: messages.Message) -> bool:
        """Was it refused, as the receipts that it brings are void?"""
        try:
            self.ask(operation, request, messages.Attributes)
        except AssertionError as error:
            assert "receipts_void" in str(error)  # noqa: PT017 - anything else is a failure
            return True
        return False

    # -- servers

    def kill(self, name: str) -> None:
        self.servers[name].signal(signal.SIGKILL)

    def start(self, name: str) -> None:
        self.servers[name].end()
        self.servers[name] = self._server(name)
        wait_until(self.servers[name].answers, f"{name} answers")

    def empty_disk(self, name: str) -> None:
        shutil.rmtree(self.folder / name)

    def status(self) -> messages.StatusReply:
        return self.ask("status", messages.Nothing(), messages.StatusReply)

    def server(self, name: str) -> messages.Server:
        return next(server for server in self.status().cluster.files if server.name == name)

    def is_whole(self) -> bool:
        """Everybody is up and serves, and nothing is short. The directory tells of the servers that run now: of one
        that was killed it goes on telling what that was, until it has been silent for a while or comes back."""
        status = self.status()
        files = status.cluster.files
        if {server.name: server.pid for server in files} != self._pids():
            return False
        return all(server.up and not server.syncing for server in files) and not status.short_chunks

    def _pids(self) -> dict[str, int]:
        return {name: server.process.pid for name, server in self.servers.items()}

    def wait_whole(self) -> None:
        wait_until(self.is_whole, "all servers are whole")

    def log(self, name: str) -> str:
        return Path(self.servers[name].log.name).read_text(errors="replace")

    # -- files

    def upload(self, data: bytes, through: str = "A") -> ChunkReceipts:
        role = "" if through == "A" else "?role=acting"
        name = chunk_name(data)
        status, _, body = self.servers[through].ask("PUT", f"/v1/chunks/{name.hex()}{role}", data)
        assert status == 200, body
        return ChunkReceipts(name, messages.from_msgpack(body, messages.Stored).receipts)

    def store(self, path: str, chunks: list[bytes], through: str = "A") -> None:
        """A new file with these chunks, or another content of one that is there, committed. What would need segments is
        stored as several files."""
        for name, part in _parts(path, chunks):
            if path not in self.files:
                self.ask("create", messages.Create(names=[name], ino=0, mode=0o100644), messages.Made)
            while not self._commit([name], part, through):
                pass
        self.files[path] = chunks

    def _commit(self, names: list[bytes], chunks: list[bytes], through: str) -> bool:
        """Upload and commit; False if the receipts have become void meanwhile."""
        rows = [self.upload(data, through) for data in chunks]
        now = self.ask("lookup", messages.Lookup(names=names), messages.Attributes)
        request = messages.Commit(
            ino=now.ino,
            token=0,
            base_version=now.version,
            base_commit_id=now.commit_id,
            commit_id=secrets.token_bytes(16),
            size=ENTRY_BYTES * (len(chunks) - 1) + len(chunks[-1]),
            mtime_ns=1,
            manifest=Manifest([[Piece(chunk_name(data), 0, len(data))] for data in chunks]),
            receipts=list({row.chunk: row for row in rows}.values()),
        )
        return not self.is_void("commit", request)

    def remove(self, path: str) -> None:
        for name, _ in _parts(path, self.files.pop(path)):
            self.ask("remove", messages.Remove(names=[name]), messages.Removed)

    def expected(self) -> set[str]:
        return {chunk_name(data).hex() for chunks in self.files.values() for data in chunks}

    def has(self, name: str) -> set[str]:
        """Hexadecimal names of the chunks on the disk of this server that are what they should be; none of one that is
        just being set aside."""
        found = set()
        with contextlib.suppress(FileNotFoundError):
            for key, where in kept(self.folder / name).items():
                with contextlib.suppress(FileNotFoundError):
                    found |= {key} if chunk_name(where.read()).hex() == key else set()
        return found

    def wait_everything_everywhere(self) -> None:
        for name in self.servers:
            wait_until(lambda n=name: self.expected() <= self.has(n), f"{name} has everything")

    def wait_nothing_else(self) -> None:
        """No server counts a chunk that is not expected."""
        for name in self.servers:
            wait_until(
                lambda n=name: self.servers[n].status().chunks == len(self.expected()), f"{name} has nothing else"
            )

    def check(self) -> None:
        """AssertionError for what the checker finds, when all servers are back and have nothing left to do."""
        for name, server in self.servers.items():
            if server.process.poll() is not None:
                self.start(name)
        self.wait_whole()
        assert not self.status().lost_files, self.status().lost_files
        assert_at_rest(self.url, TOKEN)

    def end(self) -> None:
        for server in self.servers.values():
            server.end()
        self.directory.kill()
        self.directory.wait(DEADLINE_S)


@contextlib.contextmanager
def kept_group(folder: Path, pace: Pace = QUICK) -> Iterator[KeptGroup]:
    """Within the block; after it everything that is needed must be everywhere, and nothing else."""
    group = KeptGroup(folder, pace)
    try:
        yield group
        group.check()
    finally:
        group.end()


def _is_ready(server: FileServer) -> bool:
    try:
        return knows_two_others(server)
    except AssertionError as error:
        assert "starting" in str(error)  # noqa: PT017 - anything else is a failure
        return False


def _parts(path: str, chunks: list[bytes]) -> list[tuple[bytes, list[bytes]]]:
    return [
        (b"%s.%d" % (path.encode(), at), chunks[at : at + INLINE_ENTRIES])
        for at in range(0, len(chunks), INLINE_ENTRIES)
    ]


def noise(count: int, size: int = 20_000) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]
