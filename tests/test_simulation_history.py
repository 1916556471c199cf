"""What the simulator takes for a broken promise, and what not: the checkers alone, without a run."""

import pytest
from simulation.contents import Table, Torn, parse_log, parse_table, record
from simulation.history import Files, Violation
from simulation.orders import ABSENT, FOLDER, UNKNOWN, NameOp, check_names


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
    with pytest.raises(Violation, match="S10"):
        files.saw_table("t", 1, 9.0, "reader")


def test_a_power_cut_takes_what_was_committed_and_not_answered_yet() -> None:
    """Goal: S10: what the directory had committed within the last second may be gone, though close() returns later;
    what reached it afterwards may not."""
    for committed, may_be_gone in (({7}, True), ((), False)):
        files = written(("one", 0.0, 1.0))
        late = files.begin("t", "one", 4.0, base=1)
        late.ino = 7
        files.power_cut(3.5, committed)
        files.acked(late, 5.0, False)
        if may_be_gone:
            files.saw_table("t", 1, 9.0, "reader")
        else:
            with pytest.raises(Violation, match="S2"):
                files.saw_table("t", 1, 9.0, "reader")


def test_what_fsync_has_acknowledged_after_a_power_cut_is_there() -> None:
    """Goal: S10: also where it was committed before the cut, and only its fsync() ended later."""
    files = written(("one", 0.0, 1.0))
    late = files.begin("t", "one", 4.0, base=1)
    late.ino = 7
    files.power_cut(3.5, {7})
    files.acked(late, 5.0, True)
    with pytest.raises(Violation, match="S10"):
        files.saw_table("t", 1, 9.0, "reader")


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("cut_before", [True, False])
def test_what_somebody_else_has_fsynced_is_there(answered: bool, cut_before: bool) -> None:
    """Goal: S10: a program has read a version and called fsync(): it is there from then on, though who wrote it knows
    of no fsync(), or not even that close() has succeeded, and whether power was cut before or comes to be cut."""
    files = written(("one", 0.0, 1.0))
    write = files.begin("t", "one", 2.0, base=1)
    write.ino = 7
    if answered:
        files.acked(write, 4.0, False)
    if cut_before:
        files.power_cut(3.5, {7})
    files.fsynced([2], 5.0)
    if not cut_before:
        files.power_cut(3.5, {7})
    if not answered:
        files.acked(write, 6.0, False)
    files.saw_table("t", 1, 3.9, "one that began before")
    with pytest.raises(Violation, match="S10"):
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


NAMES = ("a", "b")
MADE = NameOp("make", ("a",), 0.0, 1.0, "ok")
PUT = NameOp("put", ("a",), 0.0, 1.0, "ok", value=1)


def see(value: int, began: float, name: str = "a", who: str = "") -> NameOp:
    return NameOp("see", (name,), began, began + 0.5, value, who)


@pytest.mark.parametrize(
    "ops",
    [
        [MADE, NameOp("make", ("a",), 2.0, 3.0, "ok")],
        [MADE, NameOp("rename", ("a", "b"), 2.0, 3.0, "missing")],
        [MADE, NameOp("list", (), 2.0, 3.0, frozenset())],
        [MADE, NameOp("rmdir", ("a",), 2.0, 3.0, "ok"), NameOp("list", (), 4.0, 5.0, frozenset("a"))],
        [MADE, NameOp("unlink", ("a",), 2.0, 3.0, "ok")],
        [MADE, NameOp("put", ("a",), 2.0, 3.0, "ok", value=1)],
        [PUT, NameOp("put", ("a",), 2.0, 3.0, "ok", value=2), see(1, 4.0)],
        [PUT, NameOp("put", ("a",), 2.0, 9.0, "ok", value=2), see(2, 4.0), see(1, 5.0)],
        [PUT, NameOp("put", ("b",), 0.0, 1.0, "ok", value=2), NameOp("exchange", NAMES, 2.0, 3.0, "ok"), see(1, 4.0)],
        [PUT, NameOp("exchange", NAMES, 2.0, 3.0, "ok")],
        [PUT, NameOp("unlink", ("a",), 2.0, 3.0, "ok"), see(1, 4.0)],
    ],
    ids=[
        "made twice", "renamed twice", "not listed", "removed and there", "a folder unlinked", "put over a folder",
        "replaced and there", "replaced and there again", "exchanged and there", "exchanged with nothing", "unlinked",
    ],
)  # fmt: skip
def test_answers_without_an_order_are_found(ops: list[NameOp]) -> None:
    """Goal: S1, S2: what no order of the operations explains is a violation."""
    with pytest.raises(Violation, match="S1"):
        check_names(ops, NAMES)


@pytest.mark.parametrize("kind", ["rmdir", "put", "exchange"])
def test_what_was_not_answered_may_have_happened_or_not(kind: str) -> None:
    """Goal: no false alarm: an operation without an answer happens at any later time, or never."""
    before = MADE if kind == "rmdir" else PUT, NameOp("put", ("b",), 0.0, 1.0, "ok", value=3)
    unknown = NameOp(kind, NAMES if kind == "exchange" else ("a",), 2.0, 2.0, None, value=2 * (kind == "put"))
    former, later = {"rmdir": (FOLDER, ABSENT), "put": (1, 2), "exchange": (1, 3)}[kind]
    for seen in ([former, former], [former, later], [later, later]):
        assert check_names([*before, unknown, see(seen[0], 4.0), see(seen[1], 5.0)], NAMES)
    with pytest.raises(Violation, match="S1"):
        check_names([*before, unknown, see(later, 4.0), see(former, 5.0)], NAMES)


def test_an_exchange_of_what_is_alike_may_come_later() -> None:
    """Goal: no false alarm: an exchange of two folders need not come first, though it would change nothing then."""
    alike = [MADE, NameOp("make", ("b",), 0.0, 1.0, "ok")]
    later = [NameOp("rmdir", ("a",), 3.0, 3.1, "ok"), NameOp("put", ("a",), 3.2, 3.3, "ok", value=1), see(1, 4.0, "b")]
    assert check_names([*alike, NameOp("exchange", NAMES, 2.0, 9.0, "ok"), *later], NAMES)


def test_what_a_power_cut_took_is_told_by_the_first_answer() -> None:
    """Goal: no false alarm after a power cut, of which nobody knows what it has taken; but answers that follow must fit
    the first one."""
    listed, first = NameOp("list", (), 0.0, 1.0, frozenset("b")), see(7, 2.0, "b")
    assert check_names([listed, first, see(7, 3.0, "b"), see(ABSENT, 3.0)], NAMES, UNKNOWN)
    for wrong in (see(8, 3.0, "b"), see(FOLDER, 3.0, "b"), see(7, 3.0)):
        with pytest.raises(Violation, match="S1"):
            check_names([listed, first, wrong], NAMES, UNKNOWN)
