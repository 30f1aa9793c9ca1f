"""What waits until a leader knows that it still leads (Raft thesis, section 6.4)."""

from cluster.broker.rounds import WAITING_MAX, Rounds


def rounds(*questions: str) -> Rounds[str]:
    made: Rounds[str] = Rounds()
    for question in questions:
        assert made.add(question)
    return made


def test_a_round_answers_all_that_came_before_it_once_and_in_order():
    asked = rounds("w1", "c1", "w1 again")
    number = asked.begin()
    assert asked.confirmed(number) == ["w1", "c1", "w1 again"]
    assert asked.confirmed(number) == []


def test_what_arrives_during_a_round_waits_for_the_next():
    """A majority answered a heartbeat that was sent before this one arrived: that proves nothing for it."""
    asked = rounds("early")
    first = asked.begin()
    asked.add("late")
    assert asked.begin() == 0, "one round at a time"
    assert asked.confirmed(first) == ["early"]
    second = asked.begin()
    assert second > first
    assert asked.confirmed(first) == []
    assert asked.confirmed(second) == ["late"]


def test_no_round_begins_for_nobody():
    assert rounds().begin() == 0
    assert rounds().under_way == 0


def test_a_round_of_an_earlier_term_confirms_nothing():
    asked = rounds("before")
    earlier = asked.begin()
    assert asked.end() == ["before"]
    asked.add("after")
    later = asked.begin()
    assert asked.confirmed(earlier) == []
    assert asked.confirmed(later) == ["after"]


def test_the_end_of_a_term_gives_back_what_waited_for_a_round_and_what_was_in_it():
    asked = rounds("in it")
    asked.begin()
    asked.add("behind it")
    assert asked.end() == ["in it", "behind it"]
    assert asked.end() == [] and asked.begin() == 0


def test_whoever_does_not_want_to_wait_any_longer_is_taken_out():
    asked = rounds("status 1", "lease 1")
    number = asked.begin()
    asked.add("status 2")
    assert asked.withdraw(lambda question: question.startswith("status")) == ["status 1", "status 2"]
    assert asked.confirmed(number) == ["lease 1"]
    assert asked.begin() == 0


def test_questions_are_limited():
    asked: Rounds[int] = Rounds()
    assert all(asked.add(number) for number in range(WAITING_MAX))
    assert not asked.add(-1)
    assert len(asked.confirmed(asked.begin())) == WAITING_MAX
