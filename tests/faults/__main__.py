"""python -m faults: faults under load, and whether all that was acknowledged is there. Exit status 0: it is; 1: it is
not, or there can be no sandbox here."""

import argparse
import random
import secrets
import sys
from pathlib import Path

from . import run, sandbox
from .faults import Fault, a_dozen, drawn, everything
from .lab import lab


def main() -> int:
    given = sys.argv[1:]
    arguments = _parser().parse_args(given)
    if arguments.seed is None:
        arguments.seed = secrets.randbelow(1 << 32)
        given += ["--seed", str(arguments.seed)]
    if not arguments.inside:
        if why := sandbox.why_not():
            sys.stderr.write(f"faults: {why}\n")
            return 1
        sandbox.enter(*given)
    run.tell(f"seed {arguments.seed}: to have the same once more, --seed {arguments.seed}")
    with lab() as here:
        try:
            if arguments.slow:
                run.over_slow_links(here, arguments.seed)
            elif arguments.long:
                run.over_long_cuts(here, arguments.seed)
            else:
                run.under_faults(here, _faults(arguments), arguments.seed)
        except AssertionError as error:
            run.tell(f"FAILED: {error}\n{run.ends_of_logs(here)}")
            return 1
        finally:
            if arguments.logs:
                here.copy_logs(arguments.logs)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Faults under load.")
    add = parser.add_argument
    add("--faults", type=int, default=0, help="how many, drawn by the seed; without it: a dozen that are fixed")
    add("--seed", type=int, help="which ones in which order (random)")
    add("--only", default="", help="those alone whose name has this in it, such as 'kill A'")
    add("--slow", action="store_true", help="no faults, but slow links")
    add("--long", action="store_true", help="only cuts of half a minute, after which everybody goes on within seconds")
    add("--logs", type=Path, metavar="DIR", help="where all logs and journals go at the end")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _faults(arguments: argparse.Namespace) -> list[Fault]:
    if not arguments.faults and not arguments.only:
        return a_dozen()
    found = [fault for fault in everything() if arguments.only in fault.name]
    return drawn(found, arguments.faults or len(found), random.Random(arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
