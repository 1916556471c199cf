"""dfs cluster start and stop: the embedded cluster of a home, with or without users."""

import argparse

from dfsfuse import cluster, tables
from dfsfuse.commands.reach import home_of


def start(arguments: argparse.Namespace) -> int:
    home = home_of(arguments)
    endpoint = cluster.start_keeping(home)
    tables.write_line(f"the cluster in {home} runs at {endpoint.url}, until: dfs --home {home} cluster stop")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    home = home_of(arguments)
    if not home.is_dir() or not cluster.is_running(home):
        cluster.stop(home)
        tables.write_line(f"no cluster runs in {home}")
    elif cluster.stop(home):
        tables.write_line(f"the cluster in {home} has ended; its data stays")
    else:
        tables.write_line(f"the cluster in {home} is in use; it ends with its last mount or command")
    return 0
