"""python -m faults [--faults N] [--seed N]: faults under load, and whether all that was acknowledged is there. Exit
status 0: it is; 1: it is not, or there can be no sandbox here."""

import argparse
import random
import secrets
import sys
import time

from . import checks, report, rounds, sandbox
from .faults import Fault, a_dozen, drawn
from .lab import CLIENTS, Lab, lab
from .running import LOADS, Running

FIRST_S = 60.0
CALM_S = 5.0


def main() -> int:
    arguments = _arguments()
    if not arguments.inside:
        if why := sandbox.why_not():
            sys.stderr.write(f"faults: {why}\n")
            return 1
        seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
        sandbox.enter("--faults", arguments.faults, "--seed", seed)
    tell(f"seed {arguments.seed}: to have the same faults again, --seed {arguments.seed}")
    faults = drawn(arguments.faults, random.Random(arguments.seed)) if arguments.faults else a_dozen()
    with lab() as here:
        try:
            _run(here, faults, arguments.seed)
        except AssertionError as error:
            tell(f"FAILED: {error}\n{_logs(here)}")
            return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Faults under load.")
    parser.add_argument("--faults", type=int, default=0, help="how many, drawn by the seed; 0: a dozen that are fixed")
    parser.add_argument("--seed", type=int, help="which ones in which order (random)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _run(lab: Lab, faults: list[Fault], seed: int) -> None:
    lab.network.connect()
    lab.start()
    folder = lab.folder / "journals"
    folder.mkdir()
    loads = [Running(name, folder, lab.clients[LOADS[name][1]].point, seed) for name in LOADS]
    try:
        rounds.go_on(loads, time.monotonic(), FIRST_S, "at the beginning")
        tell(f"no fault for {CALM_S:g} s: stood still {rounds.calm(loads, CALM_S):.1f} s")
        outcomes = []
        for number, fault in enumerate(faults, 1):
            outcomes.append(rounds.one(lab, loads, fault))
            tell(report.line(number, outcomes[-1]))
        for load in loads:
            load.end()
    finally:
        for load in loads:
            load.kill()
    tell(report.table(outcomes))
    _look(lab, loads)


def _look(lab: Lab, loads: list[Running]) -> None:
    """From both clients, and from one that has nothing in its cache."""
    rounds.wait_whole(lab, "at the end")
    lab.mount("m3")
    for name in (*CLIENTS, "m3"):
        looked = checks.check_client(lab.clients[name].point, loads)
        tell(f"{name} finds all that was acknowledged: {looked} files, rows and commits")
    tell(f"conflict copies: {len(checks.copies(lab.clients['m3'].point))}")
    tell(f"dfs check: {checks.check_volume(lab)}")
    for name in list(lab.clients):
        lab.unmount(name)


def _logs(lab: Lab) -> str:
    """The end of each log."""
    logs = {name: server.log for name, server in lab.servers.items()}
    logs |= {name: client.log for name, client in lab.clients.items()}
    return "\n".join(f"--- {name}\n" + "\n".join(log.splitlines()[-15:]) for name, log in logs.items())


if __name__ == "__main__":
    sys.exit(main())
