"""The claim page, both sides of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.page import PAGE_BYTES, PROGRESS_OFFSET, RING_OFFSET, WINDOW_TASKS, ClaimPage
from cluster.worker.progress_rows import ROW


def pages(size: int = PAGE_BYTES) -> tuple[ClaimPage, ClaimPage]:
    memory = memoryview(bytearray(size))
    return ClaimPage(memory, create=True), ClaimPage(memory)


def test_a_claim_is_seen_with_its_time():
    child, worker = pages()
    assert worker.claimed == 0
    assert child.claim(1, 12_345)
    assert (worker.claimed, worker.claimed_at) == (1, 12_345)


def test_a_task_withdrawn_before_its_claim_is_skipped_once():
    child, worker = pages()
    assert worker.withdraw(2)
    assert child.claim(1, 10)
    assert not child.claim(2, 20)
    assert child.claim(3, 30)
    for number in range(4, WINDOW_TASKS + 4):
        assert child.claim(number, 40), "the mark of number 2 must not hit its successor in the window"


def test_a_claimed_task_cannot_be_withdrawn():
    child, worker = pages()
    child.claim(1, 10)
    assert not worker.withdraw(1)
    assert child.claim(2, 20)


def test_tasks_are_claimed_in_order():
    child, _ = pages()
    with pytest.raises(AssertionError):
        child.claim(2, 10)


def test_a_number_beyond_the_window_cannot_be_marked():
    _, worker = pages()
    assert worker.withdraw(WINDOW_TASKS)
    with pytest.raises(AssertionError):
        worker.withdraw(WINDOW_TASKS + 1)


def test_a_full_ring_takes_nothing_until_it_is_emptied():
    child, worker = pages(RING_OFFSET + 10)
    assert child.ring.append(b"123456")
    assert not child.ring.append(b"12345")
    assert worker.ring.take() == (1, b"123456")
    assert child.ring.append(b"12345")


def test_memory_that_is_no_page_is_refused():
    with pytest.raises(AssertionError):
        ClaimPage(memoryview(bytearray(PAGE_BYTES)))


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40))))
def test_the_ring_gives_back_what_was_put_in_exactly_once_and_in_order(steps: list[bytes | None]):
    child, worker = pages(RING_OFFSET + 100)
    model: list[bytes] = []
    for step in [*steps, None]:
        if step is None:
            assert worker.ring.is_empty == (not model)
            assert worker.ring.take() == (len(model), b"".join(model))
            model.clear()
        elif child.ring.append(step):
            model.append(step)
        else:
            assert sum(map(len, model)) + len(step) > 100


def test_progress_is_that_of_the_task_that_said_it():
    child, worker = pages()
    assert worker.progress(1) is None
    child.report(1, 3, 10)
    child.report(2, 2**63 - 1, None)
    assert worker.progress(1) == (3, 10)
    assert worker.progress(2) == (2**63 - 1, None)
    child.report(1, 4, 10)
    assert worker.progress(1) == (4, 10)
    child.report(1 + WINDOW_TASKS, 0, 0)
    assert worker.progress(1) is None, "its row is another's by now"
    assert worker.progress(1 + WINDOW_TASKS) == (0, 0)


rows = st.tuples(st.integers(0, 2**63 - 1) | st.integers(0, 20), st.none() | st.integers(0, 20))


@given(rows, rows, st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_row_that_is_half_another_is_no_row(before, after, taken):
    memory = memoryview(bytearray(PAGE_BYTES))
    child = ClaimPage(memory, create=True)
    child.report(5, *before)
    start = PROGRESS_OFFSET + 5 * ROW.size
    old = bytes(memory[start : start + ROW.size])
    child.report(5, *after)
    new = bytes(memory[start : start + ROW.size])
    for word, is_new in enumerate(taken):
        place = slice(word * 8, word * 8 + 8)
        memory[start + place.start : start + place.stop] = (new if is_new else old)[place]
    assert ClaimPage(memory).progress(5) in (None, before, after)
