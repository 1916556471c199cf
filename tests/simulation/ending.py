"""What clients do in the end, when all is healed and nothing else goes on: each writes, each reads everything.

All of it must succeed, and all must see the same; the world (world.py) says in which order.
"""

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation import contents, threads
from simulation.contents import Torn
from simulation.history import Violation
from simulation.programs import LOGS, TABLES, Program, place

if TYPE_CHECKING:
    from simulation.world import World

SETTLE_S = 60.0
"""What must come to its end has come to it by then."""


class Ending:
    """The methods run in a thread of the client that they are given."""

    def __init__(self, world: "World"):
        self._world = world

    def shares(self) -> list[list[str]]:
        """What each client writes: the files are dealt out."""
        files, clients = [*TABLES, *LOGS], len(self._world.clients)
        self._world.fork("end").shuffle(files)
        return [files[number::clients] for number in range(clients)]

    def write(self, client: Any, files: list[str]) -> bool:
        """They can be written again: no lock is stuck, no token too low."""
        program = Program(self._world, client, 100, client.turns, alone=True)
        for name in files:
            if name in TABLES:
                self._must(program, "edit " + name, lambda n=name: program._edit(n, False))
            else:
                self._must(program, "append to " + name, lambda n=name: program._append(n, True))
        return True

    def _must(self, program: Program, what: str, do: Callable[[], Any]) -> None:
        from dfsfuse import errors

        began = self._world.now
        while True:
            try:
                do()
                return
            except errors.DfsError as error:
                self._world.note(program.who, f"{what}: {type(error).__name__}: {error}")
                if self._world.now - began > SETTLE_S / 3:
                    raise Violation(
                        f"S9: {program.who} cannot {what} though all is healed: {type(error).__name__}: {error}"
                    ) from None
                threads.sleep(0.3)

    def read(self, client: Any) -> list[Any]:
        """All files and names."""
        program = Program(self._world, client, 101, client.turns, alone=True)
        found: list[Any] = []
        for name in TABLES:
            self._must(program, "read " + name, lambda n=name: found.append(program.check_table(n)))
        for name in LOGS:
            self._must(program, "read " + name, lambda n=name: found.append(program.check_log(n)))
        self._must(program, "list", program.naming.list)
        self._must(program, "look at names", program.naming.look_at_all)
        return found

    def read_copies(self, client: Any) -> tuple[dict[str, list[int]], dict[str, set[int]]]:
        """What tables and logs, and all copies of them, have."""
        fs = client.filesystem
        tables: dict[str, list[int]] = {name: [] for name in TABLES}
        records: dict[str, set[int]] = {name: set() for name in LOGS}
        for at, name in self._names_of_files(fs):
            file = name.partition(" ")[0]
            handle, _ = fs.open(at, 0, 1)
            data = fs.files.read(handle, 1 << 20, 0)
            fs.files.release(handle)
            try:
                if file in tables:
                    tables[file].append(contents.parse_table(data).tag)
                elif file in records:
                    records[file].update(contents.parse_log(data))
            except Torn as error:
                if file == name:
                    raise Violation(f"S3: in the end {name} is torn: {error}") from None
                if not self._is_told(name, handle.content.ino, error):
                    continue
                if file in tables:
                    tables[file] += contents.whole_header(data)
                else:
                    records[file].update(contents.whole_records(data))
        return tables, records

    def _is_told(self, name: str, ino: int, error: Torn) -> bool:
        """Is it known that a copy lacks something? One of what was closed must not lack it silently, unless it was made
        within the last second before a power cut (S10); a recovered one may be half written."""
        from servers import losses

        world = self._world
        lost = {row.path.rpartition(b"/")[2].decode() for row in world.servers.directory_disk.store.read(losses.told)}
        world.note("world", f"{name}: {error}, and {'told' if name in lost else 'not told'}")
        if name not in lost and " (conflict " in name and not world.may_lack(ino):
            raise Violation(f"S4: the copy {name} is torn, and nobody is told: {error}")
        if name in lost and not world.power_cuts:
            raise Violation(f"S15: the copy {name} lacks something that no power cut has taken: {error}")
        return name in lost

    def _names_of_files(self, fs: Any) -> list[tuple[Any, str]]:
        found: list[tuple[Any, str]] = []
        folders: list[tuple[str, ...]] = [(), ("lost+found",)]
        for folder in folders:
            try:
                entries = list(fs.list_folder(place(*folder)))
            except Exception:
                continue
            for entry in entries:
                if stat.S_ISREG(entry.attributes.mode):
                    found.append((place(*folder, entry.name.decode()), entry.name.decode()))
        self._world.note("world", f"files in the end: {[name for _, name in found]}")
        return found
