"""The part of etcd's v3 API that is used here, as its JSON gateway has it: 64-bit numbers are text, bytes are base64,
what is zero or false is left out (etcd's api/etcdserverpb/rpc.proto; docs "gRPC gateway").
"""

from enum import StrEnum

import msgspec


class Header(msgspec.Struct, frozen=True):
    """`revision` is that of the whole store after what was asked for."""

    revision: int = 0


class Pair(msgspec.Struct, frozen=True):
    """A key as it is, and when that came about: the revision at which it was made, and last changed."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class RangeRequest(msgspec.Struct, omit_defaults=True):
    """Keys from `key` up to and without `range_end`; without an end, the one key. `revision`: as they were then.
    `limit`: so many pairs at most, 0 for all."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0


class RangeReply(msgspec.Struct):
    """`more` beyond the limit."""

    header: Header = Header()
    kvs: list[Pair] = []
    more: bool = False


class Put(msgspec.Struct, omit_defaults=True):
    key: bytes
    value: bytes
    lease: int = 0


class DeleteRange(msgspec.Struct, omit_defaults=True):
    key: bytes
    range_end: bytes = b""


class Change(msgspec.Struct, omit_defaults=True):
    """One of them."""

    request_put: Put | None = None
    request_delete_range: DeleteRange | None = None
    request_range: RangeRequest | None = None


class Target(StrEnum):
    CREATE = "CREATE"
    MOD = "MOD"


class Compare(msgspec.Struct):
    """A key's revision is just this: the one at which it was made (0: it is not there), or last changed."""

    key: bytes
    target: Target = Target.CREATE
    result: str = "EQUAL"
    create_revision: int | msgspec.UnsetType = msgspec.UNSET
    mod_revision: int | msgspec.UnsetType = msgspec.UNSET


class TxnRequest(msgspec.Struct, omit_defaults=True):
    """`success` is done where all of `compare` holds, and `failure` else; as one."""

    compare: list[Compare]
    success: list[Change]
    failure: list[Change] = []


class TxnAnswer(msgspec.Struct):
    response_range: RangeReply | None = None


class TxnReply(msgspec.Struct):
    header: Header = Header()
    succeeded: bool = False
    responses: list[TxnAnswer] = []


class LeaseRequest(msgspec.Struct):
    """Times are in seconds. An ID of 0 asks for a new one."""

    TTL: int
    ID: int = 0


class LeaseNumber(msgspec.Struct):
    ID: int


class LeaseReply(msgspec.Struct, frozen=True):
    """TTL 0: there is no such lease any more."""

    header: Header = Header()
    ID: int = 0
    TTL: int = 0


class StreamError(msgspec.Struct):
    grpc_code: int = 2
    message: str = ""


class LeaseStreamed(msgspec.Struct):
    result: LeaseReply = LeaseReply()
    error: StreamError | None = None


class WatchRequest(msgspec.Struct, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    start_revision: int = 0
    fragment: bool = False


class WatchCreate(msgspec.Struct):
    create_request: WatchRequest


class Event(msgspec.Struct):
    """`type` is PUT where there is none."""

    kv: Pair = Pair()
    type: str = "PUT"


class WatchReply(msgspec.Struct, frozen=True):
    """Events of one or several revisions. `fragment`: more of them follow. `compact_revision`: what was asked for is
    forgotten; what there is begins here."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    fragment: bool = False
    events: list[Event] = []


class WatchStreamed(msgspec.Struct):
    result: WatchReply = WatchReply()
    error: StreamError | None = None


class CompactRequest(msgspec.Struct):
    revision: int


class AuthRequest(msgspec.Struct):
    name: str
    password: str


class AuthReply(msgspec.Struct):
    token: str = ""


class Failure(msgspec.Struct):
    """`code` is gRPC's (google/rpc/code.proto). What is streamed has it within `error`."""

    code: int = 2
    message: str = ""
    error: str | StreamError = ""

    @property
    def plain(self) -> "Failure":
        if isinstance(self.error, StreamError):
            return Failure(self.error.grpc_code, self.error.message)
        return Failure(self.code, self.message or self.error)


class StatusReply(msgspec.Struct):
    """`dbSizeInUse`: bytes of its file that are not free."""

    header: Header = Header()
    dbSizeInUse: int = 0


class Nothing(msgspec.Struct):
    pass
