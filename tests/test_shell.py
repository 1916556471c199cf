"""dfs shell: on a terminal as people use it, and through a pipe as scripts do."""

import stat
from collections.abc import Iterator

import pexpect
import pytest
from dfs_command import RUN_S, Dfs, environment
from support import wait_until

PROMPT, CONTENT = "dfs>", "..."
_DRAWING = r"(?:\x1b\[[0-9;?]*[A-Za-z]|[\r\n ])*"
"""What may be drawn between two things that are shown."""


@pytest.fixture
def terminal(dfs: Dfs) -> Iterator[pexpect.spawn]:
    """The shell on a terminal, at its first prompt."""
    command, *arguments = map(str, dfs.command("shell"))
    with pexpect.spawn(
        command, arguments, env=environment(), timeout=RUN_S, dimensions=(24, 100), use_poll=True
    ) as spawned:
        spawned.expect_exact(PROMPT)
        yield spawned


def enter(terminal: pexpect.spawn, line: str, answer: str = PROMPT) -> None:
    """Type a line, and wait for what must follow."""
    terminal.send(line + "\r")
    terminal.expect_exact(answer)


# -- scripts


def test_a_script_writes_and_reads(dfs):
    """Goal: the same commands without prompts: what was written is shown byte for byte, and is one version."""
    given = b"write a name\nfirst\n\xff line\n\nend\nread a name\nlist\nquit\nlist\n"
    output = dfs("shell", given=given)
    assert output == b"/a name: 14 bytes, version 1\nfirst\n\xff line\n\na name\n"
    assert dfs("cat", "/a name") == b"first\n\xff line\n\n"
    assert b"version 2" in dfs("shell", given=b"write a name\nend\n")
    assert dfs("cat", "/a name") == b""


def test_a_script_goes_on_after_errors(dfs):
    """Goal: each error is one line; the content of a failed write is not taken for commands; the exit status tells."""
    given = (
        b"nonsense\nread none\nwrite\nquit\nend\nwrite none/x\nquit\nend\n\n# a comment\nwrite fine\nend\nread fine/x\n"
    )
    outcome = dfs.run("shell", given=given)
    assert (outcome.returncode, outcome.stdout) == (1, b"/fine: 0 bytes, version 1\n")
    assert outcome.stderr.decode().splitlines() == [
        "dfs: unknown command nonsense; `instructions` tells which there are",
        "dfs: none: no file or folder 'none'",
        "dfs: the name of a file is missing",
        "dfs: none/x: no file or folder 'none'",
        "dfs: fine/x: what contains 'x' is not a folder",
    ]


def test_a_script_that_ends_too_early(dfs):
    """Goal: a write without its `end` changes nothing."""
    dfs("write", "/whole", given=b"whole")
    for name in ("whole", "new"):
        outcome = dfs.run("shell", given=f"write {name}\nhalf\n".encode())
        assert (outcome.returncode, outcome.stderr.count(b"\n")) == (1, 1)
        assert b"left as it was" in outcome.stderr
    assert dfs("cat", "/whole") == b"whole"
    assert "no file" in dfs.failure("cat", "/new")


def test_list_and_instructions(dfs):
    """Goal: list shows the root or a folder, folders with a slash; instructions name every command."""
    dfs("mkdir", "-p", "/listed/below")
    dfs("write", "/listed/file")
    assert dfs("shell", given=b"list listed\n") == b"below/\nfile\n"
    assert b"listed/\n" in dfs("shell", given=b"list\n")
    assert dfs.run("shell", given=b"list listed/file\n").stderr == (
        b"dfs: listed/file: it is not a folder; `read` shows a file\n"
    )
    text = dfs("shell", given=b"instructions\n").decode()
    assert all(f"\n{command}" in f"\n{text}" for command in ("write", "read", "list", "instructions", "quit"))
    assert dfs("shell", given=b"help\n").decode() == text


# -- people


