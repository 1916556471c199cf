"""The command `dfs` on names and contents: each command, its JSON, its exit status, and odd names."""

import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys

import pexpect
import pytest
from dfs_command import RUN_S, environment, write_files
from support import ROOT

from dfsfuse.messages import text_as_bytes

COMMANDS = ["cat", "put", "get", "write", "ls", "mkdir", "mv", "rm", "stat", "where", "mappings", "locks", "quota",
            "status", "unmount", "forget", "shell", "cluster"]  # fmt: skip
ODD = b"\xff odd \n\x1b[31m \xc3\xa9"


# -- arguments


def test_help_of_each_command_says_what_it_does():
    """Goal: `--help` works for every command, and explains PATH where there is one."""
    for command in ([], *([name] for name in COMMANDS), ["cluster", "start"], ["cluster", "stop"]):
        line = [sys.executable, "-P", "-m", "dfsfuse", *command, "--help"]
        outcome = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
        assert outcome.returncode == 0
        assert outcome.stdout.startswith(" ".join(["usage: dfs", *command]))
        takes_a_path = not command or re.search(r"\bPATH\b", outcome.stdout.split("\n\n")[0])
        assert ("PATH is a path in the volume" in outcome.stdout) == bool(takes_a_path)


def test_help_is_fast():
    """Goal: parsing arguments imports nothing heavy, so help and misuse are answered at once."""
    heavy = "{'msgspec', 'httptools', 'requests', 'mfusepy', 'prompt_toolkit', 'tqdm', 'sqlite3', 'logging'}"
    code = f"import sys, dfsfuse.cli; dfsfuse.cli._parser(); sys.exit(str({heavy} & set(sys.modules) or ''))"
    outcome = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
    assert (outcome.returncode, outcome.stderr.strip()) == (0, b"") or outcome.stderr == b"\n"


@pytest.mark.parametrize(
    "arguments",
    ["", "what", "cat", "put x", "get x", "mv x", "rm", "write", "write a b", "stat", "where", "mappings --csv --json",
     "cluster", "cluster what", "--cluster localhost:1 cluster stop", "--timeout soon ls", "--lock-wait -1 ls",
     "locks x", "ls --what", "quota 5", "quota --bytes 0", "quota --bytes x", "quota --inodes -1",
     "quota --bytes 9999T9", "quota --bytes 9999999999T"],
)  # fmt: skip
def test_misuse(arguments, tmp_path):
    """Goal: exit status 2 and a usage line, before anything is started."""
    line = [sys.executable, "-P", "-m", "dfsfuse", "--home", str(tmp_path / "home"), *arguments.split()]
    outcome = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("usage: dfs")
    assert "invalid _" not in outcome.stderr
    assert "value: " not in outcome.stderr, "what is wrong is said in words, and not as argparse does"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "usage", "line"),
    [
        ("ls --what", "usage: dfs ls ", "dfs ls: error: unrecognized arguments: --what"),
        ("quota 500M", "usage: dfs quota ", "dfs quota: error: unrecognized arguments: 500M"),
        ("cluster stop now", "usage: dfs cluster stop ", "dfs cluster stop: error: unrecognized arguments: now"),
        ("--timeout soon ls", "usage: dfs ", "--timeout: 'soon' is not a number of seconds, from 0.1 to a million"),
        ("--lock-wait 1e300 ls", "usage: dfs ", "'1e300' is not a number of seconds, up to a million, such as 10"),
        ("quota --bytes 5X", "usage: dfs quota ", "is not a limit: a number from 1 to 2^63 - 1, such as 500M, or none"),
    ],
)  # fmt: skip
def test_misuse_is_told_in_words(arguments, usage, line):
    """Goal: the usage is that of the command, and the line says what was expected."""
    command = [sys.executable, "-P", "-m", "dfsfuse", *arguments.split()]
    outcome = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(usage)
    assert outcome.stderr.rstrip().endswith(line)


def test_an_empty_path_is_misuse(tmp_path):
    """Goal: `dfs rm ""` names nothing, and surely not the root; nor is an empty home the default one."""
    home = ["--home", str(tmp_path / "home")]
    for arguments in ([*home, "rm", ""], ["--home", "", "ls"], [*home, "--cluster", "", "ls"]):
        line = [sys.executable, "-P", "-m", "dfsfuse", *arguments]
        assert subprocess.run(line, env=environment(), capture_output=True, check=False).returncode == 2


