"""The simulator: whole clusters in one process, in which everything that can fail does, and time is a number.

    real         the client from FileSystem down to the bytes of a request: its threads, locks, cache and index (on a
                 folder in memory), session, lock table, commits, recovery. The servers' `run`: the directory's, the
                 lock service's and the file servers' cores and services, replication, registration, HTTP's routing,
                 encoding and errors
    stands for   something: sockets and connections (network.py, transport.py), clocks, threads and randomness
                 (loop.py, threads.py, product.py), the directory's disk, a file server's packs and files (disks.py).
                 Entries, blocks and segments of manifests are small, so that small files have several
    not there    drivers and the kernel, byte-range and flock locks, the supervisor, SQLite on the servers

    product.py     imports the product with the stand-ins, changing nothing of it
    hosts.py       starts, kills and cuts the power of servers and clients
    world.py       one run: from a seed to a verdict        disasters.py   what goes wrong in it
    ending.py      what clients do in its end               pages.py       memory in large pages
    programs.py    what programs on the clients do          contents.py    what they write
    naming.py      and with names that they share           orders.py      is there an order that explains the answers?
    history.py     what they saw, and the promises          name_history.py  what they were answered of names
    faults.py      deliberate faults                        taps.py        what is watched inside the product
    runner.py      many seeds, each in a fork of its own

`make simulate SEEDS=100000`, `make simulate SEED=17`; docs/ARCHITECTURE.md, "The simulator".
"""
