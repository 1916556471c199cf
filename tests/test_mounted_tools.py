"""Everyday programs on a mount, compared with the same on a local disk."""

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted


def run(*command: object, cwd: Path, status: int = 0) -> str:
    """What the program prints; it ends with `status`."""
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    outcome = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == status, f"{command}: {outcome.returncode}: {outcome.stdout}{outcome.stderr}"
    return outcome.stdout


def fill(folder: Path) -> Path:
    """A tree with files of many sizes, an executable, an empty file and folder, a symlink, and a name with blanks."""
    tree = folder / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "empty folder").mkdir()
    for number, size in enumerate((0, 1, 4095, 4096, 4097, 65_536, 1_000_000, (4 << 20) + 5)):
        (tree / "sub" / f"{size}.bin").write_bytes((hashlib.sha256(b"%d" % number).digest() * (size // 32 + 1))[:size])
    (tree / "sub" / "deep" / "words.txt").write_text("".join(f"{n * 7919 % 1000} needle\n" for n in range(500)))
    (tree / "a name").write_text("blank\n")
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("sub/deep/words.txt")
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + len(path.name)), follow_symlinks=False)
    return tree


def described(tree: Path) -> dict[str, tuple]:
    """Everything about a tree that a copy must have: kind and mode, size, mtime of files, content."""
    found = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        mtime_ns = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        found[str(path.relative_to(tree))] = (status.st_mode, mtime_ns, content)
    return found


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return fill(tmp_path)


def test_cp_diff_and_rm(mount: Path, local: Path, tmp_path: Path):
    """Goal: a tree copied in, on the mount, and out again is the same; rm -r leaves nothing."""
    run("cp", "-a", local, "one", cwd=mount)
    assert described(mount / "one") == described(local)
    run("cp", "-a", "one", "two", cwd=mount)
    run("cp", "-a", mount / "two", tmp_path / "out", cwd=tmp_path)
    assert described(tmp_path / "out") == described(local)
    assert run("diff", "-r", local, "two", cwd=mount) == ""
    (mount / "two" / "a name").write_text("other\n")
    assert "differ" in run("diff", "-rq", local, "two", cwd=mount, status=1)
    run("rm", "-r", "one", "two", cwd=mount)
    assert os.listdir(mount) == []


def test_reading_programs_print_the_same(mount: Path, local: Path):
    """Goal: cat, ls -l, grep -r, find, sort, wc, du, stat, head and tail print what they print of a local copy."""
    run("cp", "-a", local, "tree", cwd=mount)
    for command in (
        "cat 'a name' sub/deep/words.txt",
        "ls -ln --time-style=+%s.%N *.sh link sub/*.bin",
        "find . ! -type d -printf '%m %U %G %s %T@ %p %l\\n' | sort",
        "grep -rn 'needle' . | sort",
        "grep -c 3 link",
        "find . -type f -size +3k | sort",
        "find . -type l -o -type d | sort",
        "sort -n sub/deep/words.txt",
        "wc -c sub/*.bin",
        "du --apparent-size -b sub/*.bin",
        "head -c 100000 sub/1000000.bin | sha256sum",
        "tail -c 7 sub/4194309.bin | sha256sum",
        "tail -n 3 link",
        "./run.sh",
        "sha256sum sub/*.bin",
    ):
        there, here = (run("sh", "-c", command, cwd=folder) for folder in (mount / "tree", local))
        assert there == here, command
        assert here, command


def test_mv_within_and_across(mount: Path, local: Path, tmp_path: Path):
    """Goal: mv on the mount renames; from the mount to the disk and back it copies and removes."""
    run("cp", "-a", local, "tree", cwd=mount)
    run("mv", "tree", "moved", cwd=mount)
    run("mv", "moved", tmp_path / "out", cwd=mount)
    assert os.listdir(mount) == []
    assert described(tmp_path / "out") == described(local)
    run("mv", tmp_path / "out", mount, cwd=mount)
    assert described(mount / "out") == described(local)


def test_tar_out_and_in(mount: Path, local: Path, tmp_path: Path):
    """Goal: an archive made of the mount holds what one made of the disk holds; unpacked on the mount it is the
    tree."""
    run("tar", "--format=posix", "-cf", mount / "in.tar", "-C", local.parent, "tree", cwd=tmp_path)
    run("tar", "xf", "in.tar", cwd=mount)
    assert described(mount / "tree") == described(local)
    run("tar", "--format=posix", "-czf", tmp_path / "out.tgz", "tree", cwd=mount)
    (tmp_path / "unpacked").mkdir()
    run("tar", "xzf", tmp_path / "out.tgz", "-C", tmp_path / "unpacked", cwd=tmp_path)
    assert described(tmp_path / "unpacked" / "tree") == described(local)
    assert run("tar", "df", "in.tar", cwd=mount) == ""


def test_sed_in_place(mount: Path):
    """Goal: sed -i, with and without a backup, on many files at once."""
    for number in range(10):
        (mount / f"{number}.txt").write_text(f"old {number}\n")
    run("sh", "-c", "sed -i.bak s/old/new/ *.txt", cwd=mount)
    for number in range(10):
        assert (mount / f"{number}.txt").read_text() == f"new {number}\n"
        assert (mount / f"{number}.txt.bak").read_text() == f"old {number}\n"
    assert len(os.listdir(mount)) == 20


def test_dd_with_fsync(mount: Path):
    """Goal: dd conv=fsync, notrunc, seek: each byte where it belongs."""
    run("sh", "-c", "seq 1 200000 > numbers", cwd=mount)
    run("dd", "if=numbers", "of=copy", "bs=64k", "conv=fsync", cwd=mount)
    assert (mount / "copy").read_bytes() == (mount / "numbers").read_bytes()
    run("dd", "if=/dev/zero", "of=copy", "bs=1000", "count=1", "seek=5", "conv=notrunc,fsync", cwd=mount)
    expected = bytearray((mount / "numbers").read_bytes())
    expected[5000:6000] = bytes(1000)
    assert (mount / "copy").read_bytes() == bytes(expected)


def test_shell_redirections(mount: Path):
    """Goal: >, >>, pipes, here documents, and a descriptor that a child inherits."""
    script = (
        "echo one > f; echo two >> f; { echo three; cat f; } > g; (echo a; echo b) >> g; sort -o g g; : > f; tee h < g"
    )
    run("sh", "-c", script, cwd=mount)
    assert (mount / "g").read_text() == (mount / "h").read_text() == "a\nb\none\nthree\ntwo\n"
    assert (mount / "f").read_text() == ""


def test_python_compiles(mount: Path):
    """Goal: compileall and a run from the mount: __pycache__ is written by rename, and used."""
    shutil.copytree(Path(shutil.__file__).parent / "json", mount / "json", ignore=shutil.ignore_patterns("__pycache__"))
    run("python3", "-m", "compileall", "-q", "json", cwd=mount)
    assert list((mount / "json" / "__pycache__").glob("decoder.*.pyc"))
    code = "import json; assert json.__file__.startswith('/tmp/dfs-'), json.__file__; print(json.loads('[1]'))"
    assert run("python3", "-c", code, cwd=mount) == "[1]\n"


def test_git(mount: Path, local: Path):
    """Goal: init, add, commit, status, branch, checkout, gc and fsck on the mount; a clone has the same."""
    git = (
        "git",
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@x",
        "-c",
        "safe.directory=*",
        "-c",
        "init.defaultBranch=main",
    )
    run("cp", "-a", local, "repo", cwd=mount)
    repo = mount / "repo"
    run(*git, "init", "-q", cwd=repo)
    run(*git, "add", ".", cwd=repo)
    run(*git, "commit", "-qm", "first", cwd=repo)
    assert run(*git, "status", "--porcelain", cwd=repo) == ""
    run(*git, "checkout", "-qb", "other", cwd=repo)
    (repo / "a name").write_text("changed\n")
    assert run(*git, "status", "--porcelain", cwd=repo) == ' M "a name"\n'
    run(*git, "commit", "-qam", "second", cwd=repo)
    run(*git, "checkout", "-q", "main", cwd=repo)
    assert (repo / "a name").read_text() == "blank\n"
    run(*git, "merge", "-q", "other", cwd=repo)
    run(*git, "gc", "-q", cwd=repo)
    assert "error" not in run(*git, "fsck", "--full", cwd=repo)
    run(*git, "clone", "-q", repo, mount / "clone", cwd=mount)
    (repo / "empty folder").rmdir()
    assert run("diff", "-r", "--exclude=.git", "repo", "clone", cwd=mount) == ""
