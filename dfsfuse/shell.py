"""dfs shell: an editor and viewer for people, line by line.

On a terminal with prompts, history (in the home, for its owner alone) and completion; from a pipe or file it reads the
same lines without prompts, so it can be scripted. An error is one line, and the shell goes on.

`write NAME` takes the file's write lock at once, so nobody else edits it meanwhile; nothing is changed before `end`.
"""

import argparse
import codecs
import contextlib
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dfsfuse import errors, tables
from dfsfuse.commands.content import commit, copy_in, give_up, open_to_write, reading
from dfsfuse.commands.parts import of_stream, pieces
from dfsfuse.commands.paths import Names, path_text
from dfsfuse.commands.reach import about, filesystem, home_of, line_of, paths_of
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO
from dfsfuse.openfiles import Handle
from dfsfuse.tables import shown

HISTORY = "shell-history"
END = b"end"
INSTRUCTIONS = """\
write NAME      type the new content of a file, line by line; a line that is just `end` saves it as a whole;
                Ctrl-C, or closing the terminal, leaves the file as it was. You have the file's write lock
                meanwhile: others wait, then get EBUSY, and `dfs locks` names you
read NAME       show a file
list [FOLDER]   the names in a folder; without one, in the root
instructions    this text (also: help)
quit            leave (also Ctrl-D)
NAME is the rest of the line, blanks included; folders in it are separated by `/`."""


_AT_WRITE = """\
Type its whole new content. A line that is just `end` saves it; Ctrl-C leaves the file as it was.
Until then you have its write lock: others can read it, and who wants to write waits, as `dfs locks` shows."""

