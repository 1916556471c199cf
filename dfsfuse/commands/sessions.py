"""dfs forget: what the directory keeps for a client that does not come back goes."""

import argparse

from dfsfuse import errors
from dfsfuse.commands.reach import metadata
from dfsfuse.messages import End, Nothing, SessionRow, StatusReply


def forget(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked:
        whole: StatusReply = asked.ask("status", Nothing(), StatusReply)
        known = {row.session: row for row in whole.sessions}
        for session in arguments.sessions:
            _check_gone(session, known.get(session))
        for session in arguments.sessions:
            asked.ask("end", End(session), Nothing)
    return 0


def _check_gone(session: int, row: SessionRow | None) -> None:
    if row is None:
        raise errors.NotFound(f"there is no session {session}; `dfs status` lists them")
    if row.live:
        raise errors.Busy(f"session {session} is live: its client is mounted on {row.mountpoint} of host {row.host}")
