"""Every error of the system: class -> (wire code, errno, HTTP status).

    DfsError
    +-- CallerError            the request cannot succeed, however often it is repeated
    |   +-- BadRequest             not of the operation's form
    |   |   +-- BadHash                not 64 hex digits, or the bytes hash to something else
    |   |   +-- BadRange               reaches beyond the chunk
    |   |   +-- BodyTooLarge           more bytes than the operation takes
    |   +-- Unauthorized           no token, or not the cluster's
    |   +-- NoSuchOperation        unknown route
    |   +-- MethodNotAllowed       known route, wrong HTTP method
    |   +-- NotFound               no such entry or inode
    |   +-- AlreadyExists          the name is taken
    |   +-- NotADirectory          a component of the path is not a folder
    |   +-- IsADirectory           a folder where a file is needed
    |   +-- NotEmpty               the folder has entries
    |   +-- NameTooLong            a name beyond 255 bytes
    |   +-- InvalidArgument        well-formed, but makes no sense (a folder into its own child)
    |   +-- NotPermitted           never allowed (a hard link to a folder)
    |   +-- TooManyLinks           an inode has as many names as one can have
    |   +-- NoAttribute            the inode has no extended attribute of this name
    |   +-- ValueTooLarge          the value of an extended attribute beyond 64 KiB
    |   +-- AttributesFull         all extended attributes of an inode together have no more room
    |   +-- QuotaExceeded          the volume has used up what its quota allows
    |   +-- ReadOnly               this mount only reads
    |   +-- FileTooLarge           beyond the largest file
    |   +-- NotSupported           not offered by this version
    |   +-- BadHandle              the handle is not open, or not open for this
    |   +-- NoLocks                more locks than the service keeps, or locks that the driver cannot pass on
    +-- Conflict               another client was first
    |   +-- Busy                   the write lock was not free within the wait
    |   +-- WouldBlock             the write lock is taken and the caller does not wait
    |   +-- Interrupted            the waiting program was interrupted
    |   +-- Deadlock               those who wait for each other's locks would wait for ever
    |   +-- LockLost               the token is older than one that the directory has seen
    |   +-- VersionConflict        the file's version is not the one that the commit is based on
    |   +-- Stale                  the inode or the name changed meanwhile; look it up again
    |   +-- SessionEnded           the session is over; the client begins a new one
    |   +-- OutOfSequence          the slot expects another sequence number; nothing was executed
    |   +-- ReceiptsVoid           receipts are too old to rest a commit upon; confirm the chunks, and try again
    +-- ServerError            a server could not do it
    |   +-- NoSpace                a disk is full
    |   +-- NotEnoughCopies        fewer servers than copies_min have the content
    |   +-- NotPrimary             a replica was asked to take an upload; names the primary
    |   +-- ChunkMissing           this server does not have the chunk
    |   +-- ChunkCorrupt           what is stored does not hash to its name
    |   +-- ChunkGone              no server of the group has the chunk any more
    |   +-- Lost                   servers lost power, and with it what they had acknowledged
    |   +-- Starting               the service waits for its sessions after a restart
    |   |   +-- NotServing             one of several servers that stands by; names the one that serves
    |   +-- Internal               unexpected; the traceback is in the server's log
    +-- Unreachable            no answer
        +-- TimedOut               not within the deadline
        +-- UploadFailed           content is kept in the local cache and not yet on the servers

On the wire an error is `{"code": ..., "message": ..., "detail": ...}`; `from_wire` gives the class back.
"""

import errno


class DfsError(Exception):
    """Root of all errors. `detail` is a short machine-readable extra, such as the primary's address."""

    code, errno, status = "error", errno.EIO, 500

    def __init__(self, message: str = "", detail: str = ""):
        super().__init__(message or self.__class__.__doc__ or self.code)
        self.detail = detail


class CallerError(DfsError):
    """The request cannot succeed."""

    code, errno, status = "caller_error", errno.EINVAL, 400


class BadRequest(CallerError):
    """The request is not of the operation's form."""

    code = "bad_request"


class BadHash(BadRequest):
    """The chunk's name is not 64 hex digits, or its bytes hash to another name."""

    code = "bad_hash"


class BadRange(BadRequest):
    """The range reaches beyond the chunk."""

    code, status = "bad_range", 416


class BodyTooLarge(BadRequest):
    """The body is larger than the operation takes."""

    code, errno, status = "body_too_large", errno.E2BIG, 413


class Unauthorized(CallerError):
    """The cluster's token is missing or wrong."""

    code, errno, status = "unauthorized", errno.EACCES, 401


class NoSuchOperation(CallerError):
    """There is no such operation."""

    code, errno, status = "no_such_operation", errno.ENOSYS, 404


class MethodNotAllowed(CallerError):
    """The operation is reached by another HTTP method."""

    code, errno, status = "method_not_allowed", errno.ENOSYS, 405


class NotFound(CallerError):
    """There is no such file or folder."""

    code, errno, status = "not_found", errno.ENOENT, 404


class AlreadyExists(CallerError):
    """The name is taken."""

    code, errno, status = "already_exists", errno.EEXIST, 409


class NotADirectory(CallerError):
    """A component of the path is not a folder."""

    code, errno = "not_a_directory", errno.ENOTDIR


class IsADirectory(CallerError):
    """It is a folder, and a file is needed."""

    code, errno = "is_a_directory", errno.EISDIR


class NotEmpty(CallerError):
    """The folder is not empty."""

    code, errno, status = "not_empty", errno.ENOTEMPTY, 409


class NameTooLong(CallerError):
    """A name has more than 255 bytes."""

    code, errno = "name_too_long", errno.ENAMETOOLONG