def test_a_python_without_dependencies():
    """Goal: it is told in one line which one lacks what, and what to use or to run instead; help needs nothing."""
    command = [sys.executable, "-S", "-m", "dfsfuse"]
    outcome = subprocess.run([*command, "ls"], env=environment(), capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1)
    assert outcome.stderr.startswith(f"dfs: this Python ({sys.executable}) lacks msgspec, which dfsfuse needs; ")
    assert outcome.stderr.rstrip().endswith((f"use {ROOT}/.venv/bin/dfs", f"run: make -C {ROOT} venv"))
    assert subprocess.run([*command, "--help"], env=environment(), capture_output=True, check=False).returncode == 0


# -- contents


def test_write_and_cat_keep_every_byte(dfs, top):
    """Goal: what write was given cat gives back, of several files in order; each write is one version."""
    every = bytes(range(256)) * 3
    dfs("write", f"{top}/a", given=every)
    dfs("write", f"{top}/b", given=b"second")
    dfs("write", f"{top}/a", given=every)
    assert dfs("cat", f"{top}/a", f"{top}/b") == every + b"second"
    assert dfs.json("stat", f"{top}/a")["version"] == 2
    dfs("write", f"{top}/b", given=b"")
    assert dfs("cat", f"{top}/b") == b""


def test_cat_goes_on_after_a_failure(dfs, top):
    """Goal: what can be shown is shown; each failure is one line; the exit status says that there was one."""
    dfs("write", f"{top}/a", given=b"here")
    outcome = dfs.run("cat", f"{top}/none", f"{top}/a", top)
    assert (outcome.returncode, outcome.stdout) == (1, b"here")
    missing, folder = outcome.stderr.decode().splitlines()
    assert missing == f"dfs: {top}/none: no file or folder 'none'"
    assert folder == f"dfs: {top}: it is a folder; name a file"


def test_nobody_reads_what_cat_writes(dfs, top):
    """Goal: `dfs cat big | head` ends without a traceback."""
    dfs("write", f"{top}/big", given=bytes(1 << 20))
    process = dfs.start("cat", f"{top}/big")
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(RUN_S) == 1
    assert process.stderr.read() == b""
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_write_changes_nothing(dfs, top, number):
    """Goal: Ctrl-C or SIGTERM before the end of the input leaves the file as it was, and no new one behind."""
    dfs("write", f"{top}/old", given=b"old")
    for name in ("old", "new"):
        with dfs.held(f"{top}/{name}") as writer:
            writer.stdin.write(b"half")
            writer.stdin.flush()
            writer.send_signal(number)
            assert writer.wait(RUN_S) == 1
            assert writer.stderr.read() == (b"dfs: interrupted\n" if number == signal.SIGINT else b"")
    assert dfs("ls", top) == b"old\n"
    assert dfs("cat", f"{top}/old") == b"old"
    assert dfs.json("stat", f"{top}/old")["version"] == 1


# -- names


def test_ls(dfs, top):
    """Goal: names in order; with -l and as JSON everything about them; a file lists itself; the root without a PATH."""
    dfs("write", f"{top}/file", given=b"12345")
    dfs("mkdir", f"{top}/folder")
    assert dfs("ls", top) == b"file\nfolder\n"
    assert dfs("ls", f"{top}/file") == f"{top}/file\n".encode()
    assert f"{top[1:]}\n".encode() in dfs("ls")
    file, folder = dfs("ls", "-l", top).decode().splitlines()
    assert file.split()[0] == "-rw-r--r--"
    assert file.split()[4] == "5"
    assert folder.split()[0] == "drwxr-xr-x"
    rows = dfs.json("ls", top)
    assert [(row["name"], row["type"], row["size"]) for row in rows] == [("file", "file", 5), ("folder", "folder", 0)]
    assert dfs.failure("ls", f"{top}/none") == f"{top}/none: no file or folder 'none'"
    assert dfs.failure("ls", f"{top}/file/x").startswith(f"{top}/file/x: ")


def test_names_of_any_bytes(dfs, top):
    """Goal: a name of odd bytes goes in and comes out unchanged; tables escape it; JSON has it as hex."""
    path = top.encode() + b"/" + ODD
    dfs("write", path, given=b"odd")
    assert dfs("cat", path) == b"odd"
    assert dfs("ls", top) == ODD + b"\n"
    listed = dfs("ls", "-l", top)
    assert listed.endswith(b"\xff odd \\n\\x1b[31m \xc3\xa9\n")
    assert listed.count(b"\n") == 1
    assert text_as_bytes(dfs.json("ls", top)[0]["name"]) == ODD
    assert text_as_bytes(dfs.json("where", path)["path"]) == path
    assert b"\\x1b" in dfs("stat", path)
    complaint = dfs.run("cat", path + b"none").stderr
    assert (complaint.count(b"\n"), b"\x1b" in complaint) == (1, False)
    dfs("mv", path, top.encode() + b"/\xfe")
    dfs("rm", top.encode() + b"/\xfe")
    assert dfs("ls", top) == b""
    assert "255" in dfs.failure("write", f"{top}/{'n' * 256}")


