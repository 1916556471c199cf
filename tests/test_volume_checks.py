"""The look that tests take at their volume in the end finds what it is for, and what it could not see."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import volume_checks
from dfs_command import Dfs, running
from file_group import TOKEN
from kept_group import RESTING, KeptGroup, noise
from volume_checks import assert_at_rest, assert_whole


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_checks, "PATIENCE_S", 2.0)


@pytest.fixture
def group(folder: Path) -> Iterator[KeptGroup]:
    """Servers that neither verify nor delete anything by themselves."""
    made = KeptGroup(folder, RESTING)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def dfs() -> Iterator[Dfs]:
    with running() as command:
        yield command


@pytest.mark.parametrize("names", ["B", "ABC"])
def test_servers_that_do_not_answer(dfs: Dfs, names: str) -> None:
    """Goal: a volume of which a server, or all of them, could not be asked is not taken for whole."""
    dfs("write", "/file", given=b"content")
    with dfs.cluster.dead(*names), pytest.raises(AssertionError, match="silent {'"):
        assert_whole(dfs.home)
    assert_whole(dfs.home, read=True)


def test_what_nobody_needs(group: KeptGroup) -> None:
    """Goal: a chunk that was uploaded and never committed is told, and on which servers it is."""
    group.store("f", noise(3))
    assert_at_rest(group.url, TOKEN)
    group.upload(noise(1)[0])
    with pytest.raises(AssertionError, match=r"surplus {'A': 1, 'B': 1, 'C': 1}"):
        assert_at_rest(group.url, TOKEN)
