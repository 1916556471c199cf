"""python -m faults.takeovers [CASE ...], in a sandbox: the machine whose directory serves is cut off in several ways,
and dies, while programs work on two mounts. A line for each tells how long it took until others went on."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from support import wait_until
from writers import Adder, Held, Writer, assert_one_at_a_time

from .machines import CLIENTS, TIMEOUT_S, Machine, Machines, machines
from .network import both_ways

TAKEN_OVER_S = 5.0
ELECTED_S = 2.5
"""Where etcd elects a leader first: the former one may go on for 1 s, an election takes up to 1 s, and the new leader
gives each lease its time anew, and 0.5 s."""
LOADED_S = 5.0
"""What is added where the machine has more to do than it can."""
WHOLE_S, STAYS_S = 20.0, 3.5
IMPATIENT_S, LATE_S = 2.5, 3.0

Harm = Callable[[Machines, Machine], None]


@dataclass(frozen=True)
class Case:
    """`leads`: etcd's leader is on the machine that is harmed. `serves`: its directory does."""

    name: str
    do: Harm
    undo: Harm
    leads: bool = True
    serves: bool = True


def cut(name: str, links: Callable[[str, list[str]], Iterable[tuple[str, str]]], **more: bool) -> Case:
    def do(here: Machines, machine: Machine) -> None:
        here.network.cut(links(machine.name, [other.name for other in here.others(machine)]))

    return Case(name, do, lambda here, _: here.network.heal(), **more)


def _from_all(one: str, others: list[str]) -> list[tuple[str, str]]:
    return both_ways(one, [*others, *CLIENTS])


CASES = [
    cut("cut from all", _from_all, leads=False),
    cut("it hears nobody", lambda one, others: [(other, one) for other in (*others, *CLIENTS)]),
    cut("cut from the other machines", both_ways),
    Case("killed", Machines.kill, Machines.start),
    cut("a machine whose directory stands by is cut from all", _from_all, serves=False),
]


class Load:
    """What programs do on the two mounts."""

    def __init__(self, here: Machines):
        self._first, self._second = (here.clients[name].point for name in CLIENTS)
        folder = self._first / "files"
        folder.mkdir()
        (self._first / "number").write_bytes(b"0")
        self.writer = Writer(folder)
        self.adders = [Adder(point / "number") for point in (self._first, self._second)]
        self._held = 0

    def hold(self) -> Held:
        self._held += 1
        name = f"held-{self._held}"
        return Held(self._first / name, self._second / name)

    def go_on(self) -> None:
        self.writer.wait_for(5)
        for adder in self.adders:
            adder.wait_for(2)

    def end(self) -> str:
        """How much there was. AssertionError: something that was acknowledged is not there."""
        programs = (self.writer, *self.adders)
        for program in programs:
            program.end()
        longest_s = max(program.longest_s for program in programs)
        assert longest_s < TIMEOUT_S, f"a step took {longest_s:.1f} s"
        assert_one_at_a_time(self.adders)
        added = sum(adder.count for adder in self.adders)
        for point in (self._first, self._second):
            found = {file.name: file.read_bytes() for file in (point / "files").iterdir()}
            assert found == self.writer.written
            assert int((point / "number").read_bytes()) == added
        return f"{self.writer.count} files written and {added} times added, in {longest_s:.1f} s at most"


def run(here: Machines, load: Load, case: Case) -> None:
    serving = wait_until(lambda: here.serving(here.all), "a directory serves")
    machine = serving if case.serves else here.others(serving)[0]
    here.lead(machine if case.leads else here.others(machine)[0])
    held = load.hold()
    load.go_on()
    began = time.monotonic()
    case.do(here, machine)
    told = take_over(here, machine, case) if case.serves else stay(serving)
    load.go_on()
    told += f"; programs go on after {time.monotonic() - began:.1f} s"
    held.check()
    case.undo(here, machine)
    healed = time.monotonic()
    here.wait_whole(WHOLE_S)
    told += f"; all is whole {time.monotonic() - healed:.1f} s after the end"
    say(f"{case.name}: {told}; a lock goes over in {held.close():.1f} s")


def take_over(here: Machines, machine: Machine, case: Case) -> str:
    """Of the one that served nobody has an answer once another one serves."""
    began = time.monotonic()
    others = here.others(machine)
    wait_until(lambda: here.serving(others), "another one serves", 30)
    took_s = time.monotonic() - began
    assert not machine.directory.answers, "two directories answer"
    loaded = os.getloadavg()[0] > os.cpu_count()
    most_s = TAKEN_OVER_S + ELECTED_S * case.leads + LOADED_S * loaded
    assert took_s < most_s, f"{case.name}: another one serves after {took_s:.1f} s, not within {most_s:g} s"
    return f"another directory serves after {took_s:.1f} s"


def stay(machine: Machine) -> str:
    """Its directory serves all the time."""
    until = time.monotonic() + STAYS_S
    while time.monotonic() < until:
        assert machine.directory.serves, "the one that served has gone, for another machine"
    return "the same directory serves on"


def give_up(here: Machines) -> None:
    """Calls of a client that nobody hears, and that knows three directories, end with its time-out."""
    name = "m3"
    client = here.mount(name, IMPATIENT_S)
    (client.point / "there").write_bytes(b"x")
    here.network.cut(both_ways(name, [machine.name for machine in here.all]))
    began = time.monotonic()
    try:
        (client.point / "not there").write_bytes(b"x")
    except OSError as error:
        took_s = time.monotonic() - began
        say(f"a client that is cut off from all: {error.strerror} after {took_s:.1f} s")
        assert took_s < IMPATIENT_S + LATE_S
    else:
        raise AssertionError("nobody has heard that write")
    here.network.heal()
    wait_until(lambda: (client.point / "there").read_bytes() == b"x", "it goes on", 10)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(names: list[str]) -> None:
    with machines() as here:
        try:
            load = Load(here)
            for case in CASES:
                if not names or case.name in names:
                    run(here, load, case)
            say(load.end())
            give_up(here)
        except BaseException:
            say(here.ends_of_logs())
            raise


if __name__ == "__main__":
    main(sys.argv[1:])
