"""The simulator can fail: each deliberate fault of tests/simulation/faults.py is found."""

import re

import pytest
from simulation import faults
from test_simulation import simulate

SEEDS_MAX = 1000


@pytest.mark.parametrize("fault", faults.ALL)
def test_a_fault_is_found(fault: str) -> None:
    """Goal: with this fault in the product, one of a thousand runs breaks a promise, and says which."""
    status, output = simulate("--seeds", str(SEEDS_MAX), "--fault", fault)
    assert status == 1, output
    assert re.search(r"^seed \d+: S\d+: ", output, flags=re.M), output
