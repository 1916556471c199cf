"""The embedded cluster: started once, joined, restarted, ended with its last user; with real servers."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest
from support import ROOT, alive, processes_of, wait_until

from dfsfuse import cluster as clusters
from dfsfuse import endpoints, errors, joining
from dfsfuse import home as homes
from servers import children, supervisor

NAMES = ["directory", "locks", "A", "B", "C"]


def running(home: Path) -> homes.RunningCluster:
    return wait_until(lambda: homes.read_cluster(home), "cluster.json is published")


def server(home: Path, name: str) -> homes.RunningServer:
    return next(found for found in running(home).servers if found.name == name)


def has_ended(home: Path) -> bool:
    return not clusters.is_running(home) and not any(map(alive, processes_of(home)))


# -- a cluster's life


def test_five_servers_start_each_in_a_folder_of_its_own(home, cluster):
    """Goal: a first start makes the home, the token and five servers, and reports each of them up."""
    published = running(home)
    assert [found.name for found in published.servers] == NAMES
    assert all(alive(found.pid) and (home / found.name / "server.log").exists() for found in published.servers)
    assert len({found.url for found in published.servers}) == len(NAMES)
    status = endpoints.ask_status(cluster.url, cluster.token)
    assert status.cluster.locks.up
    assert cluster.volume == status.cluster.volume != ""


def test_state_is_readable_by_its_owner_alone(home, cluster):
    """Goal: no other user reads the token or anything else; the token is in no command line."""
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
    assert len(bytes.fromhex(cluster.token)) == 32
    assert not any(cluster.token in command for command in processes_of(home).values())


def test_cluster_ends_with_its_last_user_and_starts_again_as_it_was(home):
    """Goal: two users share one cluster; it goes on while one is left, ends after the last, and keeps its data,
    token and addresses."""
    first, second = clusters.find_or_start(home), clusters.find_or_start(home)
    before = running(home)
    assert (second.url, second.token) == (first.url, first.token)
    first.close()
    assert endpoints.ask_status(second.url, second.token).cluster.volume == first.volume
    second.close()
    wait_until(lambda: has_ended(home), "the cluster ends")
    assert not (home / homes.CLUSTER).exists()
    with clusters.find_or_start(home) as third:
        assert (third.url, third.token, third.volume) == (first.url, first.token, first.volume)
        assert [found.url for found in running(home).servers] == [found.url for found in before.servers]


def test_killed_server_returns_on_its_port(home, cluster):
    """Goal: SIGKILL to a server of each kind; the supervisor starts it again under the same address."""
    for name in ("A", "locks", "directory"):
        before = server(home, name)
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda b=before, n=name: server(home, n).pid not in (0, b.pid), f"{name} is started again")
        assert server(home, name).url == before.url
        assert server(home, name).deaths == 1
    with clusters.find_or_start(home) as again:
        assert again.url == cluster.url


def test_servers_do_not_outlive_a_killed_supervisor(home, cluster):
    """Goal: SIGKILL to the supervisor ends its servers, and the next who looks for the cluster starts another."""
    before = running(home)
    os.kill(before.supervisor_pid, signal.SIGKILL)
    wait_until(lambda: not any(alive(found.pid) for found in before.servers), "its servers end")
    refound = clusters.refinder(home)()
    assert refound == running(home).directory == cluster.url
    assert running(home).supervisor_pid != before.supervisor_pid
    with clusters.find_or_start(home) as again:
        assert (again.url, again.token, again.volume) == (cluster.url, cluster.token, cluster.volume)


def test_sigterm_ends_the_cluster_cleanly_although_it_is_used(home, cluster):
    """Goal: a clean end on request: cluster.json goes, every server ends by itself, and a user can have it back."""
    before = running(home)
    os.kill(before.supervisor_pid, signal.SIGTERM)
    wait_until(lambda: has_ended(home), "the cluster ends")
    assert not (home / homes.CLUSTER).exists()
    assert "ended by signal" not in (home / homes.SUPERVISOR_LOG).read_text()
    assert clusters.refinder(home)() == cluster.url


def test_five_at_once_start_one_supervisor(home):
    """Goal: never two supervisors, however many look for the cluster at the same moment."""
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: clusters.find_or_start(home), range(5)))
    assert len({endpoint.url for endpoint in found}) == 1
    assert (home / homes.SUPERVISOR_LOG).read_text().count("runs the cluster") == 1
    for endpoint in found:
        endpoint.close()


def test_who_comes_while_the_cluster_ends_gets_the_next_one(home):
    """Goal: the hand-over. A user who arrives between the decision to end and the end has a living cluster."""
    for _ in range(3):
        clusters.find_or_start(home).close()
        former = running(home).supervisor_pid
        wait_until(lambda: not (home / homes.CLUSTER).exists(), "the supervisor has decided to end")
        with clusters.find_or_start(home) as endpoint:
            now = running(home)
            assert now.supervisor_pid != former
            assert alive(now.supervisor_pid)
            assert not alive(former)
            assert endpoints.ask_status(endpoint.url, endpoint.token).cluster.locks.up


def test_a_second_supervisor_by_hand_is_refused(home, cluster):
    """Goal: `servers all` on a running home says so and changes nothing."""
    outcome = run_servers("all", "--home", home)
    assert outcome.returncode == 1
    assert f"a cluster already runs in {home}" in outcome.stderr
    assert endpoints.ask_status(cluster.url, cluster.token)


def test_who_looks_for_the_cluster_at_the_same_time_waits_as_long_as_one(home, monkeypatch):
    """Goal: S13. While a supervisor does not come up, the threads of a client do not wait one after the other; who
    comes later looks anew."""
    homes.prepare(home)
    monkeypatch.setattr(clusters, "START_S", 1.0)
    supervisor_lock = homes.open_lock(home / homes.SUPERVISOR_LOCK)
    assert homes.try_lock(supervisor_lock, exclusive=True)
    refind = clusters.refinder(home)

    def look() -> float:
        started = time.monotonic()
        with pytest.raises(errors.TimedOut, match="does not start"):
            refind()
        return time.monotonic() - started

    with ThreadPoolExecutor(8) as pool:
        took_s = [looking.result() for looking in [pool.submit(look) for _ in range(8)]]
    assert max(took_s) < 3 * clusters.START_S
    assert look() >= clusters.START_S
    os.close(supervisor_lock)


def test_start_keeping_and_stop(home):
    """Goal: `dfs cluster start` outlives its users until `dfs cluster stop`, which does not take it from a user."""
    kept = clusters.start_keeping(home)
    with clusters.find_or_start(home) as endpoint:
        assert endpoint.url == kept.url
        assert clusters.stop(home) is False
    wait_until(lambda: has_ended(home), "the cluster ends with its last user")
    assert clusters.stop(home) is True


# -- the supervisor's decisions, without servers


def idle(home: Path) -> supervisor.Supervisor:
    """A supervisor that has been without users for long."""
    home.mkdir(exist_ok=True)
    made = supervisor.Supervisor(home, "info")
    made.is_unused(0.0)
    return made


def test_supervisor_ends_after_a_second_without_users(home):
    """Goal: it looks, waits, and holds users.lock from its decision on; a user in between starts the second anew."""
    watched = idle(home)
    assert not watched.is_unused(supervisor.IDLE_S - 0.1)
    user = homes.open_lock(home / homes.USERS_LOCK)
    assert homes.try_lock(user, exclusive=False)
    assert not watched.is_unused(supervisor.IDLE_S + 1)
    os.close(user)
    assert not watched.is_unused(supervisor.IDLE_S + 2)
    assert watched.is_unused(2 * supervisor.IDLE_S + 2)
    late = homes.open_lock(home / homes.USERS_LOCK)
    assert not homes.try_lock(late, exclusive=False)
    os.close(late)


def test_supervisor_goes_on_while_it_is_kept(home):
    """Goal: home/keep stands for a user."""
    watched = idle(home)
    (home / homes.KEEP).touch()
    assert not watched.is_unused(1000.0)
    (home / homes.KEEP).unlink()
    assert not watched.is_unused(2000.0)
    assert watched.is_unused(2000.0 + supervisor.IDLE_S)


def test_token_is_made_once(home):
    """Goal: a later start leaves the token as it is."""
    idle(home)
    token = homes.read_token(home)
    idle(home)
    assert homes.read_token(home) == token
    assert not list(home.glob("token.*"))


def test_full_disk_does_not_end_the_cluster(monkeypatch, home):
    """Goal: cluster.json that cannot be written is written later, and what stood there stays whole."""
    watched = idle(home)
    watched._publish()
    before = running(home)
    watched._unpublished = True
    watched._children[1].trouble = "changed"
    with monkeypatch.context() as full:
        full.setattr(supervisor.json, "dump", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        watched._publish()
    assert running(home) == before
    watched._publish()
    assert server(home, "locks").trouble == "changed"


def test_pause_grows_and_health_resets_it():
    """Goal: 0.1 s doubling to 5 s, and 0.1 s again after 10 s of health."""
    pause = children.Pause()
    assert [pause.after_death(1.0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pause.after_death(children.HEALTHY_S) == 0.1


def test_taken_port_is_waited_for_and_then_given_up(folder, monkeypatch):
    """Goal: a port that a server still holds is waited for; one that another program keeps is replaced."""
    started = []
    monkeypatch.setattr(children.Child, "_start", lambda self, now, url: started.append(self.port))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        child = children.Child("files", "A", folder / "A", folder / "token", port, "info")
        assert not child.tick(0.0, "")
        assert not child.tick(children.PORT_WAIT_S - 0.1, "")
        assert child.tick(children.PORT_WAIT_S + 0.1, "")
    assert started == [child.port]
    assert child.port != port


# -- what goes wrong


def test_server_that_keeps_dying_is_named_with_its_last_words(home):
    """Goal: who waits for a cluster that cannot start learns which server fails, and why, before the time-out."""
    (home / "directory" / "directory.db").mkdir(parents=True)
    with pytest.raises(errors.Unreachable, match=r"server directory keeps dying, last with: .*open.*server\.log"):
        clusters.find_or_start(home, 30)
    wait_until(lambda: has_ended(home), "nothing is left")


def test_server_that_cannot_even_be_started_is_named(home):
    """Goal: a folder that cannot be made does not end the supervisor; the one who waits is told."""
    home.mkdir()
    (home / "locks").write_text("in the way")
    with pytest.raises(errors.Unreachable, match=r"server locks keeps dying, last with: cannot be started"):
        clusters.find_or_start(home, 30)


def test_home_that_cannot_be_written(folder):
    """Goal: the error names the home and what to do."""
    (folder / "file").write_text("")
    with pytest.raises(errors.NotPermitted, match=r"file/home cannot be written: Not a directory; choose another"):
        clusters.find_or_start(folder / "file" / "home")


def test_join_tells_what_is_wrong(cluster):
    """Goal: nobody there, a wrong token, and something else that answers are three different errors."""
    with pytest.raises(errors.Unauthorized, match="refuses the token"):
        joining.join(cluster.url, "0" * 64)
    with pytest.raises(errors.Unreachable, match="Connection refused"):
        joining.join(f"127.0.0.1:{children.free_port(set())}", cluster.token)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        Thread(target=other.handle_request).start()
        with pytest.raises(errors.Unreachable, match="not a dfsfuse directory"):
            joining.join(f"http://127.0.0.1:{other.server_port}", cluster.token)
    assert joining.join(f"{cluster.url}/", cluster.token).volume == cluster.volume


def test_token_comes_from_the_environment_or_the_home(home, monkeypatch):
    """Goal: $DFS_TOKEN first, then the home; without both, the error says what to set."""
    monkeypatch.delenv("DFS_TOKEN", raising=False)
    with pytest.raises(errors.NotFound, match=r"set \$DFS_TOKEN"):
        joining.token_for(home)
    home.mkdir()
    (home / homes.TOKEN).write_text("of-the-home\n")
    assert joining.token_for(home) == "of-the-home"
    monkeypatch.setenv("DFS_TOKEN", "of-the-environment")
    assert joining.token_for(home) == "of-the-environment"


# -- python -m servers


def run_servers(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "servers", *map(str, arguments)]
    without = {name: value for name, value in os.environ.items() if not name.startswith("DFS_")}
    return subprocess.run(
        command, cwd=ROOT, env={**without, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("kind", ["directory", "locks", "files", "all"])
def test_each_server_explains_itself(kind):
    """Goal: --help names the options, and needs neither a home nor a token."""
    outcome = run_servers(kind, "--help")
    assert outcome.returncode == 0
    assert "--home DIR" in outcome.stdout


def test_servers_refuse_misuse(folder):
    """Goal: exit status 2 for misuse, 1 with one line for a start that fails."""
    assert run_servers().returncode == 2
    assert run_servers("files", "--home", folder, "--port", 1).returncode == 2
    outcome = run_servers("directory", "--home", folder / "directory", "--port", 1)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1)
    assert "no token: give --token-file FILE or set $DFS_TOKEN" in outcome.stderr


def test_server_ends_with_its_parent_and_by_sigterm(folder):
    """Goal: the end of standard input ends a server cleanly, and so does SIGTERM, with exit status 0."""
    for end in ("stdin", "SIGTERM"):
        port = children.free_port(set())
        command = [sys.executable, "-m", "servers", "directory", "--home", str(folder / end), "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--exit-with-parent"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DFS_TOKEN": "t"},
        )
        wait_until(lambda p=port: not children.is_free(p), "the server listens")
        if end == "stdin":
            process.stdin.close()
        else:
            process.terminate()
        assert process.wait(20) == 0
        process.stdin.close()
