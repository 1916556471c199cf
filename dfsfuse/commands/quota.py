"""dfs quota: what the volume may hold, and how much of it is used."""

import argparse

from dfsfuse import tables
from dfsfuse.commands.reach import metadata
from dfsfuse.messages import Quota, QuotaReply
from dfsfuse.tables import size_text


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
            ["bytes", size_text(found.used_bytes), size_text(found.bytes_max) if found.bytes_max else "none"],
            ["inodes", str(found.used_inodes), str(found.inodes_max or "none")],
        ]
        tables.write_table(["", "USED", "LIMIT"], rows, right=["USED", "LIMIT"])
    return 0
