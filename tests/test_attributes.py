"""What the client knows of names and attributes: for how long, and which of two answers counts."""

from dfsfuse.attributes import AttributeTable
from dfsfuse.messages import Attributes

INO = 5


def attributes(ctime_ns: int, **more: int) -> Attributes:
    kept = {"ino": INO, "mode": 0o100644, "uid": 0, "gid": 0, "nlink": 1, "size": 0, "version": 1, "mtime_ns": 1}
    return Attributes(**{**kept, "atime_ns": 1, "ctime_ns": ctime_ns, **more})


def test_the_later_change_counts_not_the_later_answer():
    """Goal: S14: a commit's answer that comes after that of a later chmod is not shown as the newest."""
    table = AttributeTable()
    table.put_changed(attributes(20, mode=0o100600))
    table.put_changed(attributes(10))
    assert table.get((INO, ())) is None
    table.put_changed(attributes(30))
    assert table.get((INO, ())).ctime_ns == 30
