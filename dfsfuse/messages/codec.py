"""How messages are written: msgpack between programs, JSON for people.

JSON is for people: bytes stand as text where they are printable UTF-8, else as "hex:" and their hex digits; chunk names
and ids are therefore "hex:...". `to_json` and `from_json` undo each other.
"""

import functools
import typing

import msgspec

from dfsfuse.errors import BadRequest
from dfsfuse.messages.base import Message

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder] = {}


def to_msgpack(message: Message) -> bytes:
    """Raises BadRequest for a number beyond 64 bits, such as a time in the far future."""
    try:
        return _encoder.encode(message)
    except OverflowError as error:
        raise BadRequest(f"{type(message).__name__}: {error}") from None


def from_msgpack(data: bytes, kind: type) -> typing.Any:
    """Raises BadRequest for bytes that are not a message of this kind."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{kind.__name__}: {error}") from None


def to_json(message: Message) -> bytes:
    plain = _as_json(message)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def to_json_line(message: Message) -> bytes:
    """As `to_json`, on one line and without fields that have their default; `from_json` undoes it."""
    plain = _with_text(msgspec.to_builtins(message, builtin_types=(bytes,)))
    return msgspec.json.encode(plain) + b"\n"


def _with_text(plain: typing.Any) -> typing.Any:
    if isinstance(plain, bytes):
        return bytes_as_text(plain)
    if isinstance(plain, list | tuple):
        return [_with_text(item) for item in plain]
    if isinstance(plain, dict):
        return {name: _with_text(item) for name, item in plain.items()}
    return plain


def from_json(data: bytes, kind: type) -> typing.Any:
    """Raises BadRequest for text that is not JSON or not a message of this kind."""
    try:
        plain = msgspec.json.decode(data or b"{}")
        return msgspec.convert(_from_json(plain, kind), kind)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{kind.__name__}: {error}") from None


def bytes_as_text(value: bytes) -> str:
    """Printable UTF-8 as it is, all else (and what would look like it) as "hex:..."."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    readable = text.isprintable() and not text.startswith("hex:")
    return text if readable and (text or not value) else "hex:" + value.hex()


def shown_name(name: bytes) -> str:
    """A name in a message for people, quoted: as it is where it is printable, whatever it looks like."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    return repr(text if text.isprintable() and text else bytes_as_text(name))


def text_as_bytes(text: str) -> bytes:
    """Undoes `bytes_as_text`."""
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


def size_as_text(count: int) -> str:
    """A number of bytes in a unit that people read easily."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{count} B" if not unit else f"{size:.1f} {_UNITS[unit]}"


def _as_json(value: typing.Any) -> typing.Any:
    if isinstance(value, bytes):
        return bytes_as_text(value)
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {name: _as_json(getattr(value, name)) for name in value.__struct_fields__}
    return value


def _from_json(value: typing.Any, kind: typing.Any) -> typing.Any:
    """`value` with text turned into bytes, and objects into arrays, wherever `kind` wants that."""
    if kind is bytes and isinstance(value, str):
        return text_as_bytes(value)
    if isinstance(value, list) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = _hints(kind)
        return [_from_json(item, hints[name]) for item, name in zip(value, kind.__struct_fields__, strict=False)]
    if isinstance(value, list):
        (item_kind, *_) = typing.get_args(kind) or (object,)
        return [_from_json(item, item_kind) for item in value]
    if isinstance(value, dict):
        return _object_from_json(value, kind)
    return value


@functools.cache
def _hints(kind: type) -> dict[str, typing.Any]:
    return typing.get_type_hints(kind)


def _object_from_json(value: dict, kind: typing.Any) -> typing.Any:
    kinds = [k for k in (kind, *typing.get_args(kind)) if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    if not kinds:
        return value
    hints = _hints(kinds[0])
    plain = {name: _from_json(item, hints.get(name, object)) for name, item in value.items()}
    if kinds[0].__struct_config__.array_like:
        return [plain[name] for name in kinds[0].__struct_fields__ if name in plain]
    return plain