def test_a_file_is_written_and_read_on_a_terminal(dfs, terminal):
    """Goal: write, lines, end, read, quit, as the instructions say; reading shows nothing that drives the terminal."""
    enter(terminal, "write letter", CONTENT)
    enter(terminal, "Dear all,", CONTENT)
    enter(terminal, "end of story", CONTENT)
    enter(terminal, "end", "/letter: 23 bytes, version 1")
    terminal.expect_exact(PROMPT)
    enter(terminal, "read letter", "Dear all,\r\nend of story\r\n")
    dfs("write", "/wild", given=b"a\x1b]0;title\x07b")
    enter(terminal, "read wild", "a?]0;title?b\r\n")
    enter(terminal, "bogus", "dfs: unknown command bogus")
    terminal.expect_exact(PROMPT)
    terminal.send("quit\r")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_and_ctrl_d(dfs, terminal):
    """Goal: Ctrl-C within write leaves the file as it was and gives its lock back; at the prompt it clears the line;
    Ctrl-D leaves."""
    dfs("write", "/draft", given=b"before")
    for name in ("draft", "no-draft"):
        enter(terminal, f"write {name}", CONTENT)
        enter(terminal, "half", CONTENT)
        lock = wait_until(lambda path=f"/{name}": dfs.lock(path), "the shell has the file's lock")
        assert lock["holder"]["pid"] == terminal.pid
        terminal.sendintr()
        terminal.expect_exact(f"{name} is left as it was")
        terminal.expect_exact(PROMPT)
    assert dfs("cat", "/draft") == b"before"
    assert "no file" in dfs.failure("cat", "/no-draft")
    wait_until(lambda: dfs.json("locks") == [], "no lock is held")
    terminal.send("nonsense")
    terminal.sendintr()
    enter(terminal, "list", "draft\r\n")
    terminal.expect_exact(PROMPT)
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


@pytest.mark.parametrize("name", ["closed-new", "closed-old"])
def test_a_terminal_that_is_closed_saves_nothing(dfs, terminal, name):
    """Goal: who closes the window within write leaves the file as it was, or none where there was none; its lock is
    free."""
    if name == "closed-old":
        dfs("write", f"/{name}", given=b"before")
    terminal.send(f"write {name}\r")
    terminal.expect_exact("just `end` saves it")
    terminal.expect_exact("dfs locks")
    terminal.expect_exact(CONTENT)
    enter(terminal, "half", CONTENT)
    wait_until(lambda: dfs.lock(f"/{name}"), "the lock of a new file is told of with the next renewal")
    line = dfs.failure("--lock-wait", "0.1", "write", f"/{name}")
    assert f"(pid {terminal.pid})" in line, "others are told who has it"
    terminal.close(force=False)
    wait_until(lambda: dfs.lock(f"/{name}") is None, "the lock is free")
    if name == "closed-old":
        assert dfs("cat", f"/{name}") == b"before"
    else:
        assert "no file" in dfs.failure("cat", f"/{name}")


def test_write_waits_for_another_writer(dfs, terminal):
    """Goal: who has to wait is told for whom, and gets the file when that one is done; Ctrl-C ends the waiting."""
    with dfs.held("/shared") as holder:
        terminal.send("write shared\r")
        terminal.expect(f"is open for writing by .*pid {holder.pid}.*waiting up to 10 s")
        wait_until(lambda: dfs.lock("/shared")["waiters"], "the shell waits")
        terminal.sendintr()
        terminal.expect_exact(PROMPT)
        wait_until(lambda: not dfs.lock("/shared")["waiters"], "the shell waits no more")
        terminal.send("write shared\r")
        terminal.expect_exact("waiting up to 10 s")
        holder.communicate(b"theirs", RUN_S)
    terminal.expect_exact(CONTENT)
    enter(terminal, "mine", CONTENT)
    enter(terminal, "end", "version 2")
    assert dfs("cat", "/shared") == b"mine\n"


def test_completion_and_history(dfs, terminal):
    """Goal: Tab completes commands, folders and names; the history is kept for its owner alone, without contents."""
    dfs("mkdir", "/folder-with-a-long-name")
    dfs("write", "/folder-with-a-long-name/unmistakable file", given=b"found\n")
    terminal.send("rea\t")
    terminal.expect("rea.*d")
    # The blank behind a command that takes a name is completed with it.
    terminal.send("folder-w\t")
    terminal.expect("ith-a-long-name/")
    terminal.send("unm\t")
    terminal.expect(f"istakable{_DRAWING}file")
    enter(terminal, "", "found\r\n")
    enter(terminal, "write secret", CONTENT)
    enter(terminal, "nobody reads this", CONTENT)
    enter(terminal, "end", "version 1")
    history = dfs.home / "shell-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    text = history.read_text()
    assert "+read folder-with-a-long-name/unmistakable file\n" in text
    assert "nobody reads this" not in text
    terminal.send("\x1b[A\x1b[A\r")
    terminal.expect_exact("found\r\n")
