"""Namespaces of processes, mounts and networks, in which a run happens: nothing of it is left, however it ends.

The first process in the sandbox is its init. When it dies the kernel kills all others; with them go their mounts and
networks. It dies with the process that made the sandbox.
"""

import os
import subprocess
import sys

_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_not() -> str:
    """Why there can be no sandbox with hosts on this machine, in one line; nothing: there can be."""
    if os.geteuid() != 0:
        return "namespaces need root"
    attempt = "ip link add name br0 type bridge && ip link add name v0 type veth peer name v1"
    done = subprocess.run(command("sh", "-c", attempt), capture_output=True, text=True, check=False)
    return f"the kernel has no namespaces, bridge or veth: {done.stderr.strip()}" if done.returncode else ""


def command(*inside: object) -> list[str]:
    """The same command, in a sandbox."""
    return [*_UNSHARE, *map(str, inside)]


def enter(*arguments: object) -> None:
    """This process becomes one that waits for `python -m faults` with these arguments, in the sandbox."""
    entered = command(sys.executable, "-m", "faults", "--inside", *arguments)
    os.execvp(entered[0], entered)
