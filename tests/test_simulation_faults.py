"""The simulator can fail: each deliberate fault of tests/simulation/faults.py is found, for what it breaks."""

import re

import pytest
from simulation import faults
from test_simulation import simulate

SEEDS_MAX = 1000


@pytest.mark.parametrize("fault", faults.ALL)
def test_a_fault_is_found(fault: str) -> None:
    """Goal: with this fault in the product, one of a thousand runs breaks a promise that the fault can break; without
    it, the same run keeps all."""
    disaster = "--disaster", faults.ALL[fault].disaster
    status, output = simulate("--seeds", str(SEEDS_MAX), "--fault", fault, *disaster)
    assert status == 1, output
    seed, promise = re.search(r"^seed (\d+): (\w+): ", output, flags=re.M).groups()
    assert promise in faults.ALL[fault].promises, output
    status, output = simulate("--seed", seed, *disaster)
    assert status == 0, output
