"""A cluster that answers, and the first question to it.

Threads: any.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dfsfuse import errors
from dfsfuse.messages import Message, Nothing, StatusReply, from_json, to_json

ASK_S = 5.0
Reply = TypeVar("Reply", bound=Message)


@dataclass(kw_only=True)
class Endpoint:
    """A cluster that answers. While `users_lock` is open, also in a process that inherited it, it does not end. `urls`:
    of all directory servers, where it is not that of a home."""

    url: str
    token: str
    volume: str
    home: Path | None = None
    users_lock: int | None = None
    urls: str = ""

    def close(self) -> None:
        if self.users_lock is not None:
            os.close(self.users_lock)
            self.users_lock = None

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask_status(url: str, token: str, timeout_s: float = ASK_S) -> StatusReply:
    """The directory operation `status`. Raises what the directory answers, Unreachable and TimedOut."""
    return ask(url, token, "status", Nothing(), StatusReply, timeout_s)


def ask(url: str, token: str, operation: str, request: Message, kind: type[Reply], timeout_s: float = ASK_S) -> Reply:
    """One operation of a server of which nothing is known yet. Raises what it answers, Unreachable and TimedOut."""
    import requests  # costs 15 MB and 100 ms, and a mount whose cluster runs never needs it again

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with requests.Session() as session:
        session.trust_env = False
        try:
            reply = session.post(f"{url}/v1/{operation}", data=to_json(request), headers=headers, timeout=timeout_s)
        except requests.Timeout:
            raise errors.TimedOut(f"the cluster at {url} gave no answer within {timeout_s:g} s") from None
        except (requests.RequestException, ValueError) as error:
            raise errors.Unreachable(f"no cluster answers at {url}: {_reason(error)}") from None
    return _answer(url, reply.status_code, reply.content, kind)


def _answer(url: str, code: int, content: bytes, kind: type[Reply]) -> Reply:
    if code == errors.Unauthorized.status:
        raise errors.Unauthorized(f"the cluster at {url} refuses the token; set $DFS_TOKEN to that cluster's token")
    try:
        if code == 200:
            return from_json(content, kind)
        error = from_json(content, dict)
        told = errors.from_wire(error["code"], error["message"], error.get("detail", ""))
    except (errors.BadRequest, KeyError, TypeError, AttributeError):
        raise errors.Unreachable(f"what answers at {url} is not a dfsfuse directory service") from None
    raise told


def _reason(error: BaseException) -> str:
    """The operating system's words, which lie below two layers of others."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return str(error)
