"""Two of three file servers are hurt at once: real servers, and a client without a mount."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chunk_homes import kept
from file_group import TOKEN, wait_until
from kept_group import KeptGroup, kept_group, noise
from test_repair import kept_contents
from volume_checks import problems_of

from dfsfuse.chunks import chunk_name


@pytest.fixture
def group(folder: Path) -> Iterator[KeptGroup]:
    with kept_group(folder) as made:
        yield made


def names(chunks: list[bytes]) -> set[str]:
    return {chunk_name(data).hex() for data in chunks}


def test_two_are_killed_at_once(group: KeptGroup):
    """Goal: what is on the third one alone for now is read there, and nothing is lost: what the two had, also what
    they alone have, is everywhere when they are back, and then commits go on."""
    group.store("on all", noise(5))
    group.wait_everything_everywhere()
    group.kill("C")
    group.store("on two", noise(5))
    group.start("C")
    group.wait_whole()
    for name in "AB":
        group.kill(name)
    for data in [*group.files["on all"], *group.files["on two"]]:
        assert group.servers["C"].get(chunk_name(data)) == data
    for name in "AB":
        group.start(name)
    group.wait_whole()
    group.store("after", noise(3))
    group.wait_everything_everywhere()


def test_two_disks_are_emptied_at_once(group: KeptGroup):
    """Goal: what all three had is on all three again. What only the two had, as the third one was away, is lost, and is
    told: by the status, by the checker, and by no other file; when it is removed the volume is whole."""
    group.store("on all", noise(5))
    group.wait_everything_everywhere()
    group.kill("C")
    group.store("on two", noise(4))
    wait_until(lambda: not kept_contents(group), "the directory does not wait for the third one any more")
    for name in "AB":
        group.kill(name)
        group.empty_disk(name)
    for name in "ABC":
        group.start(name)
    on_all = names(group.files["on all"])
    for name in "ABC":
        wait_until(lambda n=name: on_all == set(kept(group.folder / n)), f"{name} has what there is")
    wait_until(lambda: [lost.path for lost in group.status().lost_files] == [b"/on two.0"], "the loss is told")
    found = problems_of(group.url, TOKEN)
    assert {(problem.kind, problem.path) for problem in found} == {("chunk_lost", b"/on two.0")}
    assert {problem.name.hex() for problem in found} == names(group.files["on two"])
    for name in "ABC":
        wait_until(lambda n=name: "looked for 4 chunks; 4 of them cannot be had" in group.log(n), f"{name} gives up")
    wait_until(lambda: not any(server.syncing for server in group.status().cluster.files), "all serve")
    group.remove("on two")
    group.store("after", noise(3))
    group.wait_everything_everywhere()
