"""A signal ends a command wherever it comes, and leaves nothing half made."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import cli
from dfsfuse.commands.content import open_to_write
from dfsfuse.commands.signals import ENDING, postponed
from servers.store.memory import MemoryStore


@pytest.fixture
def terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, as in the command dfs."""
    former = {number: signal.getsignal(number) for number in ENDING}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, cli._terminated)
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit}


@pytest.mark.usefixtures("terminated")
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_a_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Goal: the directory has made the file, and the command has not heard of it: when it ends, the file goes."""
    machine = Machine(Volume(MemoryStore()), Servers(), tmp_path)
    create = machine.files.create

    def create_and_end(*arguments: Any, **more: Any) -> Any:
        made = create(*arguments, **more)
        signal.raise_signal(number)
        return made

    monkeypatch.setattr(machine.files, "create", create_and_end)
    with pytest.raises(ENDS[number]):
        open_to_write(machine.files, (b"f",))
    assert machine.names() == []
    assert machine.cache.in_use() == []


@pytest.mark.usefixtures("terminated")
def test_who_insists_is_heard_at_once() -> None:
    """Goal: a second signal does not wait for a server that does not answer; afterwards all is as it was."""
    reached: list[str] = []

    def insist() -> None:
        with postponed():
            signal.raise_signal(signal.SIGINT)
            reached.append("first")
            signal.raise_signal(signal.SIGTERM)
            reached.append("second")

    with pytest.raises(SystemExit):
        insist()
    assert reached == ["first"]
    assert signal.getsignal(signal.SIGTERM) is cli._terminated


def test_what_is_ignored_stays_ignored() -> None:
    """Goal: a command under nohup goes on without its terminal."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with postponed() as came:
            signal.raise_signal(signal.SIGHUP)
        assert came.number == 0
    finally:
        signal.signal(signal.SIGHUP, former)


def test_ctrl_c_before_the_command_begins(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Goal: one line from the first moment on, and not a traceback."""

    def interrupt(frame: FrameType | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupt)
    assert cli.main(["ls"]) == 1
    assert capsys.readouterr().err == "dfs: interrupted\n"
