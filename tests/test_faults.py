"""Faults on the real thing (tests/faults): servers and mounted clients, each with a network of its own, under load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import sandbox
from support import ROOT, processes_of, wait_until

RUN_S = 900.0

ONE_WAY = """
import sys
from pathlib import Path
from faults.network import Network
from support import wait_until

network, folder = Network(["one", "other"]), Path(sys.argv[1])
network.connect()
LISTEN = "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 9)); " \\
    "print('ready', file=sys.stderr, flush=True); [print(s.recv(99).decode(), flush=True) for _ in iter(int, 1)]"
import subprocess
for name, host in network.hosts.items():
    process = subprocess.Popen(
        host.command(sys.executable, "-c", LISTEN), stdout=open(folder / name, "w"), stderr=subprocess.PIPE
    )
    assert process.stderr.readline() == b"ready\\n"

def send(sender, receiver, text):
    to = network.hosts[receiver].address
    network.hosts[sender].run("bash", "-c", f"printf {text} >/dev/udp/{to}/9")

def heard(name, *texts):
    wait_until(lambda: (folder / name).read_text().split() == list(texts), f"{name} hears {texts}", 10)

send("one", "other", "first"); send("other", "one", "first")
heard("one", "first"); heard("other", "first")
network.cut([("one", "other")])
send("one", "other", "lost"); send("other", "one", "second")
heard("one", "first", "second")
network.heal()
send("one", "other", "third")
heard("other", "first", "third")
print("as it should be")
"""


@pytest.fixture(autouse=True)
def _in_a_sandbox() -> None:
    if why := sandbox.why_not():
        pytest.skip(f"NOT RUN: {why}")


def inside(*command: object) -> subprocess.Popen:
    """A command in a sandbox, its output as text."""
    return subprocess.Popen(
        sandbox.command(*command), cwd=ROOT / "tests", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_link_is_cut_one_way_and_healed(tmp_path: Path):
    """Goal: the lab does what it says: what one host sends to another one is lost, what comes back is not, and when the
    link is healed it is whole."""
    process = inside(sys.executable, "-c", ONE_WAY, tmp_path)
    said, _ = process.communicate(timeout=60)
    assert said == "as it should be\n"


def test_a_sandbox_that_is_killed_leaves_nothing(tmp_path: Path):
    """Goal: however a run ends, what it has started ends with it, what is in the background too."""
    process = inside("sh", "-c", f"sleep 1000.{os.getpid()} & mount -t tmpfs tmpfs {tmp_path}; echo ready; wait")
    assert process.stdout.readline() == "ready\n"
    sleeps = lambda: processes_of(Path(f"sleep 1000.{os.getpid()}"))  # noqa: E731
    assert sleeps()
    process.kill()
    process.communicate()
    wait_until(lambda: not sleeps(), "what ran in the sandbox has ended")
    assert not os.path.ismount(tmp_path)


def test_a_connection_that_is_cut_ends():
    """Goal: when the network is cut the kernel of a client, and of a server that asks another, gives a connection up
    after 5 s, whether its request is not acknowledged or not answered; a new one is tried for 2 s."""
    process = inside(sys.executable, "-m", "faults.endings")
    said, _ = process.communicate(timeout=150)
    took_s = {who: float(seconds) for who, _, seconds in (line.rpartition(" ") for line in said.splitlines())}
    assert set(took_s) == {"client before", "client after", "server before", "server after"}, said
    assert 4 < min(took_s.values()) <= max(took_s.values()) < 20, said


def run(*arguments: str) -> None:
    """python -m faults, to a good end."""
    command = [sys.executable, "-m", "faults", *arguments]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


@pytest.mark.mounted
def test_a_dozen_faults_under_load():
    """Goal: S1 to S3 and S5 to S9. Servers are killed, stopped and cut off while programs work on two mounts: who
    should go on does, the others do when it is over, nobody sees what must not be, and all that was acknowledged is
    there for both clients, and for one that had nothing in its cache."""
    run()


@pytest.mark.mounted
def test_long_cuts():
    """Goal: S9. When links that were cut for half a minute are whole, whoever waits for an answer has it within 3 s,
    and servers have found each other: no connection stays silent because TCP tries again later and later."""
    run("--long")


@pytest.mark.mounted
def test_slow_links():
    """Goal: with round trips of 200 ms everything goes on, nobody is taken for dead, and no call ends with an error."""
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("NOT RUN: no interfaces that a program serves, as there is no /dev/net/tun")
    run("--slow")
