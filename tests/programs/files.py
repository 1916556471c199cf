"""Programs that work with many files: version control, archives, copies, compilers, virtual environments."""

import hashlib
import os
import stat
import sys
from pathlib import Path

from programs import run


def git(here: Path, there: Path) -> object:
    """A repository: many commits, a clone, gc, fsck, a merge; the same history everywhere."""
    tree = here / "tree"
    tree.mkdir()
    author = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main")
    dates = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    run("git", *author, "init", "-q", cwd=tree)
    for number in range(10):
        for name in range(20):
            (tree / f"{name}.txt").write_text(f"{number * name}\n" * (name + 1))
        run("git", "add", "-A", cwd=tree)
        run("git", *author, "commit", "-q", "-m", f"{number}", cwd=tree, env=dates)
    run("git", "clone", "-q", "--no-hardlinks", tree, here / "clone", cwd=here)
    (here / "clone" / "new.txt").write_text("new\n")
    run("git", "add", "-A", cwd=here / "clone")
    run("git", *author, "commit", "-q", "-m", "in the clone", cwd=here / "clone", env=dates)
    run("git", "pull", "-q", here / "clone", "main", cwd=tree)
    run("git", "gc", "-q", "--prune=now", cwd=tree)
    run("git", "fsck", "--full", "--strict", cwd=tree)
    assert run("git", "status", "--porcelain", cwd=tree) == ""
    return run("git", "log", "--format=%H %T %s", cwd=there / "tree")


def fill(folder: Path) -> Path:
    """A tree of all sorts of files."""
    tree = folder / "source"
    for number in range(12):
        (tree / f"d{number}").mkdir(parents=True)
        for size in (0, 1, 4095, 4097, 70_000):
            content = hashlib.sha256(b"%d" % number).digest() * (size // 32 + 1)
            (tree / f"d{number}" / f"{size}.bin").write_bytes(content[:size])
    (tree / "large").write_bytes(bytes(range(256)) * (5 << 12))
    (tree / "a name").symlink_to("d1/4095.bin")
    (tree / "d0" / "1.bin").chmod(0o4751)
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + len(path.name)), follow_symlinks=False)
    return tree


def described(tree: Path) -> dict[str, tuple]:
    """What a copy must have: kind and mode, time, content."""
    found = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        time_ns = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        found[str(path.relative_to(tree))] = (status.st_mode, time_ns, content)
    return found


def tar(here: Path, there: Path) -> object:
    """A tree packed and unpacked is the same tree, seen through the other mount."""
    tree = fill(here)
    run("tar", "--format=pax", "-cf", "all.tar", "source", cwd=here)
    (here / "out").mkdir()
    run("tar", "-xpf", "all.tar", "-C", "out", cwd=here)
    assert described(there / "out" / "source") == described(tree)
    return sorted(described(tree))


def rsync(here: Path, there: Path) -> object:
    """A copy is complete, and the second run finds nothing to send."""
    tree = fill(here)
    run("rsync", "-aH", f"{tree}/", f"{here}/copy/", cwd=here)
    assert described(there / "copy") == described(tree)
    assert run("rsync", "-aH", "--itemize-changes", f"{tree}/", f"{here}/copy/", cwd=here) == ""
    (tree / "d3" / "1.bin").write_bytes(b"changed")
    assert "d3/1.bin" in run("rsync", "-aH", "--itemize-changes", f"{tree}/", f"{here}/copy/", cwd=here)
    return sorted(described(tree))


def make(here: Path, there: Path) -> object:
    """A project in C, built by four compilers at a time; a second run has nothing to do."""
    count = 40
    for n in range(count):
        (here / f"m{n}.c").write_text(f'#include "all.h"\nint f{n}(int x) {{ return x * {n} + 1; }}\n')
    (here / "all.h").write_text("".join(f"int f{n}(int);\n" for n in range(count)))
    calls = "".join(f"s += f{n}({n});" for n in range(count))
    (here / "main.c").write_text(
        f'#include <stdio.h>\n#include "all.h"\nint main(){{int s=0;{calls}printf("%d\\n",s);}}'
    )
    objects = " ".join(f"m{n}.o" for n in range(count)) + " main.o"
    (here / "Makefile").write_text(f"all: {objects}\n\tcc -o all {objects}\n%.o: %.c all.h\n\tcc -O1 -c -o $@ $<\n")
    run("make", "-j4", cwd=here)
    assert "cc -O1" not in run("make", cwd=here).replace("cc -o all", "")
    return run(there / "all", cwd=there)


def venv(here: Path, there: Path) -> object:
    """A virtual environment with pip, made and used."""
    run(sys.executable, "-m", "venv", here / "env", cwd=here)
    python = there / "env" / "bin" / "python"
    run(python, "-m", "pip", "--version", cwd=there)
    run(python, "-m", "compileall", "-q", there / "env" / "lib", cwd=there)
    return run(python, "-c", "import pip, sys; print(sys.prefix != sys.base_prefix, pip.__version__)", cwd=there)
