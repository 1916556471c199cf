"""What the servers do not have yet: tried again when that is worth it, and nothing travels twice."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import Servers
from open_files import SILENT, OneClient, failed_to_close
from support import wait_until

from dfsfuse import backoff, errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.messages import INLINE_ENTRIES, PutSegments

MIB = 1 << 20


@pytest.fixture
def client(tmp_path: Path) -> OneClient:
    return OneClient(tmp_path)


def break_off(servers: Servers, after: int) -> None:
    """The servers take `after` more chunks, and then none until they are asked once more."""

    def fail() -> None:
        servers.before_store = lambda: None
        raise SILENT

    def count() -> None:
        nonlocal after
        after -= 1
        if after < 0:
            fail()

    servers.before_store = count


def test_a_retry_sends_only_what_is_missing(client: OneClient) -> None:
    """Goal: what had travelled when an attempt failed does not travel again."""
    handle = client.create("f")
    client.write(handle, os.urandom(3 * ENTRY_BYTES))
    client.files._ahead.close()
    handle.content.ahead.clear()
    handle.content.changes.ahead.cut(0)
    client.servers.sent_bytes = 0
    break_off(client.servers, after=2)
    assert client.close(handle) is SILENT
    assert client.servers.sent_bytes == 2 * ENTRY_BYTES
    assert client.unsent.retry() == 0
    assert client.servers.sent_bytes == 3 * ENTRY_BYTES
    assert client.volume.at("f").size == 3 * ENTRY_BYTES


def test_a_commit_that_failed_costs_no_bytes(client: OneClient) -> None:
    """Goal: while the directory refuses or does not answer, retries send nothing anew."""
    failed_to_close(client, "f", b"x" * MIB)
    sent = client.servers.sent_bytes
    client.session.refusal = errors.QuotaExceeded("the volume is full")
    for _ in range(3):
        assert client.unsent.retry() == 1
    client.session.refusal = None
    assert client.unsent.retry() == 0
    assert client.servers.sent_bytes == sent


def test_segments_keep_their_ids(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a retry puts the segments of a large file again under the same ids, so none of them becomes garbage."""
    put: list[bytes] = []
    query = client.session.query

    def watched(request: object, reply: type, **options: float) -> object:
        if isinstance(request, PutSegments):
            put.extend(segment.id for segment in request.segments)
        return query(request, reply, **options)

    monkeypatch.setattr(client.session, "query", watched)
    handle = client.create("f")
    client.files.resize(handle, (INLINE_ENTRIES + 1) * ENTRY_BYTES)
    client.write(handle, b"large")
    client.session.refusal = errors.QuotaExceeded("the volume is full")
    client.close(handle)
    client.unsent.retry()
    client.session.refusal = None
    assert client.unsent.retry() == 0
    assert len(put) == 3
    assert len(set(put)) == 1


def test_nothing_is_sent_onto_a_base_that_is_gone(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what can never become the next version is not sent as that, however often its copy fails to be made."""
    client.close(client.create("f", b"base"))
    failed_to_close(client, "f", b"x" * MIB)
    client.others_commit("f", b"another version")
    sent = client.servers.sent_bytes

    def failing(*_: object) -> None:
        raise errors.Unreachable("no file server has it just now")

    with monkeypatch.context() as patch:
        patch.setattr(client.copies, "keep", failing)
        for _ in range(3):
            assert client.unsent.retry() == 1
    assert client.servers.sent_bytes == sent
    assert client.unsent.retry() == 0
    assert client.servers.sent_bytes == sent, "the servers have it from close()"
    assert len(client.volume.paths()) == 2


def tried(client: OneClient, monkeypatch: pytest.MonkeyPatch, error: errors.DfsError) -> Callable[[], int]:
    """How often it was tried to send what waits, which fails with this."""
    attempts: list[float] = []

    def fail(content: object) -> None:
        attempts.append(1)
        raise error

    monkeypatch.setattr(client.unsent, "_send", fail)
    monkeypatch.setattr("dfsfuse.unsent.LOOK_EVERY_S", 0.01)
    return lambda: len(attempts)


def test_a_server_that_returns_is_used_at_once(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S4: what fails is left alone for longer and longer, but not once a server has returned."""
    failed_to_close(client, "f")
    attempts = tried(client, monkeypatch, SILENT)
    monkeypatch.setattr(backoff, "FIRST_S", 1000.0)
    monkeypatch.setattr(backoff, "LONGEST_S", 1000.0)
    client.unsent.start()
    try:
        wait_until(lambda: attempts() == 1, "it is tried")
        client.unsent.hurry()
        wait_until(lambda: attempts() == 2, "it is tried again at once")
    finally:
        client.unsent.close()
    assert attempts() == 2


def test_who_has_closed_it_meanwhile_is_seen_at_once(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what a program's own close() has sent meanwhile does not count as unsent until the next retry is due."""
    content = failed_to_close(client, "f")
    with monkeypatch.context() as patch:
        attempts = tried(client, patch, SILENT)
        patch.setattr(backoff, "FIRST_S", 1000.0)
        client.unsent.start()
        try:
            wait_until(lambda: attempts() == 1, "it is tried")
            client.committer.commit(content)
            patch.undo()
            wait_until(lambda: client.session.unsent_files == 0, "it is known to be sent")
        finally:
            client.unsent.close()