def test_a_large_folder(dfs, top, tmp_path):
    """Goal: a listing of more entries than one page has them all, and rm -r removes them."""
    for number in range(1001):
        (tmp_path / f"{number:04d}").symlink_to("x")
    dfs("put", "-r", tmp_path, f"{top}/many")
    assert len(dfs.json("ls", f"{top}/many")) == 1001
    assert dfs("ls", "-l", f"{top}/many").count(b" -> x\n") == 1001
    dfs("rm", "-r", f"{top}/many")
    assert dfs("ls", top) == b""


def test_mkdir(dfs, top):
    """Goal: one folder, or with -p all of a path; what exists is an error without -p, and a file in the way always."""
    dfs("mkdir", f"{top}/a", f"{top}/b")
    dfs("mkdir", "-p", f"{top}/a/c/d", f"{top}/a")
    assert dfs("ls", f"{top}/a/c") == b"d\n"
    assert dfs.failure("mkdir", f"{top}/a").startswith(f"{top}/a: ")
    assert dfs.failure("mkdir", f"{top}/x/y") == f"{top}/x/y: no file or folder 'x'"
    dfs("write", f"{top}/file")
    assert "not a folder" in dfs.failure("mkdir", "-p", f"{top}/file/x")
    assert "the root is always there" in dfs.failure("mkdir", "/")


def test_mv(dfs, top):
    """Goal: renames, replaces, and moves into folders, as mv does."""
    for name in "abc":
        dfs("write", f"{top}/{name}", given=name.encode())
    dfs("mkdir", f"{top}/folder")
    dfs("mv", f"{top}/a", f"{top}/b")
    dfs("mv", f"{top}/b", f"{top}/c", f"{top}/folder")
    assert dfs("ls", f"{top}/folder") == b"b\nc\n"
    assert dfs("cat", f"{top}/folder/b") == b"a"
    assert "existing folder for several sources" in dfs.failure("mv", f"{top}/x", f"{top}/y", f"{top}/none")
    assert dfs.failure("mv", f"{top}/x", f"{top}/y").startswith(f"{top}/x: ")
    assert "the root" in dfs.failure("mv", "/", f"{top}/y")


def test_rm(dfs, top):
    """Goal: files go; a folder only with -r, with all below it; the root never."""
    dfs("mkdir", "-p", f"{top}/a/b/c")
    dfs("write", f"{top}/a/b/file")
    dfs("write", f"{top}/file")
    assert "dfs rm -r" in dfs.failure("rm", f"{top}/a")
    dfs("rm", "-r", f"{top}/a", f"{top}/file")
    assert dfs("ls", top) == b""
    assert dfs.failure("rm", f"{top}/file") == f"{top}/file: no file or folder 'file'"
    assert dfs.failure("cat", f"{top}/hex:41") == f"{top}/hex:41: no file or folder 'hex:41'"
    assert "the root" in dfs.failure("rm", "-r", "/")


def test_symlinks(dfs, top, tmp_path):
    """Goal: symlinks in the volume are followed as the kernel does, but never out of the volume."""
    tree = tmp_path / "tree"
    write_files(tree, {"folder/file": b"content"})
    for name, target in (("link", "folder"), ("again", "link/file"), ("loop", "loop"), ("out", "/etc/hostname")):
        (tree / name).symlink_to(target)
    dfs("put", "-r", tree, f"{top}/t")
    assert dfs("cat", f"{top}/t/link/file", f"{top}/t/again") == b"contentcontent"
    dfs("write", f"{top}/t/link/new", given=b"new")
    dfs("write", f"{top}/t/again", given=b"changed")
    assert dfs("cat", f"{top}/t/folder/new", f"{top}/t/folder/file") == b"newchanged"
    assert dfs.json("stat", f"{top}/t/again")["target"] == "link/file"
    assert "too many symlinks" in dfs.failure("cat", f"{top}/t/loop")
    assert "leads out of the volume, to /etc/hostname" in dfs.failure("cat", f"{top}/t/out")
    dfs("rm", f"{top}/t/again")
    assert dfs("ls", f"{top}/t/folder") == b"file\nnew\n"


