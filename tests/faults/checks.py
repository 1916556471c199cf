"""What must be true when the loads have ended: everything that was acknowledged is there, on every client."""

import contextlib
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from support import wait_until

from .git import Git
from .journal import DONE, Known, Reader
from .lab import FILES, Lab
from .loads import FOLDERS, content, number_in
from .running import TOGETHER, Running

REST_S = 90.0
"""Garbage is deleted each 10 s; what was uploaded in vain is found some rounds after a start, in the inventory."""


def check_client(point: Path, loads: list[Running]) -> int:
    """What this client finds on its mount. AssertionError: something that was acknowledged is not there. The number of
    things that were looked at."""
    journals = {load.name: load.journal for load in loads}
    looked = _counters(point, Known(Reader(journals["counters"])).update())
    looked += _moved(point, Known(Reader(journals["mover"])).update())
    ledgers = {load.mount: load.journal for load in loads if load.name in TOGETHER}
    looked += _ledger(point, ledgers) if ledgers else 0
    return looked + (_commits(point, journals["git"]) if "git" in journals else 0)


def _acknowledged(journal: Path, what: str) -> set[int]:
    return {line.value for line in Reader(journal).new() if line.state == DONE and line.what == what}


def _counters(point: Path, known: Known) -> int:
    for key, at_least in known.acknowledged.items():
        found = number_in((point / key).read_bytes(), key)
        assert at_least <= found <= known.tried[key], (
            f"{key} has {found}; {at_least} was closed, {known.tried[key]} tried"
        )
    return len(known.acknowledged)


def _moved(point: Path, known: Known) -> int:
    there = [{path.name for path in (point / folder).iterdir()} for folder in FOLDERS]
    for name, place in known.acknowledged.items():
        found = [folder for folder, names in enumerate(there) if name in names]
        assert len(found) == 1, f"{name} is in {len(found)} folders"
        assert found == [place] or not known.sure[name], f"{name} is in {FOLDERS[found[0]]}, not where it was moved"
        assert (point / FOLDERS[found[0]] / name).read_bytes() == content(name, 0, 5000), f"{name} has another content"
    return len(known.acknowledged)


def _ledger(point: Path, journals: dict[str, Path]) -> int:
    database = sqlite3.connect(point / "ledger.db", timeout=30)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT writer, number FROM ledger").fetchall()
        assert database.execute("SELECT sum FROM total").fetchall() == [(len(rows),)], "half of a transaction"
    finally:
        database.close()
    for writer, journal in journals.items():
        missing = _acknowledged(journal, writer) - {number for name, number in rows if name == writer}
        assert not missing, f"transactions of {writer} that were committed and are not there: {sorted(missing)[:10]}"
    return len(rows)


def _commits(point: Path, journal: Path) -> int:
    """In the repository itself, and in a clone on the local disk."""
    wanted = {str(number) for number in _acknowledged(journal, "commit")}
    repository = Git(point / "repository")
    repository.run("fsck", "--full", "--strict")
    with tempfile.TemporaryDirectory() as folder:
        clone = Git(Path(folder))
        clone.run("clone", "--quiet", "--no-hardlinks", repository.folder, ".")
        for where, git in (("the repository", repository), ("its clone", clone)):
            missing = wanted - set(git.messages())
            assert not missing, f"commits that are not in {where}: {sorted(missing)[:10]}"
    return len(wanted)


def check_volume(lab: Lab) -> dict[str, Any]:
    """What `dfs check` finds: metadata and each copy on each file server, read and hashed. AssertionError: something is
    wrong or lost, could not be checked, or, when servers have had time to repair and to delete, is short, or there
    though nobody needs it."""
    assert not lab.status().lost_files, f"lost: {lab.status().lost_files}"
    lab.restart_files()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: _is_at_rest(_checked(lab, "--quick")), "", REST_S)
    found = _checked(lab)
    assert _is_at_rest(found), found
    return found


def _checked(lab: Lab, *options: str) -> dict[str, Any]:
    done = lab.dfs("check", "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def _is_at_rest(found: dict[str, Any]) -> bool:
    """All servers have what somebody needs, and nothing else."""
    assert sorted(found["servers"]) == list(FILES), found
    return not any((*found["short"].values(), *found["surplus"].values()))


def copies(point: Path) -> list[str]:
    """Conflict copies, which keep what could not become a file's next version (S6)."""
    return sorted(str(path.relative_to(point)) for path in point.rglob("* (conflict *"))
