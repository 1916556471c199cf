"""vim and nano, driven through a terminal, as people use them; the outcome is read on the second mount."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from support import wait_until

pytestmark = pytest.mark.mounted

ENTER, ESCAPE, CTRL_O, CTRL_X, CTRL_K, BACKSPACE = "\r", "\x1b", "\x0f", "\x18", "\x0b", "\x7f"
DEADLINE_S = 20


@contextlib.contextmanager
def editor(command: str, *arguments: object) -> Iterator[pexpect.spawn]:
    """The editor on a terminal of 30 lines; it ends by itself with status 0, or it is killed."""
    environment = {**os.environ, "TERM": "xterm", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    child = pexpect.spawn(
        command,
        [str(a) for a in arguments],
        env=environment,
        dimensions=(30, 200),
        timeout=DEADLINE_S,
        use_poll=True,
        encoding="utf-8",
    )
    child.delaybeforesend = None
    try:
        yield child
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0, f"{command} ended with {child.exitstatus}, signal {child.signalstatus}"
    finally:
        child.close(force=True)


def vim(file: Path, *more: str):
    """vim without the user's settings, but with what they usually are: swap file and backup."""
    settings = ["--cmd", "set nocompatible shortmess=I backup backupskip= writebackup swapfile noesckeys ttimeoutlen=0"]
    return editor("vim", "-u", "NONE", "-i", "NONE", *settings, *more, file)


def drawn(child: pexpect.spawn, text: str) -> None:
    """The editor has drawn this."""
    child.expect_exact(text)


def saved(child: pexpect.spawn) -> None:
    """vim has reported that it has written the file."""
    drawn(child, " written")


def fresh(file: Path, content: str) -> None:
    """stat() of the file is that of this content: it may be up to a second old (S14), which vim, who compares times,
    takes for a change by somebody else."""
    wait_until(lambda: file.exists() and file.stat().st_size == len(content), "stat sees what the other has saved", 3)


def leftovers(folder: Path) -> list[str]:
    """Swap files and the like."""
    return [name for name in os.listdir(folder) if name.endswith((".swp", ".swo", ".save"))]


def test_vim_creates_a_file(two_mounts):
    """Goal: insert, :wq; the other mount has it at once, and no swap file is left."""
    here, there = two_mounts
    with vim(here / "new.txt") as child:
        drawn(child, "[New")
        child.send("ihello from vim" + ENTER + "second line" + ESCAPE)
        child.send(":wq" + ENTER)
    assert (there / "new.txt").read_text() == "hello from vim\nsecond line\n"
    assert leftovers(there) == []


def test_vim_edits_an_existing_file_with_swap_and_backup(two_mounts):
    """Goal: the swap file is there while vim runs, also for the other mount; the backup has the old content after
    it."""
    here, there = two_mounts
    (there / "file").write_text("one\ntwo\nthree\n")
    (there / "file").chmod(0o640)
    fresh(here / "file", "one\ntwo\nthree\n")
    with vim(here / "file") as child:
        drawn(child, "three")
        assert leftovers(here) == [".file.swp"]
        wait_until(lambda: leftovers(there) == [".file.swp"], "the other mount sees the swap file", 3)
        child.send("Gofour" + ESCAPE + ":wq" + ENTER)
    assert (there / "file").read_text() == "one\ntwo\nthree\nfour\n"
    assert (there / "file").stat().st_mode & 0o777 == 0o640
    assert (there / "file~").read_text() == "one\ntwo\nthree\n"
    assert leftovers(there) == []


def test_vim_saves_twice_in_one_session(two_mounts):
    """Goal: after each :w the other mount has what was saved, and vim does not believe that somebody else wrote it."""
    here, there = two_mounts
    (here / "file").write_text("start\n")
    with vim(here / "file") as child:
        drawn(child, "start")
        for line in ("first", "second"):
            child.send(f"Go{line}" + ESCAPE + ":w" + ENTER)
            saved(child)
            assert (there / "file").read_text().splitlines()[-1] == line
        child.send(":q" + ENTER)
    assert (there / "file").read_text() == "start\nfirst\nsecond\n"


