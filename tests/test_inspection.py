"""What a file server tells of its chunks to who checks the volume."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfsfuse import errors, messages
from dfsfuse.chunks import chunk_name
from servers import inspection
from servers.chunkstore import ChunkStore
from servers.inspection import Inspection

SMALL = [b"%d" % number for number in range(25)]
LARGE = b"x" * (300 << 10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def ask(home: Path) -> Iterator[Callable[..., Any]]:
    store = ChunkStore(home)
    for data in [*SMALL, LARGE]:
        store.store(chunk_name(data), data)
    store.sync()
    operations = Inspection(store, lambda function, *arguments: function(*arguments)).operations()
    yield lambda name, request: operations[name].handler(request)
    store.close()


def test_the_inventory_in_pages(ask: Callable[..., Any]) -> None:
    """Goal: every chunk once, small and large ones, in order of names."""
    found, more = [], True
    while more:
        page = ask("inventory", messages.Inventory(found[-1] if found else b"", 10))
        assert len(page.chunks) <= 10
        found, more = found + page.chunks, page.more
    assert found == sorted(chunk_name(data) for data in [*SMALL, LARGE])


def test_verifying_looks_and_reads(ask: Callable[..., Any], home: Path) -> None:
    """Goal: what is not here is told; what is broken only where it is read, and it is set aside then."""
    names = [chunk_name(data) for data in (b"1", b"not here", LARGE)]
    assert ask("verify", messages.Verify(chunks=names)).lacking == [names[1]]
    assert ask("verify", messages.Verify(chunks=names, read=True)).lacking == [names[1]]
    (file,) = (path for path in (home / "chunks").rglob("*") if path.is_file())
    file.write_bytes(b"y" * len(LARGE))
    assert ask("verify", messages.Verify(chunks=names)).sound == [names[0], names[2]]
    assert ask("verify", messages.Verify(chunks=names, read=True)).lacking == names[1:]
    assert list((home / "corrupt").iterdir())


def test_one_request_reads_so_much_and_no_more(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a request is answered within about a second; the rest is asked for again. Too many names are refused."""
    monkeypatch.setattr(inspection, "READ_BYTES_MAX", 5)
    names = [chunk_name(data) for data in SMALL]
    assert ask("verify", messages.Verify(chunks=names, read=True)).sound == names[:5]
    assert ask("verify", messages.Verify(chunks=names)).sound == names
    with pytest.raises(errors.BadRequest):
        ask("verify", messages.Verify(chunks=names * 41))
