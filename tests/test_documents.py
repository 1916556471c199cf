"""The documents say what the code does: examples run, operations, errors, options and commands are complete, and every
promise names tests that exist."""

import argparse
import ast
import configparser
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from support import ROOT, error, wait_until
from test_mounted_posix import ACL

import mount
from dfsfuse import cli, errors
from dfsfuse.chunks import chunk_name
from dfsfuse.home import read_cluster, read_token
from servers.directory_service import DirectoryService
from servers.file_service import FileService
from servers.http import Operation
from servers.lock_service import LockService
from servers.locks import Locks
from servers.peers import Peers
from servers.store.memory import MemoryStore

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/PROTOCOL.md").read_text()
SEMANTICS = (ROOT / "docs/SEMANTICS.md").read_text()
ARCHITECTURE = (ROOT / "docs/ARCHITECTURE.md").read_text()

_URL = "http://127.0.0.1:1"


def sections(text: str, level: int) -> dict[str, str]:
    """Heading -> what stands below it, up to the next heading of this or a higher level."""
    parts = re.split(rf"^(#{{1,{level}}}) (.+)$", text, flags=re.M)[1:]
    return {title: body for marks, title, body in zip(*[iter(parts)] * 3, strict=True) if len(marks) == level}


def blocks(text: str) -> list[str]:
    """The examples: fenced blocks of shell commands."""
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S)


