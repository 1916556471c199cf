"""`dfs put` and `dfs get` on what is not everyday: holes, deep trees, special files, odd targets."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SPARSE_BYTES = 3 << 30


def sparse_file(path: Path, contents: dict[int, bytes], size: int = SPARSE_BYTES) -> Path:
    with path.open("wb") as file:
        for offset, content in contents.items():
            os.pwrite(file.fileno(), content, offset)
        file.truncate(size)
    return path


def stored(path: Path) -> int:
    return path.stat().st_blocks * 512


def assert_sparse(path: Path, contents: dict[int, bytes], size: int = SPARSE_BYTES) -> None:
    """It has these contents, in holes."""
    assert path.stat().st_size == size
    assert stored(path) <= 1 << 20
    with path.open("rb") as file:
        for offset, content in contents.items():
            assert os.pread(file.fileno(), len(content) + 2, offset - 1) == b"\0" + content + b"\0"


@pytest.mark.parametrize("recursive", [False, True])
def test_holes_stay_holes(dfs, top, tmp_path, recursive):
    """Goal: of a file of 3 GiB with some bytes, these alone are stored, counted for the quota, and written back,
    wherever they are; so it is in trees."""
    options = ["-r"] if recursive else []
    contents = {4097: b"first", (1 << 30) + 70_000: b"x" * 5000, (2 << 30) - 3: b"over a border"}
    (tmp_path / "tree").mkdir()
    sparse_file(tmp_path / "tree" / "file", contents)
    used = dfs.json("quota")["used_bytes"]
    source, back = ("tree", "back") if recursive else ("tree/file", "back")
    dfs("put", *options, tmp_path / source, f"{top}/copy")
    assert dfs.json("quota")["used_bytes"] - used <= 1 << 20
    dfs("get", *options, f"{top}/copy", tmp_path / back)
    assert_sparse(tmp_path / back / "file" if recursive else tmp_path / back, contents)


def test_holes_alone(dfs, top, tmp_path):
    """Goal: a file that is one hole, and one that ends where its content does, come back as they were; over a file that
    had content."""
    sparse_file(tmp_path / "hole", {})
    sparse_file(tmp_path / "end", {SPARSE_BYTES - 1: b"."})
    for name in ("hole", "end"):
        dfs("write", f"{top}/{name}", given=b"former" * 1000)
        (tmp_path / f"{name}.back").write_bytes(b"former" * 1000)
        dfs("put", tmp_path / name, f"{top}/{name}")
        dfs("get", f"{top}/{name}", tmp_path / f"{name}.back")
    assert_sparse(tmp_path / "hole.back", {})
    assert_sparse(tmp_path / "end.back", {})
    with (tmp_path / "end.back").open("rb") as file:
        assert os.pread(file.fileno(), 9, SPARSE_BYTES - 2) == b"\0."


def test_what_says_nothing_of_its_size_is_copied_to_its_end(dfs, top):
    """Goal: files of /proc and /sys say 0 bytes, or a page: what can be read of them is copied."""
    for number, source in enumerate(("/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled")):
        if Path(source).exists():
            dfs("put", source, f"{top}/{number}")
            assert dfs("cat", f"{top}/{number}") == Path(source).read_bytes()


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder for trees that are too deep for what Python removes."""
    folder = tmp_path / "deep"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_trees_of_any_depth(dfs, top, deep):
    """Goal: a tree of more folders in each other than Python calls functions goes in and comes back, with what is in
    the innermost, and is removed."""
    below = f"{'d/' * 1010}file"
    subprocess.run(["mkdir", "-p", deep / "tree" / os.path.dirname(below)], check=True)
    (deep / "tree" / below).write_bytes(b"at the bottom")
    dfs("put", "-r", deep / "tree", f"{top}/tree")
    assert dfs("cat", f"{top}/tree/{below}") == b"at the bottom"
    dfs("get", "-r", f"{top}/tree", deep / "back")
    assert (deep / "back" / below).read_bytes() == b"at the bottom"
    dfs("rm", "-r", f"{top}/tree")
    assert dfs("ls", top) == b""


def test_get_into_a_folder_that_is_not_there(dfs, top, tmp_path):
    """Goal: a file does not become what was called a folder, of this machine or of the volume; a tree does."""
    dfs("write", f"{top}/file", given=b"content")
    (tmp_path / "plain").touch()
    for target in ("none/", "none/.", "plain/"):
        assert "no such folder" in dfs.failure("get", f"{top}/file", f"{tmp_path}/{target}")
        assert "must be an existing folder" in dfs.failure("put", tmp_path / "plain", f"{top}/none/")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    dfs("get", "-r", top, f"{tmp_path}/none/")
    dfs("get", f"{top}/file", f"{tmp_path}/none/")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["file"]


def test_trees_with_what_has_no_content(dfs, top, tmp_path):
    """Goal: what is neither file nor folder nor symlink is skipped both ways, with a line; the rest is copied,
    and the command succeeds."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    os.mkfifo(tree / "pipe")
    outcome = dfs.run("put", "-r", tree, top)
    assert (outcome.returncode, outcome.stderr.decode()) == (0, f"dfs: {tree}/pipe: a fifo; not copied\n")
    assert dfs("ls", f"{top}/tree") == b"file\n"
    dfs.cluster.ask("directory", "create", names=[top[1:], "tree", "socket"], ino=0, mode=stat.S_IFSOCK | 0o644)
    outcome = dfs.run("get", "-r", f"{top}/tree", tmp_path / "back")
    assert (outcome.returncode, outcome.stderr.decode()) == (0, f"dfs: {top}/tree/socket: a socket; not copied\n")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["file"]
