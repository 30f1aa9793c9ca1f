"""Outcomes become commands: bounded, numbered, kept until answered, sent again as identical bytes."""

import msgspec

from cluster.state.commands import SESSION_WINDOW_COMMANDS, Complete, Drain, Failure, Outcome, Resize
from cluster.worker.completions import COMPLETE_BYTES_MAX, COMPLETE_OUTCOMES_MAX, Completions

decode = msgspec.msgpack.Decoder(Complete).decode
decode_any = msgspec.msgpack.Decoder(Complete | Drain | Resize).decode


def outcome(task: int, body: bytes = b"\xc0") -> Outcome:
    return Outcome(task, 1, 0, 0, 0, body)


def test_the_outcomes_of_a_turn_are_one_command():
    completions = Completions(7, 1)
    for task in range(5):
        completions.add(outcome(task))
    (encoded,) = completions.take()
    command = decode(encoded)
    assert (command.session, command.seq, command.low) == (7, 1, 1)
    assert [one.task for one in command.outcomes] == list(range(5))
    assert completions.take() == []


def test_a_command_is_bounded_by_count_and_by_bytes_and_one_large_outcome_may_exceed_them():
    completions = Completions(7, 1)
    for task in range(COMPLETE_OUTCOMES_MAX + 1):
        completions.add(outcome(task))
    assert [len(decode(encoded).outcomes) for encoded in completions.take()] == [COMPLETE_OUTCOMES_MAX, 1]
    for size in (COMPLETE_BYTES_MAX // 2, COMPLETE_BYTES_MAX // 2, COMPLETE_BYTES_MAX * 2, 10):
        completions.add(outcome(size, bytes(size)))
    assert [len(decode(encoded).outcomes) for encoded in completions.take()] == [1, 1, 1, 1]


def test_evidence_counts_towards_the_bytes():
    completions = Completions(7, 1)
    error = Failure("T", "m" * 4_000, "t" * 8_000, stderr="s" * 4_000)
    for task in range(100):
        completions.add(Outcome(task, 1, 1, 0, 0, b"", error))
    assert all(len(encoded) < COMPLETE_BYTES_MAX + 64 * 1024 for encoded in completions.take())


def test_the_window_bounds_what_is_under_way_and_opens_with_the_oldest_answer():
    completions = Completions(7, 1)
    commands = []
    for task in range(SESSION_WINDOW_COMMANDS + 2):
        completions.add(outcome(task))
        commands += completions.take()
    assert len(commands) == SESSION_WINDOW_COMMANDS
    assert completions.answered(2) == [(1, 1)]
    assert completions.take() == [], "the lowest is not answered yet"
    assert completions.answered(1) == [(0, 1)]
    (encoded,) = completions.take()
    assert (decode(encoded).seq, decode(encoded).low) == (SESSION_WINDOW_COMMANDS + 1, 3)
    assert len(decode(encoded).outcomes) == 2


def test_what_is_sent_again_is_identical_and_in_order():
    completions = Completions(7, 1)
    first = []
    for task in range(4):
        completions.add(outcome(task))
        first += completions.take()
    completions.answered(2)
    assert list(completions.unanswered()) == [first[0], first[2], first[3]]
    assert list(completions.unanswered(3)) == first[2:]


def test_every_outcome_without_an_answer_is_known_for_a_new_leader():
    completions = Completions(7, 1)
    completions.add(outcome(1))
    completions.take()
    completions.add(outcome(2))
    assert list(completions.pairs()) == [(1, 1), (2, 1)]
    assert not completions.is_empty
    completions.answered(1)
    completions.take()
    completions.answered(2)
    assert completions.is_empty
    assert completions.answered(2) == [], "an answer may come twice"


def test_a_rewind_to_numbers_that_are_gone_is_refused():
    completions = Completions(7, 5)
    completions.add(outcome(1))
    completions.take()
    assert completions.can_rewind_to(5)
    assert completions.can_rewind_to(6)
    assert not completions.can_rewind_to(4)
    assert not completions.can_rewind_to(7)


def test_a_drain_is_said_before_everything_that_waits_and_once():
    """What is handed back after it can never come back, since the log takes both in this order."""
    completions = Completions(7, 1)
    completions.add(outcome(1))
    completions.drain()
    completions.add(outcome(2))
    assert not completions.is_empty
    first, second = map(decode_any, completions.take())
    assert first == Drain(7, 1, 1)
    assert (second.seq, [one.task for one in second.outcomes]) == (2, [1, 2])
    completions.drain()
    assert completions.take() == []


def test_a_drain_is_kept_and_said_again_until_it_is_answered():
    completions = Completions(7, 1)
    completions.drain()
    assert not completions.is_empty, "not said yet"
    (encoded,) = completions.take()
    assert list(completions.unanswered()) == [encoded]
    assert not completions.is_empty
    assert completions.answered(1) == [], "it completes nothing"
    assert completions.is_empty


def test_a_drain_waits_for_the_window_and_goes_first_when_it_opens():
    completions = Completions(7, 1)
    for task in range(SESSION_WINDOW_COMMANDS):
        completions.add(outcome(task))
        completions.take()
    completions.add(outcome(99))
    completions.drain()
    assert completions.take() == []
    completions.answered(1)
    assert [type(decode_any(encoded)) for encoded in completions.take()] == [Drain]
    completions.answered(2)
    assert [type(decode_any(encoded)) for encoded in completions.take()] == [Complete]


def test_of_numbers_of_open_slots_that_wait_the_last_is_said_behind_a_drain_and_before_outcomes():
    completions = Completions(7, 1)
    completions.add(outcome(1))
    completions.resize(2)
    completions.resize(4)
    completions.drain()
    assert not completions.is_empty
    drain, resize, complete = map(decode_any, completions.take())
    assert (drain, resize) == (Drain(7, 1, 1), Resize(7, 2, 1, 4))
    assert [one.task for one in complete.outcomes] == [1]


def test_a_number_of_open_slots_is_known_to_the_log_when_it_has_its_answer():
    completions = Completions(7, 1)
    completions.resize(3)
    assert not completions.is_empty, "not said yet"
    (encoded,) = completions.take()
    assert list(completions.unanswered()) == [encoded]
    assert completions.answered(1) == [] and completions.sized(1) == 3
    assert completions.sized(1) == 0, "an answer may come twice"
    assert completions.is_empty
