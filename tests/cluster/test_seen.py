"""Which results a client has, as few ranges."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.client.seen import SeenNumbers


def seen(*numbers: int) -> SeenNumbers:
    found = SeenNumbers()
    for number in numbers:
        found.add(number)
    return found


def test_neighbours_are_one_range_in_whatever_order_they_came():
    assert seen(3, 1, 2, 7, 5, 6).take(100) == [1, 3, 5, 7]


def test_a_number_that_came_twice_is_told_once():
    assert seen(4, 4, 5, 4).take(100) == [4, 5]


def test_what_was_told_is_not_told_again():
    numbers = seen(1, 2)
    assert numbers and numbers.take(100) == [1, 2]
    assert not numbers and numbers.take(100) == []


def test_what_does_not_fit_waits():
    numbers = seen(9, 1, 3, 5, 7)
    assert numbers.take(4) == [1, 1, 3, 3]
    assert numbers.take(4) == [5, 5, 7, 7]
    assert numbers.take(4) == [9, 9]
    assert not numbers


@given(st.lists(st.integers(1, 60)), st.integers(1, 5))
def test_every_number_is_told_once_and_no_other(numbers, ranges_max):
    waiting = seen(*numbers)
    told: list[int] = []
    while waiting:
        flat = waiting.take(2 * ranges_max)
        assert 0 < len(flat) <= 2 * ranges_max
        for first, last in zip(flat[::2], flat[1::2], strict=True):
            told += range(first, last + 1)
    assert told == sorted(set(numbers))


def test_what_could_not_be_told_is_told_later():
    numbers = seen(1, 2, 5)
    numbers.give_back(numbers.take(2))
    assert numbers.take(100) == [1, 2, 5, 5]
