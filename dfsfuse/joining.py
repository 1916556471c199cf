"""Clusters that were started elsewhere: `--cluster URL`, or several with commas between.

A URL is that of a directory server, or of a host's agent, who knows where the directories of a volume are.

Threads: none of its own.
"""

import os
import re
import time
from pathlib import Path

from dfsfuse import errors
from dfsfuse import home as homes
from dfsfuse.endpoints import Endpoint, ask, ask_status
from dfsfuse.messages import VolumeName, VolumePlaces

JOIN_S = 10.0
VOLUME = "main"
_LOOK_S = 0.02
_ONE_OF_MANY_S = 3.0
_TOKEN_VARIABLE = "DFS_TOKEN"


def join(url: str, token: str, volume: str = "", timeout_s: float = JOIN_S) -> Endpoint:
    """The volume whose directory is at `url`, or at one of several with commas between; or whose hosts' agents are
    there, who have a volume of that name. Raises Unauthorized, NotFound and Unreachable, at once, and TimedOut."""
    urls = directories(normal_urls(url).split(","), token, volume)
    deadline = time.monotonic() + timeout_s
    while True:
        complaints = []
        for each in urls:
            try:
                status = ask_status(each, token, timeout_s if len(urls) == 1 else _ONE_OF_MANY_S)
                return Endpoint(url=each, token=token, volume=status.cluster.volume, urls=",".join(urls))
            except (errors.Starting, errors.Unreachable) as error:
                complaints.append(error)
        # A volume that was just made has no servers yet.
        if len(urls) == 1 and not isinstance(complaints[0], errors.Starting):
            raise complaints[0]
        if time.monotonic() > deadline:
            raise errors.TimedOut(str(complaints[-1]))
        time.sleep(_LOOK_S)


def directories(urls: list[str], token: str, volume: str) -> list[str]:
    """The directories of the volume, as agents tell; the URLs themselves where they are those of directories."""
    complaint: errors.DfsError = errors.BadRequest("no address of a cluster is given")
    for url in urls:
        try:
            return ask(url, token, "volume", VolumeName(volume or VOLUME), VolumePlaces).directories.split(",")
        except (errors.NoSuchOperation, errors.Starting):
            if volume:
                raise errors.BadRequest(f"{url} is a directory's address; volumes are asked of hosts' agents") from None
            return urls
        except errors.Unreachable as error:
            complaint = error
    raise complaint


def join_from(home: Path, url: str, volume: str = "") -> Endpoint:
    """As `join`, with the token of `token_for`. Makes nothing in the home."""
    url, token = normal_urls(url), token_for(home)
    try:
        return join(url, token, volume)
    except errors.Unauthorized:
        source = f"${_TOKEN_VARIABLE}" if os.environ.get(_TOKEN_VARIABLE, "").strip() else str(home / homes.TOKEN)
        refused = f"the cluster at {url} refuses the token of {source}"
        raise errors.Unauthorized(f"{refused}; set ${_TOKEN_VARIABLE} to that cluster's token") from None


def token_for(home: Path) -> str:
    """The token to join a cluster with: $DFS_TOKEN, else the home's. Raises NotFound."""
    if token := os.environ.get(_TOKEN_VARIABLE, "").strip():
        if not token.isascii() or not token.isprintable():
            raise errors.BadRequest(f"${_TOKEN_VARIABLE} is not the token of a cluster")
        return token
    try:
        return homes.read_token(home)
    except errors.NotFound as error:
        where = "it is what the file `token` in the home of that cluster holds"
        raise errors.NotFound(f"joining a cluster needs its token: {error}; {where}") from None


def normal_url(url: str) -> str:
    """`host:port` and `http://host:port/` mean the same. Raises BadRequest for what is no such address."""
    url = url.strip()
    whole = (url if "://" in url else f"http://{url}").rstrip("/")
    if not re.fullmatch(r"https?://[^/?#@\s]+:\d+", whole):
        such = "such as http://127.0.0.1:20000, or of a host's agent, such as http://10.0.0.1:7400"
        raise errors.BadRequest(f"{url!r} is not the address of a directory service, {such}")
    return whole


def normal_urls(urls: str) -> str:
    """As `normal_url`, for several with commas between."""
    return ",".join(normal_url(url) for url in urls.split(",") if url) or normal_url(urls)