def test_a_path_that_ends_with_a_slash(dfs, top, tmp_path):
    """Goal: it names a folder, or a symlink to one, as for the kernel: no file is read, made, moved or removed by it,
    nor is what a symlink leads to."""
    dfs("mkdir", f"{top}/folder/")
    dfs("write", f"{top}/folder/file", given=b"content")
    write_files(tmp_path, {"tree/file": b"content"})
    (tmp_path / "tree" / "link").symlink_to("../folder")
    dfs("put", "-r", tmp_path / "tree", top)
    file, link = f"{top}/folder/file/", f"{top}/tree/link/"
    for command in (["cat", file], ["rm", file], ["mv", file, f"{top}/x"], ["stat", file], ["ls", file],
                    ["where", file], ["rm", "-r", link], ["mv", link, f"{top}/x"], ["rm", f"{file}."]):  # fmt: skip
        assert "it ends with /, and is no folder" in dfs.failure(*command)
    for name in (file, f"{top}/none/", f"{top}/folder/"):
        assert "it ends with /, as a folder does" in dfs.failure("write", name)
    assert dfs("ls", link) == b"file\n"
    assert dfs.json("stat", link)["type"] == "folder"
    dfs("mv", f"{top}/tree/file", link)
    assert dfs("cat", f"{link}file") == b"content"
    dfs("mv", f"{top}/folder/", f"{top}/moved")
    dfs("rm", "-r", f"{top}/moved/")
    assert dfs("ls", top) == b"tree\n"


def test_stat(dfs, top):
    """Goal: what the directory knows of an inode, for people and for programs."""
    dfs("write", f"{top}/file", given=b"123")
    known = dfs.json("stat", f"{top}/file")
    assert (known["path"], known["type"], known["size"], known["version"]) == (f"{top}/file", "file", 3, 1)
    assert len(known["commit_id"]) == 32
    text = dfs("stat", f"{top}/file").decode()
    assert f"inode      {known['inode']}\n" in text
    assert known["commit_id"] in text
    assert dfs.json("stat", "/")["type"] == "folder"


# -- put and get


def test_put_and_get_a_large_file(dfs, top, tmp_path):
    """Goal: 9 MiB come back byte for byte with mode and mtime; they are one version, whole on three servers."""
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(9 << 20))
    local.chmod(0o640)
    os.utime(local, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    dfs("put", local, f"{top}/large")
    dfs("get", f"{top}/large", back)
    assert back.read_bytes() == local.read_bytes()
    assert (back.stat().st_mode, back.stat().st_mtime_ns) == (local.stat().st_mode, local.stat().st_mtime_ns)
    where = dfs.json("where", f"{top}/large")
    assert (where["version"], where["size"], where["chunks"]) == (1, 9 << 20, 3)
    copies = [(copy["server"], copy["role"], copy["state"]) for copy in where["copies"]]
    assert copies == [("A", "primary", "whole"), ("B", "replica", "whole"), ("C", "replica", "whole")]
    text = dfs("where", f"{top}/large").decode()
    assert text.count(" whole ") == 3
    assert all(copy["address"] in text for copy in where["copies"])


def test_put_and_get_a_tree(dfs, top, tmp_path):
    """Goal: -r copies everything both ways; without it a folder is refused; an existing folder is copied into."""
    tree = tmp_path / "tree"
    write_files(tree, {"a": b"a", "deep/er/b": b"b", "empty": b""})
    (tree / "none").mkdir()
    (tree / "link").symlink_to("deep/er")
    (tree / "deep").chmod(0o750)
    os.utime(tree / "deep", ns=(5, 5 * 10**9))
    assert "put -r" in dfs.failure("put", tree, top)
    dfs("put", "-r", tree, top)
    assert "get -r" in dfs.failure("get", f"{top}/tree", tmp_path / "back")
    dfs("get", "-r", f"{top}/tree", tmp_path / "back")
    assert subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / "back"], check=False).returncode == 0
    deep = (tmp_path / "back" / "deep").stat()
    assert (stat.S_IMODE(deep.st_mode), deep.st_mtime_ns) == (0o750, 5 * 10**9)
    dfs("put", "-r", tree, top)
    assert dfs("ls", f"{top}/tree") == b"a\ndeep\nempty\nlink\nnone\n"


def test_put_and_get_several(dfs, top, tmp_path):
    """Goal: several go into a folder; one that fails does not keep the others; without a folder none goes."""
    write_files(tmp_path, {"a": b"a", "b": b"b"})
    assert "existing folder for several" in dfs.failure("put", tmp_path / "a", tmp_path / "b", f"{top}/none")
    assert f"{tmp_path}/x: No such file" in dfs.failure("put", tmp_path / "a", tmp_path / "x", tmp_path / "b", top)
    assert dfs("ls", top) == b"a\nb\n"
    assert "existing folder for several" in dfs.failure("get", f"{top}/a", f"{top}/b", tmp_path / "none")
    (tmp_path / "into").mkdir()
    assert dfs.failure("get", f"{top}/a", f"{top}/x", f"{top}/b", tmp_path / "into").startswith(f"{top}/x: ")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["a", "b"]