class InvalidArgument(CallerError):
    """The arguments make no sense together."""

    code = "invalid_argument"


class NotPermitted(CallerError):
    """This is never allowed."""

    code, errno, status = "not_permitted", errno.EPERM, 403


class TooManyLinks(CallerError):
    """The inode has as many names as one can have."""

    code, errno, status = "too_many_links", errno.EMLINK, 409


class NoAttribute(CallerError):
    """The inode has no extended attribute of this name."""

    code, errno, status = "no_attribute", errno.ENODATA, 404


class ValueTooLarge(CallerError):
    """The value of an extended attribute is too large."""

    code, errno, status = "value_too_large", errno.E2BIG, 413


class AttributesFull(CallerError):
    """The extended attributes of this inode have no more room."""

    code, errno, status = "attributes_full", errno.ENOSPC, 507


class QuotaExceeded(CallerError):
    """The volume has used up what its quota allows."""

    code, errno, status = "quota_exceeded", errno.EDQUOT, 507


class ReadOnly(CallerError):
    """This mount only reads."""

    code, errno, status = "read_only", errno.EROFS, 403


class FileTooLarge(CallerError):
    """The file would be larger than the largest file."""

    code, errno = "file_too_large", errno.EFBIG


class NotSupported(CallerError):
    """This version does not offer it."""

    code, errno, status = "not_supported", errno.EOPNOTSUPP, 501


class BadHandle(CallerError):
    """The handle is not open, or not open for this."""

    code, errno = "bad_handle", errno.EBADF


class NoLocks(CallerError):
    """There are too many locks already."""

    code, errno = "no_locks", errno.ENOLCK


class Conflict(DfsError):
    """Another client was first."""

    code, errno, status = "conflict", errno.EBUSY, 409


class Busy(Conflict):
    """The write lock was not free within the wait."""

    code = "busy"


class WouldBlock(Conflict):
    """The write lock is taken, and the caller does not wait."""

    code, errno = "would_block", errno.EAGAIN


class Interrupted(Conflict):
    """The waiting program was interrupted."""

    code, errno = "interrupted", errno.EINTR


class Deadlock(Conflict):
    """Waiting for this lock would close a circle of programs that wait for each other."""

    code, errno = "deadlock", errno.EDEADLK


class LockLost(Conflict):
    """The write lock is no longer held: a newer holder has opened the file."""

    code, errno = "lock_lost", errno.EIO


class VersionConflict(Conflict):
    """The file has another version than the one that the commit is based on."""

    code, errno = "version_conflict", errno.EIO


class Stale(Conflict):
    """The file is no longer what it was; look it up again."""

    code, errno = "stale", errno.ESTALE


class SessionEnded(Conflict):
    """The session is over."""

    code, errno = "session_ended", errno.EIO


class OutOfSequence(Conflict):
    """The slot expects another sequence number; nothing was executed."""

    code, errno = "out_of_sequence", errno.EIO


class ReceiptsVoid(Conflict):
    """Servers have started again, or deleted what nobody needed, since they gave these receipts."""

    code, errno = "receipts_void", errno.EIO


class ServerError(DfsError):
    """A server could not do it."""

    code, errno, status = "server_error", errno.EIO, 500


class NoSpace(ServerError):
    """A disk is full."""

    code, errno, status = "no_space", errno.ENOSPC, 507


class NotEnoughCopies(ServerError):
    """Fewer servers than copies_min have the content."""

    code, status = "not_enough_copies", 503


class NotPrimary(ServerError):
    """This server is a replica; uploads go to the primary. `detail` is the primary's address."""

    code, status = "not_primary", 421


class ChunkMissing(ServerError):
    """This server does not have the chunk."""

    code, status = "chunk_missing", 404


class ChunkCorrupt(ServerError):
    """What is stored does not hash to its name."""

    code = "chunk_corrupt"


class ChunkGone(ServerError):
    """No file server has the chunk any more."""

    code = "chunk_gone"


class Lost(ServerError):
    """Servers lost power, and with it what they had acknowledged."""

    code = "lost"


class Starting(ServerError):
    """The service waits for its sessions after a restart; ask again."""

    code, errno, status = "starting", errno.EAGAIN, 503


class NotServing(Starting):
    """This server stands by, or has stopped serving: ask again, or the one that `detail` names (its URL)."""

    code = "not_serving"


class Internal(ServerError):
    """Something unexpected; the traceback is in the server's log."""

    code = "internal"


class Unreachable(DfsError):
    """A server does not answer."""

    code, errno, status = "unreachable", errno.EHOSTUNREACH, 504


class TimedOut(Unreachable):
    """No answer within the deadline."""

    code, errno = "timed_out", errno.ETIMEDOUT


class UploadFailed(Unreachable):
    """The content is kept in the local cache; it is not on the servers yet."""

    code, errno = "upload_failed", errno.EIO


def _tree(root: type[DfsError]):
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[DfsError]] = {cls.code: cls for cls in _tree(DfsError)}


def to_wire(error: DfsError) -> dict[str, str]:
    """The fields that travel: code, message, detail."""
    return {"code": error.code, "message": str(error), "detail": error.detail}


def from_wire(code: str, message: str = "", detail: str = "") -> DfsError:
    """The error that `to_wire` described; an unknown code becomes Internal and keeps its message."""
    return BY_CODE.get(code, Internal)(message, detail)


def from_os_error(error: OSError, doing: str) -> DfsError:
    """What a local disk's error means to the one who asked; `doing` names the act, such as "storing a chunk"."""
    kinds = {errno.ENOSPC: NoSpace, errno.EDQUOT: NoSpace, errno.EFBIG: FileTooLarge}
    return kinds.get(error.errno, Internal)(f"{doing}: {error.strerror or error}")
