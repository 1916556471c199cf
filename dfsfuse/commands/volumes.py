"""dfs volume: the volumes of a cluster of several hosts, as the hosts' agents tell."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from dfsfuse import endpoints, errors, joining, tables
from dfsfuse.commands.reach import home_of
from dfsfuse.messages import Message, Nothing, VolumeList, VolumeName, VolumePlaces

Reply = TypeVar("Reply", bound=Message)


def create(arguments: argparse.Namespace) -> int:
    places = _asked(arguments, "create_volume", VolumeName(arguments.name), VolumePlaces)
    tables.write_line(f"volume {arguments.name} is made; its directories are {places.directories}")
    return 0


def list_(arguments: argparse.Namespace) -> int:
    found = _asked(arguments, "volumes", Nothing(), VolumeList)
    if arguments.json:
        tables.write_json([{"name": v.name, "number": v.number, "serving": v.serving} for v in found.volumes])
    else:
        rows = [[volume.name, volume.serving or "nobody just now"] for volume in found.volumes]
        tables.write_table(["VOLUME", "SERVED BY"], rows)
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """With everything in it: so it must be named twice."""
    if arguments.sure != arguments.name:
        tables.complain(
            f"volume {arguments.name} would be removed with all its files, for ever; if you want that: "
            f"dfs volume remove {arguments.name} --yes-remove {arguments.name}"
        )
        return 1
    _asked(arguments, "remove_volume", VolumeName(arguments.name), Nothing)
    tables.write_line(f"volume {arguments.name} is removed; its hosts delete what they have of it")
    return 0


def quota(arguments: argparse.Namespace) -> int:
    from dfsfuse.commands import quota as of_volume

    arguments.volume = arguments.name
    return of_volume.quota(arguments)


def _asked(arguments: argparse.Namespace, operation: str, request: Message, kind: type[Reply]) -> Reply:
    """What the first agent answers that does."""
    if arguments.cluster is None:
        raise errors.BadRequest("volumes are those of a cluster of several hosts: --cluster URL,URL, of their agents")
    token = joining.token_for(home_of(arguments))
    asks: list[Callable[[], Reply]] = [
        lambda url=url: endpoints.ask(url, token, operation, request, kind)
        for url in joining.normal_urls(arguments.cluster).split(",")
    ]
    for number, ask in enumerate(asks):
        try:
            return ask()
        except errors.NoSuchOperation:
            raise errors.BadRequest(f"{arguments.cluster} is not the address of a host's agent") from None
        except errors.Unreachable:
            if number == len(asks) - 1:
                raise
    raise AssertionError("not reached")
