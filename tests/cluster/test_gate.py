"""Which submits the leader takes."""

from cluster.broker.gate import BACKLOG_BYTES_MAX, BACKLOG_COMMANDS_MAX, Gate

CLOSED = "disk full on b1"


def test_an_idle_broker_takes_submits():
    assert Gate().why_closed(0, 0, 0, "") == ""


def test_it_closes_above_32_mebibytes_that_are_not_applied():
    assert BACKLOG_BYTES_MAX == 32 * 1024 * 1024
    gate = Gate()
    assert gate.why_closed(BACKLOG_BYTES_MAX, 1, 0, "") == ""
    assert "too much is uncommitted (32 MiB" in gate.why_closed(BACKLOG_BYTES_MAX + 1, 1, 0, "")


def test_it_closes_at_65536_commands_that_are_not_applied_and_opens_as_entries_are():
    assert BACKLOG_COMMANDS_MAX == 65_536
    gate = Gate()
    gate.proposed([30_000, 30_000])
    assert gate.why_closed(1_000, 2, 0, "") == ""
    gate.proposed([5_536])
    assert "65536 commands wait" in gate.why_closed(1_000, 3, 0, "")
    assert gate.why_closed(1_000, 2, 0, "") == ""


def test_commands_that_wait_to_be_proposed_count_as_well():
    gate = Gate()
    gate.proposed([BACKLOG_COMMANDS_MAX - 10])
    assert gate.why_closed(1_000, 1, 9, "") == ""
    assert "65536 commands wait" in gate.why_closed(1_000, 1, 10, "")
    assert gate.why_closed(1_000, 0, 10, "") == ""


def test_commands_of_entries_that_were_never_appended_are_not_counted_for_ever():
    gate = Gate()
    gate.proposed([BACKLOG_COMMANDS_MAX])
    assert gate.why_closed(0, 0, 0, "") == ""
    gate.proposed([1])
    assert gate.why_closed(0, 1, 0, "") == ""


def test_what_the_log_says_closes_it_and_is_passed_on():
    gate = Gate()
    assert gate.why_closed(0, 0, 0, CLOSED) == CLOSED


def test_submits_behind_a_refused_one_are_refused_until_it_has_come():
    """The state would refuse them for the gap, but they would be in every log."""
    gate = Gate()
    assert gate.why_refused(1, 5, 5, CLOSED) == CLOSED
    assert gate.why_refused(1, 6, 5, "") == CLOSED
    assert gate.why_refused(2, 6, 5, "") == "", "another session"
    assert gate.why_refused(1, 5, 5, "") == ""
    assert gate.why_refused(1, 6, 5, "") == ""
    assert not gate.has_put_off


def test_a_refused_submit_whose_number_was_used_up_otherwise_holds_nothing_back():
    """An earlier copy of it was in the log, or its client has withdrawn it."""
    gate = Gate()
    assert gate.why_refused(1, 5, 5, CLOSED) == CLOSED
    assert gate.why_refused(1, 6, 6, "") == ""
    assert not gate.has_put_off


def test_the_first_of_the_refused_submits_is_the_one_that_must_come():
    gate = Gate()
    for seq in (5, 6, 7, 5):
        assert gate.why_refused(1, seq, 5, CLOSED) == CLOSED
    assert gate.why_refused(1, 7, 5, "") == CLOSED
    assert gate.why_refused(1, 5, 5, "") == ""


def test_a_repeated_submit_from_before_the_refused_one_opens_nothing():
    gate = Gate()
    assert gate.why_refused(1, 5, 3, CLOSED) == CLOSED
    assert gate.why_refused(1, 3, 3, "") == ""
    assert gate.why_refused(1, 6, 3, "") == CLOSED


def test_a_new_term_and_the_end_of_a_session_forget_what_was_refused():
    gate = Gate()
    gate.why_refused(1, 5, 5, CLOSED)
    gate.forget(1)
    assert gate.why_refused(1, 6, 5, "") == ""
    gate.why_refused(1, 5, 5, CLOSED)
    gate.restart()
    assert gate.why_refused(1, 6, 5, "") == ""


def test_a_cancel_behind_a_refused_submit_is_told_what_is_missing():
    gate = Gate()
    assert gate.why_refused(1, 5, 4, CLOSED) == CLOSED
    assert gate.missing_before(1, 4, 4) == 0, "it is in front"
    assert gate.missing_before(1, 7, 4) == 5
    assert gate.missing_before(2, 7, 4) == 0, "another session"
    assert gate.missing_before(1, 7, 6) == 0, "it has come"


def test_what_comes_under_the_number_of_a_refused_submit_takes_its_place():
    gate = Gate()
    for seq in (5, 6):
        assert gate.why_refused(1, seq, 5, CLOSED) == CLOSED
    assert gate.missing_before(1, 5, 5) == 0
    assert gate.missing_before(1, 6, 5) == 0 and gate.missing_before(1, 7, 5) == 0
    assert not gate.has_put_off
