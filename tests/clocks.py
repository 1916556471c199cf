"""Wall clocks of single processes for tests: each may be set forward or back while it runs, without the machine's.

What Python tells of CLOCK_REALTIME is shifted in every process that inherits `Clocks.environment`; CLOCK_MONOTONIC and
CLOCK_BOOTTIME go on, as they do on a machine whose clock is set.
"""

import os
from pathlib import Path

from support import wait_until

_SITE = '''
"""Found by Python at its start, as its folder is on PYTHONPATH."""
import os, sys, time

_here, _me = os.path.dirname(__file__), " ".join(sys.orig_argv) + " "
_now_ns, _since, _gettime, _gettime_ns = time.time_ns, time.monotonic, time.clock_gettime, time.clock_gettime_ns
_shift_s, _looked_s = 0, 0.0

def _shift():
    global _shift_s, _looked_s
    if _since() - _looked_s > 0.02:
        _looked_s, former, _shift_s = _since(), _shift_s, 0
        with open(os.path.join(_here, "shifts")) as file:
            for line in file:
                seconds, who = line.rstrip("\\n").split(" ", 1)
                if who in _me:
                    _shift_s = int(seconds)
        if _shift_s != former:
            with open(os.path.join(_here, "shifted"), "a") as file:
                file.write("%d %d\\n" % (os.getpid(), _shift_s))
    return _shift_s

def time_ns(): return _now_ns() + _shift() * 10**9
def time_s(): return time_ns() / 1e9
def clock_gettime(clock): return time_s() if clock == time.CLOCK_REALTIME else _gettime(clock)
def clock_gettime_ns(clock): return time_ns() if clock == time.CLOCK_REALTIME else _gettime_ns(clock)

class Broken:
    "localtime and gmtime: no function, as that would become a method where logging keeps it in a class."
    def __init__(self, real): self.real = real
    def __call__(self, seconds=None): return self.real(time_s() if seconds is None else seconds)

time.time_ns, time.time, time.clock_gettime, time.clock_gettime_ns = time_ns, time_s, clock_gettime, clock_gettime_ns
time.localtime, time.gmtime = Broken(time.localtime), Broken(time.gmtime)

# A process that asks nobody for the time is to notice too.
import threading
threading.Thread(target=lambda: [(_shift(), time.sleep(0.05)) for _ in iter(int, 1)], daemon=True).start()
'''


class Clocks:
    """All are right at first."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITE)
        (folder / "shifts").touch()
        (folder / "shifted").touch()
        self.environment = {"PYTHONPATH": str(folder)}

    def set(self, who: str, seconds: int, *pids: int) -> None:
        """From now on the clocks of processes with `who` in their command lines are wrong by so much; returns when
        these processes have noticed, which they write down themselves."""
        (self.folder / "new").write_text(f"{seconds} {who}\n")
        os.replace(self.folder / "new", self.folder / "shifts")
        wanted = {f"{pid} {seconds}" for pid in pids}
        wait_until(lambda: wanted <= set((self.folder / "shifted").read_text().split("\n")), "the clocks are set")
