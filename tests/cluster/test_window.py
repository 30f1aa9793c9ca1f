"""The window of a session's sender: numbers, what is kept for a retry, and when it is full."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.state.commands import SESSION_WINDOW_COMMANDS
from cluster.window import Window


def fill(window: Window, count: int) -> list[int]:
    seqs = []
    for _ in range(count):
        seq = window.allot()
        window.keep(seq, b"command %d" % seq)
        seqs.append(seq)
    return seqs


def test_numbers_rise_by_one_from_the_next_number():
    assert fill(Window(), 3) == [1, 2, 3]
    assert fill(Window(7), 2) == [7, 8]


def test_nothing_is_kept_at_the_beginning():
    window = Window(5)
    assert (len(window), window.low, window.next_seq, list(window.unanswered())) == (0, 5, 5, [])


def test_a_retry_is_the_identical_bytes_in_order():
    window = Window()
    fill(window, 4)
    assert window.answered(2)
    assert list(window.unanswered()) == [b"command 1", b"command 3", b"command 4"]
    assert list(window.unanswered(3)) == [b"command 3", b"command 4"]
    assert list(window.unanswered(9)) == []


def test_the_window_closes_after_64_unanswered_numbers():
    window = Window()
    fill(window, SESSION_WINDOW_COMMANDS - 1)
    assert window.is_open
    fill(window, 1)
    assert not window.is_open


def test_an_answer_in_the_middle_does_not_open_it():
    """The state keeps answers from the lowest unanswered number on: it is the span that counts."""
    window = Window()
    fill(window, SESSION_WINDOW_COMMANDS)
    window.answered(2)
    assert not window.is_open
    window.answered(1)
    assert window.is_open and window.low == 3


def test_an_answer_that_comes_twice_is_known_the_second_time():
    window = Window()
    fill(window, 2)
    assert window.answered(1)
    assert not window.answered(1)
    assert not window.answered(99)
    assert len(window) == 1


def test_another_command_may_take_the_number_of_one_that_nobody_took():
    window = Window()
    fill(window, 3)
    window.replace(2, b"nothing")
    assert window.encoded(2) == b"nothing"
    assert list(window.unanswered()) == [b"command 1", b"nothing", b"command 3"]
    assert window.low == 1 and window.next_seq == 4


@given(st.lists(st.one_of(st.none(), st.integers(0, 200)), max_size=300), st.integers(1, 1_000))
def test_the_invariants_hold_for_any_order_of_answers(steps, first):
    """A step is None to send, or a number that picks which command is answered."""
    window = Window(first)
    waiting: list[int] = []
    for step in steps:
        if step is None:
            if window.is_open:
                waiting += fill(window, 1)
        elif waiting:
            window.answered(waiting.pop(step % len(waiting)))
        assert len(window) == len(waiting) <= SESSION_WINDOW_COMMANDS
        assert window.low == min(waiting, default=window.next_seq)
        assert window.next_seq - window.low <= SESSION_WINDOW_COMMANDS
        assert list(window.unanswered()) == [b"command %d" % seq for seq in sorted(waiting)]
