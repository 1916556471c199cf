"""Random calls on one file of a mount, and the same on a bytearray: through pages, mappings and descriptors at once.

What other suites call fsx: each kind of access goes another way through the kernel, and all of them have to agree after
every step. A failure names its seed, and the steps that led to it.
"""

from pathlib import Path

import pytest
from random_file import RandomFile, walk

pytestmark = pytest.mark.mounted


@pytest.mark.parametrize("seed", range(1, 4))
def test_all_ways_to_a_file_agree(two_mounts: tuple[Path, Path], seed: int):
    """Goal: after any sequence of writes, stores through mappings, cuts, holes, allocations and copies, through two
    descriptors and by path, everything reads as the model; the other mount has it after each fsync and close."""
    walk(RandomFile(*two_mounts, seed))
