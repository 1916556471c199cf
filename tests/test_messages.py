"""Messages on the wire: every type, with generated values, as msgpack and as JSON; and what is no message."""

import json
import math
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfsfuse import messages
from dfsfuse.chunks import Piece
from dfsfuse.errors import BadRequest
from dfsfuse.messages import (
    Message,
    bytes_as_text,
    from_json,
    from_msgpack,
    shown_name,
    text_as_bytes,
    to_json,
    to_msgpack,
)

KINDS = sorted(
    (kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)),
    key=lambda kind: kind.__name__,
)
ODD = [b"", b"hex:", b"hex:41", b"\xff\xfe", b"a\nb", b"\x7f", "é".encode(), "\u00a0".encode(), b"\xed\xa0\x80", b" "]
BYTES = st.one_of(st.sampled_from(ODD), st.binary(max_size=12), st.text(max_size=6).map(str.encode))
NUMBERS = st.integers(-(2**63), 2**64 - 1)


def values_of(kind: Any) -> st.SearchStrategy:
    """Values of a field's type."""
    plain: dict[Any, st.SearchStrategy] = {
        bytes: BYTES,
        int: NUMBERS,
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        type(None): st.none(),
    }
    if kind in plain:
        return plain[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return messages_of(kind)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if typing.get_origin(kind) is tuple:
        return st.tuples(*map(values_of, arguments))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(arguments)
    return st.one_of([values_of(argument) for argument in arguments])


def messages_of(kind: type) -> st.SearchStrategy:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_round_trips(kind: type, data: st.DataObject) -> None:
    """Goal: each message comes back equal from msgpack and from JSON, and its JSON is JSON."""
    message = data.draw(messages_of(kind))
    assert from_msgpack(to_msgpack(message), kind) == message
    text = to_json(message)
    json.loads(text)
    assert from_json(text, kind) == message


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_says_what_it_is(kind: type) -> None:
    """Goal: a docstring, but where the name and the field say all."""
    assert kind.__doc__ or len(kind.__struct_fields__) == 1 or kind in (messages.HeldLock, messages.LockWaiter,
        messages.WhereReply, messages.Mappings, messages.FilesStatus)  # fmt: skip


@settings(max_examples=300)
@given(BYTES)
def test_bytes_as_text_and_back(value: bytes) -> None:
    """Goal: any bytes come back; text that is printable stays as it is, so names can be read and typed."""
    text = bytes_as_text(value)
    assert text_as_bytes(text) == value
    assert text.isprintable()


@pytest.mark.parametrize(("text", "value"), [("a b", b"a b"), ("ä", "ä".encode()), ("hex:ff", b"\xff"), ("", b"")])
def test_how_bytes_look(text: str, value: bytes) -> None:
    """Goal: what docs/PROTOCOL.md shows."""
    assert (bytes_as_text(value), text_as_bytes(text)) == (text, value)


@pytest.mark.parametrize(
    ("name", "text"), [(b"a b", "'a b'"), (b"hex:41", "'hex:41'"), (b"a\nb", "'hex:610a62'"), (b"\xff", "'hex:ff'")]
)
def test_how_names_look_in_messages(name: bytes, text: str) -> None:
    """Goal: a person finds the name that he has typed, and no name drives a terminal."""
    assert shown_name(name) == text


def test_json_of_pieces_has_names() -> None:
    """Goal: what is an array in msgpack is an object for people, in any order of its fields."""
    manifest = messages.Manifest([[Piece(b"\1" * 32, 2, 3)]])
    as_json = json.loads(to_json(manifest))
    assert as_json == {"entries": [[{"chunk": "hex:" + "01" * 32, "offset": 2, "length": 3}]], "segments": []}
    piece = {"length": 3, "chunk": "hex:" + "01" * 32, "offset": 2}
    assert from_json(json.dumps({"entries": [[piece]]}).encode(), messages.Manifest) == manifest


def test_an_empty_json_body_has_defaults() -> None:
    """Goal: nothing is as `{}`."""
    assert from_json(b"", messages.Lookup) == messages.Lookup()


def test_unknown_fields_are_passed_over() -> None:
    """Goal: a newer client's extra field does no harm."""
    assert from_json(b'{"base": 5, "new": [1]}', messages.Lookup) == messages.Lookup(5)
    assert from_msgpack(msgspec.msgpack.encode({"base": 5, "new": 1}), messages.Lookup) == messages.Lookup(5)


_BROKEN = [
    b"\xc1", b"", b"\x90", b"\x81\xa4base\xa0", b"\x81\xa5names\x91\x00", b"\x81\xa5names\x91\xa1\xff", b"\x91" * 9999,
    b"\xc4", b"\x80\x80", b"\x81\x01\x01", b"\xdd\xff\xff\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("data", _BROKEN)
@pytest.mark.parametrize("decode", [from_msgpack, from_json])
def test_what_is_no_message_is_a_bad_request(decode: Callable, data: bytes) -> None:
    """Goal: no bytes whatever raise anything but BadRequest that names the message."""
    if decode is from_json and not data:
        return
    with pytest.raises(BadRequest, match="Lookup"):
        decode(data, messages.Lookup)


@pytest.mark.parametrize(
    "text",
    [
        '{"base": "1"}', '{"base": 1.5}', '{"base": null}', '{"names": "a"}', '{"names": [1]}', '{"names": ["hex:q"]}',
        '{"names": [null]}', '{"names": {}}', "[]", "1", "null", "{", "[" * 99_999, '"hex:41"', '{"base": 1} x',
    ],
)  # fmt: skip
def test_json_of_wrong_types(text: str) -> None:
    """Goal: as above for well-formed JSON."""
    with pytest.raises(BadRequest):
        from_json(text.encode(), messages.Lookup)


@pytest.mark.parametrize(
    "piece",
    [{"chunk": "a", "length": 1}, {"offset": 0, "length": 1}, {"chunk": 5, "offset": 0, "length": 1}, [], {}, "x"],
)
def test_json_of_broken_pieces(piece: object) -> None:
    """Goal: a field that is missing from an array-like message is missed, not replaced by its neighbour."""
    with pytest.raises(BadRequest):
        from_json(json.dumps({"entries": [[piece]]}).encode(), messages.Manifest)


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_bad_request(data: bytes) -> None:
    """Goal: decoding never raises anything else."""
    for decode in (from_msgpack, from_json):
        for kind in (messages.Lookup, messages.Commit, messages.Manifest):
            try:
                decode(data, kind)
            except BadRequest:
                continue


def test_floats_that_json_cannot_say() -> None:
    """Goal: JSON for people stays JSON."""
    assert json.loads(to_json(messages.Wanted(1, math.inf)))["waited_s"] is None
