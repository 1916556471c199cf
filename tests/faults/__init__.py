"""Faults on the real thing: `make faults FAULTS=100 SEED=1`, and a dozen of them in tests/test_faults.py.

Each server and each client has a network namespace of its own. Two clients are mounted and under load (loads.py) while
one fault after another comes and goes (faults.py); then what was acknowledged is read back, also by a client that has
nothing in its cache (checks.py).

    sandbox.py    what keeps all of this from the machine's own processes, mounts and networks
    network.py    hosts, cut and healed links
    wires.py      links that are slow
    lab.py        servers and clients on these hosts
    loads.py      programs that work on the mounts; journal.py: what they write down of it
    faults.py     what is done, how it is undone
    running.py    the loads as processes: whether they go on
    rounds.py     one fault after another: how long everybody stood still
    checks.py     what must be true at the end
    report.py     what was measured, for people
    run.py        all of it in its order

A seed decides which faults come in which order, and what the loads do; not how they meet in time.
"""