def test_a_copy_that_fails_leaves_what_was_there(dfs, top, tmp_path):
    """Goal: neither the volume nor this machine has half a file after a failure, nor an empty one."""
    dfs("write", f"{top}/old", given=b"old")
    for name in ("old", "new"):
        assert "Input/output error" in dfs.failure("put", "/proc/self/mem", f"{top}/{name}")
    assert dfs("ls", top) == b"old\n"
    assert dfs("cat", f"{top}/old") == b"old"
    (tmp_path / "local").write_bytes(b"local")
    dfs.failure("get", f"{top}/none", tmp_path / "local")
    assert dfs.failure("get", f"{top}/old", "/proc/none") == "/proc/none: No such file or directory"
    assert (tmp_path / "local").read_bytes() == b"local"
    assert [path.name for path in tmp_path.iterdir()] == ["local"]


def test_get_writes_to_what_is_no_file(dfs, top):
    """Goal: a pipe or device is written to, not replaced."""
    dfs("write", f"{top}/a", given=b"through")
    assert dfs("get", f"{top}/a", "/dev/stdout") == b"through"


def test_a_bar_on_a_terminal_only(dfs, top, tmp_path):
    """Goal: put and get show how far they are to people, and nothing to programs."""
    (tmp_path / "local").write_bytes(bytes(6 << 20))
    for arguments in (("put", tmp_path / "local", f"{top}/a"), ("get", f"{top}/a", tmp_path / "back")):
        command, *rest = map(str, dfs.command(*arguments))
        terminal = pexpect.spawn(command, rest, env=environment(), timeout=RUN_S, dimensions=(24, 120), use_poll=True)
        terminal.expect("100%.*6.00M/6.00M")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0


# -- mappings


def test_mappings(dfs, top):
    """Goal: a line for each copy of each file as CSV, an object for each file as JSON, a table for people."""
    dfs("write", f"{top}/one, two", given=b"12")
    dfs("write", f"{top.encode().decode()}/é", given=b"3")
    rows = [row for row in csv.DictReader(io.StringIO(dfs("mappings", "--csv").decode())) if top in row["path"]]
    assert [(row["path"], row["server"], row["role"], row["state"]) for row in rows[:2]] == [
        (f"{top}/one, two", "A", "primary", "whole"),
        (f"{top}/one, two", "B", "replica", "whole"),
    ]
    assert len(rows) == 6
    found = {row["path"]: row for row in dfs.json("mappings")}
    assert found[f"{top}/é"]["size"] == 1
    assert found[f"{top}/one, two"] == dfs.json("where", f"{top}/one, two")
    assert f"A B C   {top}/one, two\n" in dfs("mappings").decode()


@pytest.mark.mounted
def test_every_name_of_a_file_is_told(dfs, top):
    """Goal: where and mappings list all names of a file with several; each has its lines in the CSV."""
    dfs("write", f"{top}/b", given=b"x")
    mounted = dfs.cluster.mount()
    try:
        os.link(f"{mounted.point}{top}/b", f"{mounted.point}{top}/a")
    finally:
        mounted.unmount()
    names = [f"{top}/a", f"{top}/b"]
    assert sorted(dfs.json("where", f"{top}/b")["paths"]) == names
    assert [line.split()[1] for line in dfs("where", f"{top}/a").decode().splitlines()[:2]] in (names, names[::-1])
    (row,) = (row for row in dfs.json("mappings") if set(names) & set(row["paths"]))
    assert sorted(row["paths"]) == names
    listed = list(csv.DictReader(dfs("mappings", "--csv").decode().splitlines()))
    assert sorted((row["path"], row["server"]) for row in listed if row["path"] in names) == [
        (name, server) for name in names for server in "ABC"
    ]
    assert [line.split()[-1] for line in dfs("mappings").decode().splitlines() if top in line] in (names, names[::-1])


def test_mappings_of_several_pages(dfs, top, tmp_path):
    """Goal: more files than one request brings are all there, once."""
    write_files(tmp_path / "many", {f"{number}": b"" for number in range(210)})
    dfs("put", "-r", tmp_path / "many", top)
    paths = [row["path"] for row in json.loads(dfs("mappings", "--json"))]
    assert sum(path.startswith(f"{top}/many/") for path in paths) == 210
    assert len(set(paths)) == len(paths)
