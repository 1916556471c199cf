"""python -m simulation: run seeds, or replay one with its trace.

    --seeds N [--first M]   N seeds from M on; ends at the first that breaks a promise, with its trace
    --seed N                one seed, with its whole trace
    --disaster KIND         each run has this kind (disasters.py)
    --fault NAME            with a deliberate fault (faults.py), to see whether it is found
    --each                  a line for each seed; two runs in which anything happened differently differ in it
    --row N                 so many seeds one after the other in each process

Run in tests/. Exit status 1 if a promise was broken.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from simulation import disasters, faults, runner
from simulation.runner import Outcome, Twist

TRACE_LINES = 60


def main() -> int:
    arguments = _arguments()
    twist = Twist(arguments.fault, arguments.disaster)
    if arguments.seed is not None:
        return _replay(arguments.seed, twist, None)
    return _run(arguments, twist)


def _run(arguments: argparse.Namespace, twist: Twist) -> int:
    began, ended, failed = time.monotonic(), [], 0
    for outcome in runner.outcomes(arguments.first, arguments.seeds, twist, arguments.jobs, arguments.row):
        ended.append(outcome)
        if arguments.each:
            print(f"seed {outcome.seed}: {outcome.operations} operations; {outcome.digest}")
        if outcome.violation:
            failed += 1
            print(f"seed {outcome.seed} breaks a promise; {len(ended)} seeds were run", flush=True)
            if not arguments.go_on:
                return _replay(outcome.seed, twist, TRACE_LINES)
            print(f"    {outcome.violation.splitlines()[0][:300]}", flush=True)
        if len(ended) % 1000 == 0:
            print(f"{len(ended)} seeds, {time.monotonic() - began:.0f} s", flush=True)
    _sum_up(ended, time.monotonic() - began)
    return 1 if failed else 0


def _sum_up(ended: list[Outcome], seconds: float) -> None:
    count = max(1, len(ended))
    print(
        f"{len(ended)} seeds in {seconds:.0f} s; each {1000 * sum(o.cpu_s for o in ended) / count:.0f} ms of processor "
        f"time, {sum(o.operations for o in ended) / count:.0f} operations in "
        f"{sum(o.simulated_s for o in ended) / count:.0f} simulated seconds; in {sum(o.given_up for o in ended)} the "
        "order of names was too long a search"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first (0)")
    parser.add_argument("--seed", type=int, help="replay this one, with its trace")
    parser.add_argument("--fault", default="", choices=["", *faults.ALL], metavar="NAME", help="a deliberate fault")
    parser.add_argument("--disaster", default="", choices=["", *disasters.KINDS], metavar="KIND", help="in each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one for each core)")
    parser.add_argument("--go-on", action="store_true", help="do not end at the first seed that fails")
    parser.add_argument("--each", action="store_true", help="a line for each seed")
    parser.add_argument("--row", type=int, default=runner.SEEDS_IN_A_ROW, help="seeds of a process")
    return parser.parse_args()


def _replay(seed: int, twist: Twist, last: int | None) -> int:
    outcome, trace = runner.traced(seed, twist)
    if last is not None and len(trace) > last:
        print(f"... the last {last} of {len(trace)} lines; the whole trace: make simulate SEED={seed}")
    print("\n".join(trace[-last if last else 0 :]))
    return _tell(outcome)


def _tell(outcome: Outcome) -> int:
    print(f"digest {outcome.digest}")
    print(f"seed {outcome.seed}: {outcome.violation or 'all promises were kept'}")
    return 1 if outcome.violation else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets would differ from one run to the next. The product is the one beside these tests.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        os.execve(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]], environment)
    sys.exit(main())
