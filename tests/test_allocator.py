"""Memory that was freed is not kept: large blocks go back at once, whole pages between small ones when they are asked
for."""

import os

from support import python
from test_directory_large import resident_bytes

from dfsfuse import allocator

TABLES = """
import os, sys
from dfsfuse import allocator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

if sys.argv[1] == "apart":
    allocator.keep_large_blocks_apart()
table = b"x" * (16 << 20)
del table
before, tables, small = resident(), [], []
for _ in range(20):
    tables.append(b"x" * (4 << 20))
    small.append(b"x" * 2000)
del tables
print(resident() - before)
"""


def test_large_blocks_go_back_at_once() -> None:
    """Goal: tables between which small blocks were made leave nothing behind, also after a larger one was freed: by
    itself glibc would keep all of them."""
    process = python(TABLES, "apart")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert int(out) < 4 << 20


def test_pages_between_small_blocks_go_back() -> None:
    """Goal: what lies between blocks that stay is given back when it is asked for."""
    blocks = [os.urandom(100_000) for _ in range(1000)]
    kept = blocks[::20]
    before = resident_bytes()
    del blocks
    allocator.give_back()
    assert len(kept) == 50
    assert resident_bytes() < before - 50_000_000
