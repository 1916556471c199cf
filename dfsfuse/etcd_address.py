"""Where an etcd cluster is, and how it is spoken to: the text of `--store`, taken apart.

    etcd://HOST:PORT[,HOST:PORT...][?OPTION=VALUE&...]      etcds:// with TLS

    prefix=/TEXT            below which all keys lie (/dfsfuse/)
    quota=SIZE              what etcd may take: its --quota-backend-bytes (2G, as etcd has it)
    user=NAME               the password is in $DFS_ETCD_PASSWORD, or in the file password-file=FILE
    ca=FILE                 who signs the servers' certificates (else whom the system trusts)
    cert=FILE, key=FILE     this client's own certificate

Passwords are not a part of it, as all can see it.
"""

import os
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from dfsfuse.errors import BadRequest

SCHEMES = {"etcd": "http", "etcds": "https"}
PASSWORD = "DFS_ETCD_PASSWORD"
_PORT = 2379
_OPTIONS = {"prefix", "quota", "user", "password-file", "ca", "cert", "key"}
_FORM = "etcd://HOST:PORT,HOST:PORT,...[?prefix=/NAME/]"


class EtcdAddress(NamedTuple):
    """`endpoints` are URLs; `prefix` ends in a slash."""

    endpoints: list[str]
    prefix: bytes = b"/dfsfuse/"
    user: str = ""
    password: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    quota_bytes: int = 2 << 30

    def below(self, *names: str) -> bytes:
        """The prefix of what has these names below it."""
        return self.prefix + b"".join(name.encode() + b"/" for name in names)


def is_etcd(text: str) -> bool:
    return text.partition("://")[0] in SCHEMES


def parse(text: str, with_password: bool = True) -> EtcdAddress:
    """Raises BadRequest, which says what is wrong."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise BadRequest(f"{text}: an etcd cluster is given as {_FORM}")
    hosts, _, query = rest.partition("?")
    options = _options(query)
    endpoints = [_endpoint(SCHEMES[scheme], host) for host in hosts.strip("/").split(",")]
    if scheme == "etcd" and options.keys() & {"ca", "cert", "key"}:
        raise BadRequest(f"{text}: certificates are for etcds://, which speaks TLS")
    if ("cert" in options) != ("key" in options):
        raise BadRequest(f"{text}: a certificate (cert=) and its key (key=) go together")
    prefix = "/" + options.get("prefix", "/dfsfuse").strip("/") + "/"
    return EtcdAddress(
        endpoints,
        prefix.encode() if prefix != "//" else b"/",
        options.get("user", ""),
        _password(options) if with_password else "",
        *(options.get(name, "") for name in ("ca", "cert", "key")),
        _bytes(options.get("quota", "2G")),
    )


def _bytes(text: str) -> int:
    unit = "KMGT".find(text[-1:].upper()) + 1 if text[-1:] else 0
    number = text[:-1] if unit else text
    if not number.isdigit() or int(number) < 1:
        raise BadRequest(f"quota={text}: a number of bytes, such as 8G")
    return int(number) << (10 * unit)


def _options(query: str) -> dict[str, str]:
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if unknown := options.keys() - _OPTIONS:
        raise BadRequest(f"?{query}: there is no option {unknown.pop()!r}; there are {', '.join(sorted(_OPTIONS))}")
    return options


def _endpoint(scheme: str, host: str) -> str:
    if "@" in host:
        raise BadRequest(f"passwords are not given in addresses, which all can see: ?user=NAME and ${PASSWORD}")
    try:
        parts = urllib.parse.urlsplit(f"{scheme}://{host}")
        port = parts.port or _PORT
    except ValueError:
        port = 0
    if not port or not parts.hostname or parts.path:
        raise BadRequest(f"{host!r} is no HOST:PORT; an etcd cluster is given as {_FORM}")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{name}:{port}"


def _password(options: dict[str, str]) -> str:
    if "user" not in options:
        return ""
    if "password-file" in options:
        try:
            return Path(options["password-file"]).read_text().strip()
        except OSError as error:
            raise BadRequest(f"{options['password-file']}: {error.strerror}; it has the password for etcd") from None
    if PASSWORD not in os.environ:
        raise BadRequest(f"user {options['user']} needs a password: set ${PASSWORD}, or give password-file=FILE")
    return os.environ[PASSWORD]