def rows(text: str) -> Iterator[list[str]]:
    """The rows of all tables of a text, without their titles' lines."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


# -- docs/PROTOCOL.md


def takes_copies(home: Path) -> bool:
    """An upload to the primary reaches all servers. A cluster that has just started may have two of them."""
    running, name = read_cluster(home), chunk_name(b"probe").hex()
    (url,) = (server.url for server in running.servers if server.name == "A")
    headers = {"Authorization": f"Bearer {read_token(home)}", "Accept": "application/json"}
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        session.trust_env = False
        reply = session.put(f"{url}/v1/chunks/{name}", b"probe", headers=headers, timeout=10)
        return len(reply.json().get("receipts", ())) == 3
    return False


COLLECTING = """
collecting() {
    curl -K "$AUTH" "$DIRECTORY/v1/collect" -d "{\\"server\\": \\"$1\\", \\"next_number\\": $(echo "$STORED" |
        python3 -c 'import json, sys
for row in json.load(sys.stdin)["receipts"]:
    if row["server"] == sys.argv[1]: print(row["number"] + 1)' "$1")}"
}
collecting A; collecting B
"""
"""Two file servers begin to delete what nobody needs: what they have given their word for counts no more."""


@pytest.mark.parametrize("meanwhile", ["", COLLECTING], ids=["", "receipts become void"])
def test_every_example_of_the_protocol_works(cluster, home: Path, folder: Path, meanwhile: str):
    """Goal: who types the examples from top to bottom gets no error, and leaves nothing behind; whatever the file
    servers do between an upload and its commit."""
    wait_until(lambda: takes_copies(home), "all three file servers know each other")
    steps = [f"echo 'example {number}' >&2\n{block}" for number, block in enumerate(blocks(PROTOCOL), 1)]
    (commit,) = (number for number, step in enumerate(steps) if "/v1/commit" in step)
    steps[commit] = meanwhile + steps[commit]
    here = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    outcome = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(steps)],
        env={"PATH": here, "DFS_HOME": str(home), "TMPDIR": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:] + outcome.stdout[-1000:]
    assert outcome.stderr.split("\n")[:-1] == [f"example {number}" for number in range(1, len(steps) + 1)]
    assert [path.name for path in folder.iterdir()] == ["home"]


@pytest.fixture
def operations(tmp_path: Path) -> Iterator[dict[str, Operation]]:
    """Every operation that the three services have, under the heading that it must have."""
    files = FileService("A", _URL, tmp_path, Peers("token"), _URL)
    directory = DirectoryService(MemoryStore(), 3, _URL)
    locks = LockService(Locks(), directory._me).operations()
    services = {"directory": directory.operations(), "locks": locks, "files": files.operations()}
    yield {f"{service}/{name}": kind for service, names in services.items() for name, kind in names.items()}
    files.close()


def test_every_operation_is_documented(operations: dict[str, Operation]):
    """Goal: each operation has a section with an example and all fields of its request; no section is of another."""
    documented = {title: body for title, body in sections(PROTOCOL, 3).items() if "/" in title}
    assert sorted(documented) == sorted(operations)
    variables = {"directory": "$DIRECTORY", "locks": "$LOCKS", "files": "$A"}
    for title, operation in operations.items():
        service, name = title.split("/")
        assert f'"{variables[service]}/v1/{name}"' in "".join(blocks(documented[title])), f"{title} has no example"
        missing = [field for field in operation.request.__struct_fields__ if f"`{field}`" not in documented[title]]
        assert not missing, f"{title} does not tell of {missing}"


def test_every_error_is_listed():
    """Goal: code, status and errno of each error, as errors.py has them, and nothing else."""
    listed = {row[0].strip("`"): (row[1], row[2]) for row in rows(sections(PROTOCOL, 2)["Errors"]) if len(row) == 4}
    listed.pop("code")
    names = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}
    assert listed == {code: (str(kind.status), names[kind.errno]) for code, kind in errors.BY_CODE.items()}


# -- docs/SEMANTICS.md


def named_tests(text: str) -> set[str]:
    return set(re.findall(r"tests/test_\w+\.py::\w+", text))


def existing_tests() -> set[str]:
    found = set()
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(f"tests/{file.name}::{node.name}")
    return found


def test_every_promise_has_its_tests():
    """Goal: S1 to S16 are there, in order, and each names at least one test; so does each list of what is refused."""
    promises = sections(sections(SEMANTICS, 2)["Promises"], 3)
    assert [title.split()[0] for title in promises] == [f"S{number}" for number in range(1, 17)]
    without = [title for title, body in promises.items() if not named_tests(body)]
    assert not without
    assert named_tests(sections(SEMANTICS, 2)["What is refused"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path):
    """Goal: who follows a name of a test finds it."""
    assert named_tests(document.read_text()) <= existing_tests()


@contextlib.contextmanager
def refused(mount: Path) -> Iterator[dict[str, list[Callable[[], object]]]]:
    """First cell of the table in SEMANTICS.md -> calls that must end with the errno in its second cell."""
    file, other, libc = mount / "file", mount / "other", ctypes.CDLL(None, use_errno=True)
    folder, device = mount / "folder", mount / "device"
    fd, source = os.open(file, os.O_RDWR | os.O_CREAT), os.open(other, os.O_RDONLY | os.O_CREAT)
    folder.mkdir()
    os.mknod(device, 0o020666, os.makedev(1, 3))
    for name in ("user.a", "user.b"):
        os.setxattr(other, name, bytes((64 << 10) - 6))

    def call(function: str, *arguments: object) -> None:
        if getattr(libc, function)(*arguments):
            raise OSError(ctypes.get_errno(), function)

    def fallocate(mode: int) -> Callable[[], None]:
        return lambda: call("fallocate64", fd, mode, ctypes.c_int64(0), ctypes.c_int64(4096))

    def long_name() -> None:
        (mount / ("n" * 256)).touch()

    yield {
        "link to a folder": [lambda: os.link(folder, mount / "link")],
        "opening a device node (the nodes themselves are kept) without `--dev`": [lambda: os.open(device, os.O_RDONLY)],
        "setxattr and getxattr outside `user.`, `trusted.` and `security.`, save POSIX ACLs": [
            *(lambda name=name: os.setxattr(file, name, b"1") for name in ("foreign.a", "system.other")),
            *(lambda name=name: os.getxattr(file, name) for name in ("foreign.a", "system.other")),
        ],
        "POSIX ACLs (`system.posix_acl_access`, `system.posix_acl_default`)": [
            lambda: os.setxattr(file, "system.posix_acl_access", ACL),
            lambda: os.getxattr(file, "system.posix_acl_access"),
            lambda: os.setxattr(folder, "system.posix_acl_default", ACL),
            lambda: os.getxattr(folder, "system.posix_acl_default"),
            lambda: os.removexattr(folder, "system.posix_acl_default"),
        ],
        "a POSIX ACL beyond 4 KiB (ext4: ENOSPC)": [
            lambda: os.setxattr(file, "system.posix_acl_access", ACL[:12] + 510 * ACL[12:20] + ACL[20:])
        ],
        "setxattr of a value beyond 64 KiB": [lambda: os.setxattr(file, "user.a", bytes((64 << 10) + 1))],
        "setxattr beyond 128 KiB of all attributes of one file": [lambda: os.setxattr(other, "user.c", b"1")],
        "fallocate that makes or clears room: mode 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE": [
            fallocate(mode) for mode in (0, 1, 3, 16, 17)
        ],
        "fallocate that moves content: COLLAPSE_RANGE, INSERT_RANGE, and UNSHARE_RANGE": [
            fallocate(mode) for mode in (8, 32, 64)
        ],
        "O_TMPFILE": [lambda: os.close(os.open(mount, os.O_TMPFILE | os.O_RDWR))],
        "RENAME_WHITEOUT": [lambda: call("renameat2", -100, bytes(file), -100, bytes(other) + b"2", 4)],
        "FICLONE": [lambda: fcntl.ioctl(fd, _FICLONE, source)],
        "ioctl of file flags (lsattr, chattr)": [lambda: fcntl.ioctl(fd, _GETFLAGS, bytes(8))],
        "ioctl FIEMAP (filefrag)": [lambda: fcntl.ioctl(fd, _FIEMAP, bytes(32))],
        "a file larger than 16 TiB, or than the cache's disk allows in one file": [
            lambda: os.truncate(file, (16 << 40) + 1),
            lambda: os.pwrite(fd, b"x", 16 << 40),
        ],
        "a name longer than 255 bytes": [long_name],
    }
    os.close(fd)
    os.close(source)


_FICLONE, _GETFLAGS, _FIEMAP = 0x40049409, 0x80086601, 0xC020660B


@pytest.mark.mounted
@pytest.mark.drivers("linux", "fusepy")
def test_what_is_refused_is_refused(mount: Path, driver: str):
    """Goal: each row of the table ends with its driver's errno on a mount, or works; what is refused leaves nothing
    behind."""
    table = sections(SEMANTICS, 2)["What is refused"].split("### ")[0]
    titles, *told = rows(table)
    expected = {row[0]: row[titles.index(driver)] for row in told}
    with refused(mount) as calls:
        assert set(expected) - set(calls) == {"any change on a mount with `--read-only`"}
        before = sorted(os.listdir(mount))
        for what, tries in calls.items():
            for attempt in tries:
                with contextlib.nullcontext() if expected[what] == "works" else error(getattr(errno, expected[what])):
                    attempt()
            if expected[what] == "works":
                for name in set(os.listdir(mount)) - set(before):
                    (mount / name).unlink()
            assert sorted(os.listdir(mount)) == before, what


@pytest.mark.mounted
@pytest.mark.drivers("fusepy")
def test_an_unlinked_file_that_is_open(mount: Path):
    """Goal: the second table of SEMANTICS.md: what works and what is ESTALE with that driver where the file was
    unlinked. (With the linux driver everything works: test_mounted_linux.py.)"""
    file = mount / "file"
    fd = os.open(file, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"content")
    file.unlink()
    assert os.pread(fd, 100, 0) == b"content"
    os.ftruncate(fd, 3)
    os.pwrite(fd, b"more", 3)
    os.fsync(fd)
    with mmap.mmap(fd, 7) as mapping:
        assert mapping[:] == b"conmore"
    for attempt in (
        lambda: os.fstat(fd),
        lambda: os.fchmod(fd, 0o600),
        lambda: os.fchown(fd, 1, 1),
        lambda: os.utime(fd),
        lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY),
    ):
        with error(errno.ESTALE):
            attempt()
    os.close(fd)


# -- all documents


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    """Goal: each link within the project leads to a file, and to a heading where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (document.parent / path) if path else document
            assert file.exists(), f"{target}: no such file"
            assert not anchor or anchor in anchors(file), f"{target}: no such heading"


