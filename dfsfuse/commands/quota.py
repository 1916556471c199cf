"""dfs quota: what the volume may hold, and how much of it is used."""

import argparse

from dfsfuse import tables
from dfsfuse.commands.reach import metadata
from dfsfuse.messages import Quota, QuotaReply, size_as_text


def quota(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked:
        request = Quota(bytes_max=arguments.bytes, inodes_max=arguments.inodes)
        found: QuotaReply = asked.ask("quota", request, QuotaReply)
    if arguments.json:
        tables.write_json(
            {"used_bytes": found.used_bytes, "bytes_max": found.bytes_max or None, "used_inodes": found.used_inodes,
             "inodes_max": found.inodes_max or None}
        )  # fmt: skip
    else:
        rows = [
            ["bytes", size_as_text(found.used_bytes), size_as_text(found.bytes_max) if found.bytes_max else "none"],
            ["inodes", str(found.used_inodes), str(found.inodes_max or "none")],
        ]
        tables.write_table(["", "USED", "LIMIT"], rows, right=["USED", "LIMIT"])
    _tell_what_is_beyond(found)
    return 0


def _tell_what_is_beyond(found: QuotaReply) -> None:
    """A limit may be set below what is used; that nothing can be written then should surprise nobody."""
    if 0 < found.bytes_max < found.used_bytes:
        much = f"{size_as_text(found.used_bytes)} are used, and the limit is {size_as_text(found.bytes_max)}"
        tables.complain(f"{much}: what is there stays, and no file can grow until it is below")
    if 0 < found.inodes_max < found.used_inodes:
        much = f"{found.used_inodes} inodes are used, and the limit is {found.inodes_max}"
        tables.complain(f"{much}: what is there stays, and nothing can be made until it is below")
