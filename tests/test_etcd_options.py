"""Where etcd is and how it is spoken to: addresses, users, TLS."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from etcd_servers import etcd_servers

from dfsfuse import errors
from dfsfuse.etcd_address import PASSWORD, EtcdAddress, parse
from servers.etcd.client import EtcdClient
from servers.etcd.messages import Change, Put


@pytest.mark.parametrize(
    ("text", "endpoints", "prefix"),
    [
        ("etcd://a:1", ["http://a:1"], b"/dfsfuse/"),
        ("etcd://a,b:7,[::1]:9", ["http://a:2379", "http://b:7", "http://[::1]:9"], b"/dfsfuse/"),
        ("etcd://a:1?prefix=x", ["http://a:1"], b"/x/"),
        ("etcd://a:1/?prefix=/x/y/", ["http://a:1"], b"/x/y/"),
        ("etcds://a:1?ca=/ca.pem&prefix=/", ["https://a:1"], b"/"),
    ],
)
def test_addresses(text: str, endpoints: list[str], prefix: bytes) -> None:
    """Goal: what --store takes: one member or several, with ports or without, and below which prefix."""
    address = parse(text)
    assert (address.endpoints, address.prefix) == (endpoints, prefix)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://a:1", "an etcd cluster is given as"),
        ("etcd://", "HOST:PORT"),
        ("etcd://a:b", "HOST:PORT"),
        ("etcd://a:1,", "HOST:PORT"),
        ("etcd://me:secret@a:1", PASSWORD),
        ("etcd://a:1?user=me", PASSWORD),
        ("etcd://a:1?user=me&password-file=/not/there", "/not/there"),
        ("etcd://a:1?colour=red", "colour"),
        ("etcd://a:1?ca=/ca.pem", "etcds://"),
        ("etcds://a:1?cert=/me.pem", "key="),
    ],
)
def test_wrong_addresses(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is wrong is told, and what to do; a password is never taken from where all can see it."""
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(errors.BadRequest) as raised:
        parse(text)
    assert told in str(raised.value)


def put(client: EtcdClient, key: bytes) -> None:
    client.transact([], [Change(request_put=Put(key, b"value"))])


def test_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: with the password of a user, from a file or the environment, everything works, also when the token that
    etcd gave has run out; without it nothing does, and the error has etcd's words."""
    with etcd_servers(1, "--auth-token-ttl", "2") as etcd:
        (url,) = (member.url for member in etcd.members)
        with requests.Session() as session:
            for operation, body in (
                ("user/add", {"name": "root", "password": "secret"}),
                ("user/grant", {"user": "root", "role": "root"}),
                ("enable", {}),
            ):
                session.post(f"{url}/v3/auth/{operation}", data=json.dumps(body)).raise_for_status()
        at = "etcd://" + url.removeprefix("http://")
        stranger = EtcdClient(parse(at))
        with pytest.raises(errors.ServerError, match="user name is empty"):
            put(stranger, b"key")
        (tmp_path / "password").write_text("secret\n")
        for query in ("user=root", f"user=root&password-file={tmp_path / 'password'}"):
            monkeypatch.setenv(PASSWORD, "secret")
            user = EtcdClient(parse(f"{at}?{query}"))
            put(user, b"key")
            user._token = "run.out"
            assert user.get(b"key").value == b"value"
            user.close()
        monkeypatch.setenv(PASSWORD, "wrong")
        wrong = EtcdClient(parse(f"{at}?user=root"))
        with pytest.raises(errors.ServerError, match="authentication failed"):
            put(wrong, b"key")
        wrong.close()
        stranger.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Iterator[Path]:
    """ca.pem signs server.pem (of 127.0.0.1) and client.pem, with their keys."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], cwd=tmp_path, check=True, capture_output=True)

    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl("req", "-x509", *made, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test-ca")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        signed = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl(*signed, "-days", "2", "-extfile", "names", "-out", f"{name}.pem")
    return tmp_path


def test_tls(certificates: Path) -> None:
    """Goal: over TLS the server must show a certificate of the authority, and this client one of its own where the
    server asks for it; else nothing is sent."""
    here = certificates
    options = ["--client-cert-auth", "--trusted-ca-file", here / "ca.pem"]
    options += ["--cert-file", here / "server.pem", "--key-file", here / "server.key"]
    with etcd_servers(1, *map(str, options), tls=certificates) as etcd:
        at = "etcds://" + etcd.members[0].url.removeprefix("https://")
        mine = f"ca={here / 'ca.pem'}&cert={here / 'client.pem'}&key={here / 'client.key'}"
        client = EtcdClient(parse(f"{at}?{mine}"))
        put(client, b"key")
        assert client.get(b"key").value == b"value"
        client.close()
        for query in (f"ca={here / 'ca.pem'}", f"cert={here / 'client.pem'}&key={here / 'client.key'}"):
            refused = EtcdClient(parse(f"{at}?{query}"))
            with pytest.raises(errors.Unreachable):
                refused.transact([], [], timeout_s=0.5)
            refused.close()


def test_a_prefix_keeps_volumes_apart() -> None:
    """Goal: the keys of a volume lie below its own name, and those of two clusters below their prefixes."""
    address = EtcdAddress([], b"/one/")
    assert address.below("volume", "main") == b"/one/volume/main/"
    assert os.path.commonprefix([address.below("volume", "a"), address.below("volume", "ab")]) == b"/one/volume/a"
