"""What the simulator takes for a broken promise, and what not: the checkers alone, without a run."""

import pytest
from simulation.contents import Table, Torn, parse_log, parse_table, record
from simulation.history import Files, NameOp, Violation, check_names


def written(*acked: tuple[str, float, float]) -> Files:
    """Writes 1, 2, ... of a table, each made from the one before: (client, began, acked)."""
    files = Files(shared=("log",))
    for number, (client, began, ended) in enumerate(acked):
        files.acked(files.begin("t", client, began, base=number), ended, False)
    return files


def test_a_mixed_content_is_torn() -> None:
    """Goal: two versions of a table in one content are told from either, wherever they are mixed."""
    one = Table(1, 0, (1, 1, 1))
    two = one.edited(2, 1, 2)
    assert parse_table(two.render()) == two
    for mixed in (one.header + two.render()[len(one.header) :], two.header + one.render()[len(two.header) :]):
        with pytest.raises(Torn):
            parse_table(mixed)
    with pytest.raises(Torn):
        parse_table(two.render()[:-1])


def test_a_log_is_whole_records() -> None:
    """Goal: half a record, and one that was written over, are found."""
    data = record(7) + record(8)
    assert parse_log(data) == [7, 8]
    for broken in (data[:-1], data[:50] + b"x" + data[51:]):
        with pytest.raises(Torn):
            parse_log(broken)


def test_an_open_must_see_what_was_closed_before() -> None:
    """Goal: S2: version 1 is stale for an open that began after version 2 was closed, and right for an earlier one."""
    files = written(("one", 0.0, 1.0), ("two", 2.0, 3.0))
    files.saw_table("t", 1, 2.9, "reader")
    files.saw_table("t", 2, 3.1, "reader")
    with pytest.raises(Violation, match="S2"):
        files.saw_table("t", 1, 3.1, "reader")


def test_a_power_cut_takes_what_is_young() -> None:
    """Goal: S10: what was closed within the last second may be gone, what was fsynced or is older may not."""
    files = written(("one", 0.0, 1.0), ("two", 2.0, 3.0))
    files.power_cut(2.5)
    files.saw_table("t", 1, 9.0, "reader")
    files.power_cut(0.5)
    durable = files.begin("t", "one", 4.0, base=1)
    files.acked(durable, 5.0, True)
    files.power_cut(4.5)
    with pytest.raises(Violation, match="S2"):
        files.saw_table("t", 1, 9.0, "reader")


def test_a_record_is_there_once() -> None:
    """Goal: S12: a record that is missing, and one that is there twice, are found."""
    files = Files(shared=("log",))
    files.acked(files.begin("log", "one", 0.0), 1.0, False)
    files.saw_log("log", [1], 2.0, "reader")
    for numbers in ([], [1, 1]):
        with pytest.raises(Violation, match="S12"):
            files.saw_log("log", numbers, 2.0, "reader")


def test_what_was_closed_is_kept_somewhere() -> None:
    """Goal: S4: a version that is in no file and no copy was lost, whether close() had succeeded or not."""
    files = written(("one", 0.0, 1.0))
    failed = files.begin("t", "two", 2.0, base=1)
    failed.returned = 3.0
    files.nothing_is_lost({"t": [1, failed.number]}, {})
    with pytest.raises(Violation, match="S4"):
        files.nothing_is_lost({"t": [1]}, {})


MADE = NameOp("make", ("a",), 0.0, 1.0, "ok")


@pytest.mark.parametrize(
    "ops",
    [
        [MADE, NameOp("make", ("a",), 2.0, 3.0, "ok")],
        [MADE, NameOp("rename", ("a", "b"), 2.0, 3.0, "missing")],
        [MADE, NameOp("list", (), 2.0, 3.0, frozenset())],
        [MADE, NameOp("remove", ("a",), 2.0, 3.0, "ok"), NameOp("list", (), 4.0, 5.0, frozenset("a"))],
    ],
    ids=["made twice", "renamed twice", "not listed", "removed and there"],
)
def test_answers_without_an_order_are_found(ops: list[NameOp]) -> None:
    """Goal: S1: what no order of the operations explains is a violation."""
    with pytest.raises(Violation, match="S1"):
        check_names(ops, [frozenset()])


def test_what_was_not_answered_may_have_happened_or_not() -> None:
    """Goal: no false alarm: an operation without an answer happens at any later time, or never."""
    unknown = NameOp("remove", ("a",), 2.0, 3.0, None)
    for listed in ("a", ""):
        assert check_names([MADE, unknown, NameOp("list", (), 4.0, 5.0, frozenset(listed))], [frozenset()])
