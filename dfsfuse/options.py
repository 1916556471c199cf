"""What one client was asked to be: made from mount.py's arguments, given to `dfsfuse.client.connect`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfsfuse.home import client_folder

CACHE_BYTES = 10 << 30
LOCK_WAIT_S = 10.0
TIMEOUT_S = 30.0
KNOWN_FILES = 100_000
HASH_WHOLE_MAX = 4 << 30


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """`url` is the directory service's; `home` holds the client's folder; `mountpoint` is absolute.

    `lock_wait_s`: how long an open for writing waits for another writer. `timeout_s`: how long a call goes on without
    progress. `suid`, `dev`: set-id bits and device nodes count. `passthrough`: where the kernel can, it reads files of
    the cache itself; `hash_whole_max`: and writes those up to that size, of which all is hashed when they are closed.
    `cache_bytes`: what clean content may take on the local disk. `known_files`: of how many files
    names and attributes are remembered. `refind` returns the directory's present URL and starts the embedded cluster
    again if its supervisor died; it raises Unreachable; None: the URL is fixed. `another`, where there are several
    directories, returns the URL of who serves in the place of the one that is silent, or "".
    """

    url: str
    token: str
    home: Path
    mountpoint: str
    cache_bytes: int = CACHE_BYTES
    known_files: int = KNOWN_FILES
    lock_wait_s: float = LOCK_WAIT_S
    timeout_s: float = TIMEOUT_S
    read_only: bool = False
    suid: bool = False
    dev: bool = False
    passthrough: bool = True
    hash_whole_max: int = HASH_WHOLE_MAX
    refind: Callable[[], str] | None = None
    another: Callable[[], str] | None = None
    volume: str = ""

    @property
    def passing(self) -> tuple[Path, int] | None:
        """(where the files are that the kernel may read itself, up to which size it may write them)."""
        return (self.folder, self.hash_whole_max) if self.passthrough else None

    @property
    def folder(self) -> Path:
        """Where this client keeps its cache and its log; the same at the next mount on the same mountpoint."""
        return client_folder(self.home, self.volume, self.mountpoint)
