"""Programs that are on the file system: running them, their set-id bits, and ETXTBSY."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from support import error

from posix_rules.calls import RENAME_NOREPLACE, renameat2
from posix_rules.files import made, opened
from posix_rules.processes import GROUP, USER, as_user, needs_root

SLEEP, IDENTITY = shutil.which("sleep") or "", shutil.which("id") or ""


def _program(folder: Path, original: str, mode: int = 0o755) -> Path:
    """A copy of a program of this machine."""
    copy = made(folder / "program", Path(original).read_bytes())
    copy.chmod(mode)
    return copy


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout


def a_program_runs(folder: Path) -> None:
    """A copied binary runs, and again under a new name. (POSIX exec)"""
    program = _program(folder, IDENTITY)
    assert _output(program, "-u") == f"{os.geteuid()}\n"
    renameat2(program, folder / "moved", RENAME_NOREPLACE)
    assert _output(folder / "moved", "-u") == f"{os.geteuid()}\n"


def a_script_runs(folder: Path) -> None:
    """The first line names the interpreter, which reads the script. (execve(2))"""
    made(folder / "script", b"#!/bin/sh\necho $1 $0\n").chmod(0o755)
    assert _output(folder / "script", "argument") == f"argument {folder}/script\n"


def python_imports_from_it(folder: Path) -> None:
    """A script and a module beside it. (POSIX exec)"""
    made(folder / "beside.py", b"word = 'imported'\n")
    made(folder / "script.py", b"import beside\nprint(beside.word)\n")
    assert _output(sys.executable, "-S", folder / "script.py") == "imported\n"


def a_program_needs_permission_to_run(folder: Path) -> None:
    """Without any x bit it is EACCES, for root too; so is a folder. (POSIX exec)"""
    program = _program(folder, IDENTITY, 0o644)
    for path in (program, folder):
        with error(errno.EACCES):
            subprocess.run([path], check=False, timeout=5)


def what_is_no_program_is_refused(folder: Path) -> None:
    """A file with x and neither format nor first line is ENOEXEC. (POSIX exec)"""
    made(folder / "file", b"no program\n").chmod(0o755)
    with error(errno.ENOEXEC):
        subprocess.run([folder / "file"], check=False, timeout=5)


def a_running_program_cannot_be_written(folder: Path) -> None:
    """Opening it for writing is ETXTBSY while it runs, and works afterwards. (POSIX open)"""
    program = _program(folder, SLEEP)
    with subprocess.Popen([program, "60"]) as process:
        try:
            for attempt in (lambda: os.open(program, os.O_WRONLY), lambda: os.truncate(program, 0)):
                with error(errno.ETXTBSY):
                    attempt()
        finally:
            process.kill()
    os.close(os.open(program, os.O_WRONLY))


def a_program_that_is_being_written_cannot_run(folder: Path) -> None:
    """Running what is open for writing is ETXTBSY, and works after close. (POSIX exec)"""
    program = _program(folder, IDENTITY)
    with opened(program, os.O_WRONLY), error(errno.ETXTBSY):
        subprocess.run([program], check=False, timeout=5)
    assert _output(program, "-u")


def a_running_program_can_be_removed_and_replaced(folder: Path) -> None:
    """unlink and rename over it work while it runs: updates do so. (POSIX unlink)"""
    program = _program(folder, SLEEP)
    with subprocess.Popen([program, "60"]) as process:
        try:
            shutil.copy(IDENTITY, folder / "new")
            os.rename(folder / "new", program)
            assert _output(program, "-u")
            os.unlink(program)
            assert process.poll() is None
        finally:
            process.kill()


@needs_root
def a_set_uid_program_has_its_owners_rights(folder: Path) -> None:
    """S_ISUID: the effective user is the file's owner. (POSIX exec)"""
    program = _program(folder, IDENTITY)
    os.chown(program, USER, 0)
    os.chmod(program, 0o4755)
    assert _output(program, "-u") == f"{USER}\n"


@needs_root
def a_set_gid_program_has_its_groups_rights(folder: Path) -> None:
    """S_ISGID: the effective group is the file's. (POSIX exec)"""
    program = _program(folder, IDENTITY)
    os.chown(program, 0, GROUP)
    os.chmod(program, 0o2755)
    assert _output(program, "-g") == f"{GROUP}\n"


@needs_root
def a_program_may_be_run_without_being_read(folder: Path) -> None:
    """Mode 0711: others run it and cannot open it. (POSIX exec)"""
    program = _program(folder, IDENTITY, 0o711)
    assert as_user(_output, program, "-u") == f"{USER}\n"
    with error(errno.EACCES):
        as_user(os.open, program, os.O_RDONLY)
    assert stat.S_IMODE(os.stat(program).st_mode) == 0o711