_DRIVES_TERMINALS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Interactive:
    """Lines typed on a terminal. Names complete from the volume."""

    def __init__(self, files: FileSystem, home: Path):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        history = home / HISTORY
        os.close(os.open(history, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # Completing asks the directory: at Tab alone, and without holding up the keyboard.
        self._commands = PromptSession(
            history=FileHistory(str(history)),
            completer=_completer(files),
            complete_while_typing=False,
            complete_in_thread=True,
        )
        self._content = PromptSession()

    def command(self) -> bytes | None:
        """The next command; None at the end."""
        return self._ask(self._commands, "dfs> ")

    def content(self) -> bytes | None:
        """The next line of a file's content, without its line feed; None at the end."""
        return self._ask(self._content, "... ")

    def after_failure(self) -> None:
        """No content has been typed yet."""

    def _ask(self, session, prompt: str) -> bytes | None:
        try:
            return session.prompt(prompt).encode(errors="surrogateescape")
        except EOFError:
            return None


class Script:
    """Lines of a pipe or file."""

    def command(self) -> bytes | None:
        return self.content()

    def content(self) -> bytes | None:
        line = sys.stdin.buffer.readline()
        return line.removesuffix(b"\n") if line else None

    def after_failure(self) -> None:
        """The content of a `write` that has failed must not be taken for commands."""
        while self.content() not in (END, None):
            pass


class Shell:
    """`run` reads commands until quit or the end of the lines; it is True when none has failed."""

    def __init__(self, files: FileSystem, lines: Interactive | Script, for_people: bool, lock_wait_s: float):
        self._files, self._lines, self._for_people, self._lock_wait_s = files, lines, for_people, lock_wait_s
        self._paths = paths_of(files)
        self._ended = False
        self._commands: dict[str, Callable[[str], None]] = {
            "write": self._write,
            "read": self._read,
            "list": self._list,
            "instructions": self._instructions,
            "help": self._instructions,
            "quit": self._quit,
        }

    def run(self) -> bool:
        fine = True
        while not self._ended:
            try:
                line = self._lines.command()
            except KeyboardInterrupt:
                fine = self._interrupted()
                continue
            if line is None:
                break
            fine = self._succeeds(line) and fine
            sys.stdout.flush()
        return fine

    def _succeeds(self, line: bytes) -> bool:
        try:
            self._do(line.decode(errors="surrogateescape").strip())
        except KeyboardInterrupt:
            return self._interrupted()
        except (errors.DfsError, OSError) as error:
            tables.complain(line_of(error))
            return False
        return True

    def _interrupted(self) -> bool:
        """Ctrl-C at a prompt clears the line; that of a script ends it."""
        if not self._for_people:
            raise KeyboardInterrupt
        return True

    def _do(self, line: str) -> None:
        word, _, argument = line.partition(" ")
        if not word or word.startswith("#"):
            return
        if word not in self._commands:
            raise errors.InvalidArgument(f"unknown command {shown(word)}; `instructions` tells which there are")
        name = argument.strip()
        with about(name) if name else contextlib.nullcontext():
            self._commands[word](name)

    # -- commands

    def _instructions(self, _: str) -> None:
        tables.write_line(INSTRUCTIONS)

    def _quit(self, _: str) -> None:
        self._ended = True

    def _list(self, folder: str) -> None:
        names, attributes = self._paths.find(_from_root(folder))
        if not stat.S_ISDIR(attributes.mode):
            raise errors.NotADirectory("it is not a folder; `read` shows a file")
        for entry in self._files.list_folder((ROOT_INO, names)):
            tables.write_line(shown(entry.name) + ("/" if stat.S_ISDIR(entry.attributes.mode) else ""))

    def _read(self, name: str) -> None:
        for_people, last = sys.stdout.isatty(), "\n"
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with reading(self._files, self._paths.names(_from_root(_named(name)))) as (handle, _):
            for piece in pieces(self._files, handle):
                if for_people:
                    text = _DRIVES_TERMINALS.sub("?", decoder.decode(piece))
                    last = text[-1:] or last
                    tables.write(text)
                else:
                    tables.write_bytes(piece)
        if last != "\n":
            tables.write_line("")

    def _write(self, name: str) -> None:
        try:
            names = self._paths.file(_from_root(_named(name)))
            handle, created = self._lock(names)
        except errors.DfsError:
            self._lines.after_failure()
            raise
        try:
            size = self._replace(handle)
        except errors.UploadFailed:
            raise
        except BaseException as error:
            give_up(self._files, names, handle, created)
            if not isinstance(error, KeyboardInterrupt):
                raise
            tables.complain(f"{shown(name)} is left as it was")
            self._interrupted()
        else:
            self._files.files.release(handle)
            tables.write_line(
                f"{path_text(names)}: {tables.count_text(size, 'byte')}, version {handle.content.version}"
            )

    def _lock(self, names: Names) -> tuple[Handle, bool]:
        """The file, open for writing; who has to wait is told for whom."""
        try:
            return open_to_write(self._files, names, flags=os.O_NONBLOCK)
        except (errors.WouldBlock, errors.Busy) as error:
            tables.write_line(f"{error}; waiting up to {self._lock_wait_s:g} s for it")
            sys.stdout.flush()
            return open_to_write(self._files, names)

    def _replace(self, handle: Handle) -> int:
        """Take the new content, and make it the file's next version; its size in bytes."""
        if self._for_people:
            tables.write_line(_AT_WRITE)
            sys.stdout.flush()
        content = self._content()
        copy_in(self._files, handle, of_stream(io.BytesIO(content).readinto))
        commit(self._files, handle)
        return len(content)

    def _content(self) -> bytes:
        """Lines up to `end`. What ends without it is not meant to be saved."""
        lines = []
        while (line := self._lines.content()) != END:
            if line is None:
                raise errors.Interrupted("there was no line `end`; it is left as it was")
            lines.append(line + b"\n")
        return b"".join(lines)


def _named(name: str) -> str:
    if not name:
        raise errors.InvalidArgument("the name of a file is missing")
    return name


def _from_root(name: str) -> str:
    """In the shell a name starts at the root of the volume, wherever the shell was started."""
    return "/" + name.lstrip("/")


def _completer(files: FileSystem):
    """Commands, then names of the volume; a server that does not answer completes nothing."""
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.document import Document

    class Names(Completer):
        def get_completions(self, document: Document, event: object) -> Iterator[Completion]:
            word, blank, typed = document.text_before_cursor.partition(" ")
            found = _names_below(files, word, typed) if blank else _COMMANDS
            wanted = typed.rpartition("/")[2] if blank else word
            for name in found:
                if name.startswith(wanted):
                    more = "" if blank or name not in _WITH_NAMES else " "
                    yield Completion(name + more, start_position=-len(wanted), display=name)

    return Names()


_COMMANDS = ("help", "instructions", "list", "quit", "read", "write")
_WITH_NAMES = ("list", "read", "write")


def _names_below(files: FileSystem, word: str, typed: str) -> list[str]:
    if word not in _WITH_NAMES:
        return []
    try:
        names = paths_of(files).names(_from_root(typed.rpartition("/")[0]))
        entries = list(files.list_folder((ROOT_INO, names)))
    except errors.DfsError:
        return []
    folders = [tables.text_of(e.name) + "/" for e in entries if stat.S_ISDIR(e.attributes.mode)]
    others = [tables.text_of(e.name) for e in entries if not stat.S_ISDIR(e.attributes.mode) and word != "list"]
    return sorted(name for name in folders + others if name.isprintable())


def main(arguments: argparse.Namespace) -> int:
    """The exit status: 0; 1 when a command of a script has failed."""
    for_people = sys.stdin.isatty()
    with filesystem(arguments) as files:
        lines = Interactive(files, home_of(arguments)) if for_people else Script()
        if for_people:
            tables.write_line("editor and viewer of the volume; `help` tells how, `quit` leaves")
        fine = Shell(files, lines, for_people, arguments.lock_wait).run()
    return 0 if fine or for_people else 1
