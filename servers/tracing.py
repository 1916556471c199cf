"""Who needs a chunk, and which servers are known to lack it: what a checker asks before it tells of one. Pure."""

from dfsfuse import errors
from dfsfuse.chunks import NAME_BYTES
from dfsfuse.messages import ChunkTrace, Trace, Traced
from servers import check, records, references, short_rows
from servers.group import Group
from servers.references import ONLY_GROUP
from servers.store import Reader, Transaction

CHUNKS_MAX = 1000
_FILES_MAX = 5


def trace(tx: Reader, request: Trace, group: Group) -> Traced:
    if len(request.chunks) > CHUNKS_MAX:
        raise errors.BadRequest(f"{len(request.chunks)} chunks; at most {CHUNKS_MAX} are traced at once")
    return Traced([_trace(tx, chunk, group) for chunk in request.chunks])


def _trace(tx: Reader, chunk: bytes, group: Group) -> ChunkTrace:
    inos = references.inodes_with(tx, ONLY_GROUP, chunk, _FILES_MAX)[:_FILES_MAX]
    return ChunkTrace(
        chunk=chunk,
        needed=references.is_held(tx, ONLY_GROUP, chunk),
        short=[name for name in group.names if group.is_missing(tx, name, chunk)],
        inos=inos,
        paths=[path for path in (check.path_of(tx, ino) for ino in inos) if path],
    )


def note_missing(tx: Transaction, server: str, chunk: bytes) -> bool:
    """The server does not have it, and was not known to lack it: it will be told to look for it."""
    if len(chunk) != NAME_BYTES or server not in records.file_servers(tx):
        return False
    return references.is_held(tx, ONLY_GROUP, chunk) and short_rows.note(tx, [(server, chunk)])