# -- README.md and docs/ARCHITECTURE.md


def test_the_map_shows_every_room():
    """Goal: who looks for a module finds it in README.md, and what stands there is there."""
    text = sections(README, 2)["Map of the rooms"]
    shown = set(re.findall(r"(\w+(?:/\w+)*(?:\.py|/))", text))
    for package in ("dfsfuse", "servers"):
        entries = [entry for entry in (ROOT / package).iterdir() if entry.suffix == ".py" or entry.is_dir()]
        names = {entry.name + "/" * entry.is_dir() for entry in entries} - {"__init__.py", "__pycache__/", "drivers/"}
        assert not names - shown, f"{package}: not in the map"
    there = {path.name + "/" * path.is_dir() for path in [*ROOT.rglob("*.py"), *ROOT.glob("*/"), *ROOT.glob("*/*/")]}
    assert not {name.removesuffix("/").rpartition("/")[2] + "/" * name.endswith("/") for name in shown} - there


def options(parser: argparse.ArgumentParser) -> set[str]:
    visible = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {name for action in visible for name in action.option_strings if name.startswith("--")} - {"--help"}


def test_readme_names_every_option_and_command():
    """Goal: the options of mount.py and the commands of dfs in README.md are those that there are."""
    told = sections(README, 2)["Everyday use"]
    assert set(re.findall(r"^\| `(--[\w-]+)", told, flags=re.M)) == options(mount._parser())
    (commands,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    shown = re.findall(r"^    dfs (\w+)", sections(README, 2)["The command dfs"], flags=re.M)
    assert set(shown) == set(commands.choices)


def test_each_dependency_has_its_reason():
    """Goal: nothing is installed that docs/ARCHITECTURE.md does not account for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    packages = {re.split(r"[ <>=]", line)[0] for line in wanted.split("\n") if line.strip()}
    told = {name for row in rows(sections(ARCHITECTURE, 2)["Dependencies"]) for name in row[0].split(", ")}
    assert told - {"package"} == packages
