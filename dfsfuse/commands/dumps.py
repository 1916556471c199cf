"""dfs dump and load: the metadata of a volume as lines of text (docs/DUMP.md), and back."""

import argparse
import contextlib
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dfsfuse import cluster, errors, tables
from dfsfuse import home as homes
from dfsfuse.commands.reach import home_of, in_place_of, metadata
from dfsfuse.commands.surveys import survey
from dfsfuse.messages import Dump, DumpPage
from dfsfuse.tables import count_text

_STANDARD = "-"


def dump(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked, _written(arguments.file) as target:
        count = 0
        for page in survey(asked, "dump", Dump, DumpPage):
            target.writelines(line + b"\n" for line in page.lines)
            count += len(page.lines)
    if arguments.file != _STANDARD:
        lines = count_text(count, "line")
        tables.write_line(f"{arguments.file}: {lines}; the contents of files stay where they are, on the file servers")
    return 0


@contextlib.contextmanager
def _written(file: str) -> Iterator[BinaryIO]:
    """What is written within the block is there as a whole, on the disk, or not at all."""
    if file == _STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.lexists(file):
        raise errors.AlreadyExists(f"{file} exists; a dump replaces nothing, so name another file")
    part = f"{file}.{secrets.token_hex(4)}.part"
    try:
        with in_place_of(file, part):
            made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(made, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        os.rename(part, file)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(part)


def load(arguments: argparse.Namespace) -> int:
    """The directory's part runs in a process of its own: clients know nothing of its store."""
    home = home_of(arguments)
    if arguments.file != _STANDARD and not Path(arguments.file).is_file():
        raise errors.NotFound(f"{arguments.file}: no such file")
    homes.prepare(home)
    with cluster.kept_stopped(home):
        command = [*cluster.SERVERS, "load", "--home", str(home / "directory"), "--log-level", "error", arguments.file]
        done = subprocess.run(
            command, env=cluster.servers_environment(), capture_output=True, text=True, check=False,
            stdin=None if arguments.file == _STANDARD else subprocess.DEVNULL,
        )  # fmt: skip
    if done.returncode:
        raise errors.ServerError(_reason(done.stderr))
    volume, made_ns, inodes = done.stdout.split()
    when, many = tables.time_text(int(made_ns)), count_text(int(inodes), "inode")
    tables.write_line(f"volume {volume} is as it was at {when}, with {many}")
    tables.write_line(f"to start it: dfs --home {shlex.quote(str(home))} cluster start; and then: dfs check")
    return 0


def _reason(output: str) -> str:
    """The last line of the log, without when and where."""
    lines = output.strip().splitlines() or ["it ended without a word"]
    return lines[-1].rpartition(" load: ")[2]
