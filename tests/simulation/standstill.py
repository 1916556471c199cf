"""How long a close takes while the primary stands still, in simulated time: the product's own client and servers.

python -m simulation.standstill STANDS_S ROUND_TRIP_S writes a line of JSON for each run: `took_s`, from the open to the
end of the close, and `acted`, whether a replica took the upload in the primary's place. Run in tests/.
"""

import json
import logging
import os
import sys
from typing import Any, NamedTuple

from simulation import product, runner
from simulation.disasters import Profile
from simulation.network import Call
from simulation.programs import place
from simulation.world import World

RUNS = 12
_BEGINS_S = (0.0, 0.001, 0.002, 0.004)
"""When the standstill begins, counted from the open: before, while and after the chunk is under way."""


class Close(NamedTuple):
    took_s: float
    acted: bool


class Standstill(World):
    """A cluster and one client, to which nothing else happens. `round_trip_s` is the longest."""

    def __init__(self, seed: int, round_trip_s: float):
        super().__init__(seed)
        self.profile = Profile((), clients=1, programs=0, work_s=0.0, mix=([], []))
        self.clients = self.clients[:1]
        self.network.slow_s = round_trip_s / 2
        self._acting: list[str] = []

    def close(self, stands_s: float) -> Close:
        """A file is written while the primary stands still for so long."""
        self._start()
        (client,) = self.clients
        self._in_client(client, lambda: self._write(client), "the first close")
        self._listen()
        begins_s = _BEGINS_S[self.seed % len(_BEGINS_S)]
        primary, world = self.servers.lives["a"], self.loop.world
        self.loop.for_life(world, begins_s, lambda: primary.pause(self.now))
        self.loop.for_life(world, begins_s + stands_s, lambda: self.loop.resume(primary))
        took_s = self._in_client(client, lambda: self._write(client), "the close")
        return Close(took_s, bool(self._acting))

    def _write(self, client: Any) -> float:
        """How long it took."""
        began, files = self.now, client.filesystem.files
        handle, _ = client.filesystem.open(place("log"), os.O_WRONLY | os.O_TRUNC, 1)
        files.write(handle, repr(began).encode(), 0)
        files.flush(handle, False)
        took_s = self.now - began
        files.release(handle)
        return took_s

    def _listen(self) -> None:
        def heard(call: Call) -> None:
            if b"role=acting" in call.head:
                self._acting.append(call.host)

        self.network.on_begin = heard


def main(stands_s: float, round_trip_s: float) -> None:
    logging.disable(logging.CRITICAL)
    product.load()
    with runner.in_memory():
        for seed in range(RUNS):
            close = runner.result(*runner.in_fork(lambda seed=seed: Standstill(seed, round_trip_s).close(stands_s)))
            sys.stdout.write(json.dumps(Close(*close)._asdict()) + "\n")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
