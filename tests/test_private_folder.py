"""Folders of this machine that their owner alone may enter."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

from dfsfuse import errors
from dfsfuse import home as homes
from dfsfuse.private_folder import make_private_folder

MADE_ELSEWHERE = {"dfsfuse/commands/copying.py", "dfsfuse/commands/hosts.py"}
"""`dfs get` makes what was a folder in the volume, with the mode that it had there; `dfs cluster init` and `join` that
of a host's configuration, which all may read."""


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def modes(top: Path, *names: str) -> list[int]:
    paths = [top.joinpath(*names[: count + 1]) for count in range(len(names))]
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_all_on_the_way_are_private(tmp_path, umask):
    """Goal: no folder that is made is open to others, those between included, and its owner may use each; whatever the
    umask is."""
    make_private_folder(tmp_path / "clients" / "volume" / "mount")
    assert modes(tmp_path, "clients", "volume", "mount") == [0o700] * 3


def test_what_is_there_stays(tmp_path):
    """Goal: a folder that somebody has opened to others stays open; what is no folder is not taken for one."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    make_private_folder(tmp_path / "open")
    make_private_folder(tmp_path / "open" / "inner")
    assert modes(tmp_path, "open", "inner") == [0o755, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("path", ["/proc/none", "/proc/none/below"])
def test_where_nobody_makes_folders(path):
    """Goal: /proc is there, and answers that what would be made is not: that is an error, told in one line, and
    no reason to make what is there once more."""
    with pytest.raises(FileNotFoundError):
        make_private_folder(Path(path))
    with pytest.raises(errors.NotPermitted, match=f"home {path} cannot be written: .*--home DIR"):
        homes.prepare(Path(path))


def test_a_client_makes_folders_in_one_place():
    """Goal: what is right there is right everywhere: nothing else of a client's code makes folders of this machine."""
    makers = set()
    for path in sorted((ROOT / "dfsfuse").rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("os.mkdir", "os.makedirs") or name.endswith(".mkdir"):
                makers.add(str(path.relative_to(ROOT)))
    assert makers - {"dfsfuse/private_folder.py"} == MADE_ELSEWHERE
