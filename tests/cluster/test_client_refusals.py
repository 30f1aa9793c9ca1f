"""What a client knows of commands that the leader would not take."""

from cluster.client.refusals import CLOSED, GRACE, TRYING, Refusals

REASON = "disk full on b1"


def test_a_command_that_left_once_and_was_refused_is_certainly_not_taken():
    refusals = Refusals()
    assert refusals.in_doubt(5) == 1
    refusals.refused(5, [5])
    assert refusals.in_doubt(5) == 0 and refusals.was_refused(5)


def test_each_copy_must_be_refused():
    refusals = Refusals()
    refusals.said_again(5)
    refusals.refused(5, [5])
    assert refusals.in_doubt(5) == 1
    refusals.refused(5, [5])
    assert refusals.in_doubt(5) == 0


def test_a_command_that_never_left_is_certainly_not_taken():
    refusals = Refusals()
    refusals.not_said(5)
    assert refusals.in_doubt(5) == 0 and not refusals.was_refused(5)
    refusals.said_again(5)
    assert refusals.in_doubt(5) == 1


def test_a_refusal_of_a_command_that_was_answered_is_not_kept():
    refusals = Refusals()
    refusals.refused(5, [])
    assert not refusals.was_refused(5)
    refusals.refused(6, [6])
    refusals.answered(6)
    assert not refusals.was_refused(6) and refusals.in_doubt(6) == 1


def test_the_lowest_refused_command_is_tried_first_and_then_whatever_is_unanswered():
    refusals = Refusals()
    refusals.refused(7, [4, 7, 8])
    assert refusals.next_to_try([4, 7, 8]) == 7
    refusals.answered(7)
    assert refusals.next_to_try([4, 8]) == 4
    assert refusals.next_to_try([]) == 0


def test_the_window_is_closed_until_the_leader_takes_a_submit_or_there_is_another():
    refusals = Refusals()
    assert refusals.is_open
    refusals.close(REASON, 1_000)
    assert (refusals.state, refusals.reason, refusals.retry_after_ms) == (CLOSED, REASON, 1_000)
    refusals.open()
    assert refusals.is_open


def test_a_command_that_is_being_tried_is_judged_when_its_answer_has_had_time_to_come():
    refusals = Refusals()
    refusals.refused(5, [5])
    refusals.state, refusals.tried = TRYING, 5
    refusals.said_again(5)
    assert refusals.is_judged_later(5, 1_000, 1_000 + GRACE - 1)
    assert not refusals.is_judged_later(5, 1_000, 1_000 + GRACE)
    assert not refusals.is_judged_later(6, 1_000, 1_000)
    refusals.refused(5, [5])
    assert not refusals.is_judged_later(5, 1_000, 1_000)