def test_vim_writes_in_place_and_by_rename(two_mounts):
    """Goal: both of vim's ways of saving (backupcopy=yes overwrites, =no renames) bring the new content across."""
    here, there = two_mounts
    for way in ("yes", "no"):
        (here / way).write_text("old\n")
        assert (there / way).read_text() == "old\n"
        with vim(here / way, "--cmd", f"set backupcopy={way}") as child:
            drawn(child, "old")
            child.send(":s/old/new/" + ENTER + ":wq" + ENTER)
        assert (there / way).read_text() == "new\n"


def test_vim_warns_when_the_other_mount_has_saved_meanwhile(two_mounts):
    """Goal: vim's own check by mtime works across mounts: W12 or W11 instead of a silent overwrite."""
    here, there = two_mounts
    (here / "file").write_text("old\n")
    with vim(here / "file") as child:
        drawn(child, "old")
        child.send("Gomine" + ESCAPE)
        (there / "file").write_text("somebody else's\n")
        fresh(here / "file", "somebody else's\n")
        child.send(":w" + ENTER)
        child.expect(r"W12|W11|changed since|has changed")
        child.send("n")
        drawn(child, "Press ENTER")
        child.send(ENTER + ":q!" + ENTER)
    assert (there / "file").read_text() == "somebody else's\n"


def test_nano_creates_a_file(two_mounts):
    """Goal: text, Ctrl-O with a name, Ctrl-X."""
    here, there = two_mounts
    with editor("nano", "--ignorercfiles") as child:
        drawn(child, "GNU nano")
        child.send("made by nano")
        child.send(CTRL_O)
        drawn(child, "File Name to Write")
        child.send(str(here / "new") + ENTER)
        drawn(child, "Wrote 1 line")
        assert (there / "new").read_text() == "made by nano\n"
        child.send(CTRL_X)
    assert (there / "new").read_text() == "made by nano\n"


@pytest.mark.parametrize("backup", [[], ["--backup"]], ids=["plain", "backup"])
def test_nano_edits_an_existing_file(two_mounts, backup):
    """Goal: Ctrl-O saves twice in one session, Ctrl-X saves on the way out; with nano's backup file and its lock
    file."""
    here, there = two_mounts
    (there / "todo").write_text("milk\n")
    with editor("nano", "--ignorercfiles", "--locking", *backup, here / "todo") as child:
        drawn(child, "milk")
        child.send("bread" + ENTER)
        child.send(CTRL_O)
        drawn(child, "File Name to Write")
        child.send(ENTER)
        drawn(child, "Wrote 2 lines")
        assert (there / "todo").read_text() == "bread\nmilk\n"
        child.send("eggs" + ENTER)
        child.send(CTRL_X)
        drawn(child, "Save modified buffer")
        child.send("y")
        drawn(child, "File Name to Write")
        child.send(ENTER)
    assert (there / "todo").read_text() == "bread\neggs\nmilk\n"
    assert sorted(os.listdir(there)) == (["todo", "todo~"] if backup else ["todo"])


def test_two_people_edit_in_turn(two_mounts):
    """Goal: vim on one mount, then nano on the other, then vim again: each starts from the newest."""
    here, there = two_mounts
    with vim(here / "shared") as child:
        drawn(child, "[New")
        child.send("ione" + ESCAPE + ":wq" + ENTER)
    with editor("nano", "--ignorercfiles", there / "shared") as child:
        drawn(child, "one")
        child.send("zero" + ENTER + CTRL_X)
        drawn(child, "Save modified buffer")
        child.send("y")
        drawn(child, "File Name to Write")
        child.send(ENTER)
    fresh(here / "shared", "zero\none\n")
    with vim(here / "shared") as child:
        drawn(child, "zero")
        child.send("Gotwo" + ESCAPE + ":wq" + ENTER)
    assert (there / "shared").read_text() == (here / "shared").read_text() == "zero\none\ntwo\n"
