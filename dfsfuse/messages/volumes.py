"""What the agents of hosts are asked: which volumes a cluster has, and where their directories are."""

from dfsfuse.messages.base import Message


class VolumeName(Message):
    """Of which volume something is asked."""

    name: str


class VolumePlaces(Message):
    """The URLs of the volume's directory servers, with commas between."""

    directories: str


class VolumeRow(Message, kw_only=True):
    """`number`: its servers' ports follow from it. `serving`: which directory server serves; empty where none does."""

    name: str
    number: int
    serving: str = ""


class VolumeList(Message):
    """All volumes, by name."""

    volumes: list[VolumeRow]


class HostRow(Message, kw_only=True):
    """A host as the cluster knows it."""

    name: str
    address: str
    port: int
    roles: list[str]
    zone: str = ""
    weight: float = 1.0


class ClusterSettings(Message):
    """What all hosts have in common. `etcd`: as `--store` takes it."""

    etcd: str
    copies: int


class HostList(Message):
    """All hosts, by name."""

    hosts: list[HostRow]
