"""Which of several directory servers a client asks, over real connections, when one of them answers nothing at all."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from file_group import TOKEN
from support import served

from dfsfuse import directories, errors
from dfsfuse.directories import Directories
from dfsfuse.messages import Nothing, Serving
from dfsfuse.rpc import Rpc
from dfsfuse.serving_directory import ServingDirectory
from servers.http import App, Operation


class Others:
    """One that is silent, and two that stand by and tell whom they know of."""

    def __init__(self, silent: str, urls: list[str], told: list[str]):
        self.silent, self.urls, self.told = silent, urls, told

    @property
    def all(self) -> list[str]:
        return [self.silent, *self.urls]


@pytest.fixture
def others() -> Iterator[Others]:
    told: list[str] = []
    app = App(TOKEN, {"serving": Operation(Nothing, lambda _: Serving(told[0]))})
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        urls = [f"http://127.0.0.1:{stack.enter_context(served(app))}" for _ in range(2)]
        told.append(f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield Others(told[0], urls, told)


def test_one_that_is_silent_is_not_gone_back_to(others: Others) -> None:
    """Goal: where those that stand by still name the one that was cut off, the client waits at one of them, and has the
    next one as soon as that is elected."""
    found = Directories(others.all, TOKEN)
    assert found.find() in others.urls
    began = time.monotonic()
    assert found.find() in others.urls
    assert time.monotonic() - began < directories.ASK_S / 2, "it was asked again at once"
    others.told[0] = others.urls[1]
    assert found.find() == others.urls[1]


def test_one_that_others_alone_do_not_hear_stays(others: Others) -> None:
    """Goal: what those that stand by say of the one that answers is no news."""
    serving = others.told[0] = others.urls[0]
    found = Directories([serving, others.silent, others.urls[1]], TOKEN)
    assert found.find() == serving
    assert found.another() == ""


def test_a_renewal_does_not_wait_for_one_that_is_silent(others: Others) -> None:
    """Goal: while nobody answers it looks whether another one serves, and that is whom everybody asks from then on."""
    finders = directories.finders(",".join(others.all), TOKEN)
    directory = ServingDirectory(Rpc(TOKEN), others.silent, 30.0, finders.refind, finders.another)
    others.told[0] = others.urls[0]
    began = time.monotonic()
    with pytest.raises(errors.Unreachable):
        directory.ask_and_look("renew", Nothing(), Nothing, 20.0)
    assert time.monotonic() - began < 5
    assert directory.url == others.urls[0]
