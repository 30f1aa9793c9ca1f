"""How many slots are open: by what waits and for how long, and never one less than what runs."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.scaling import CLOSE_IDLE, CLOSE_PAUSE, OPEN_AGE_MS, OPEN_PAUSE, Scaling, share_of

BEAT = 500_000_000


class Worker:
    """Hears an answer twice a second."""

    def __init__(self, slots_min: int = 2, slots_max: int = 8) -> None:
        self.now = 0
        self.scaling = Scaling(slots_min, slots_max, 0)
        for slot in range(slots_min):
            self.scaling.ended(slot, 0)

    def hear(self, waiting: int, oldest_ms: int = OPEN_AGE_MS, span: int = BEAT) -> int:
        for _ in range(span // BEAT):
            self.now += BEAT
            self.scaling.hinted(waiting, oldest_ms, self.now)
        return self.scaling.open


def test_it_begins_with_the_fewest_and_opens_none_for_what_has_not_waited():
    worker = Worker()
    assert worker.hear(0, 0, 10 * BEAT) == 2
    assert worker.hear(100, OPEN_AGE_MS - 1, 10 * BEAT) == 2


def test_one_answer_is_not_enough():
    worker = Worker()
    for _ in range(20):
        assert worker.hear(5) == 2
        assert worker.hear(0, 0) == 2


def test_it_doubles_with_pauses_up_to_the_most():
    worker = Worker()
    assert worker.hear(100, span=2 * BEAT) == 4
    assert worker.hear(100, span=OPEN_PAUSE - BEAT) == 4
    assert worker.hear(100) == 8
    assert worker.hear(100, span=10 * OPEN_PAUSE) == 8


def test_it_opens_no_more_than_what_waits():
    assert Worker().hear(1, span=2 * BEAT) == 3


def test_idle_slots_are_closed_one_by_one_after_a_while():
    worker = Worker()
    worker.hear(100, span=OPEN_PAUSE + 2 * BEAT)
    assert worker.scaling.open == 8
    assert worker.hear(0, 0, CLOSE_IDLE - BEAT) == 8
    assert worker.hear(0, 0) == 7
    assert worker.hear(0, 0, CLOSE_PAUSE - BEAT) == 7
    assert worker.hear(0, 0) == 6
    assert worker.hear(0, 0, 20 * CLOSE_PAUSE) == 2


def test_a_slot_that_runs_something_is_not_closed():
    worker = Worker(1, 2)
    worker.hear(9, span=2 * BEAT)
    worker.scaling.began(1)
    assert worker.hear(0, 0, 10 * CLOSE_IDLE) == 2
    worker.scaling.ended(1, worker.now)
    assert worker.hear(0, 0, CLOSE_IDLE - BEAT) == 2
    assert worker.hear(0, 0) == 1


def test_waves_that_are_shorter_than_the_patience_change_nothing():
    worker = Worker()
    worker.hear(100, span=3 * OPEN_PAUSE)
    seen = set()
    for _ in range(10):
        seen.add(worker.hear(0, 0, CLOSE_IDLE // 2))
        seen.add(worker.hear(50, span=2 * BEAT))
    assert seen == {8}


def test_with_equal_bounds_nothing_ever_changes():
    worker = Worker(3, 3)
    assert worker.hear(100, span=100 * BEAT) == worker.hear(0, 0, 10 * CLOSE_IDLE) == 3


@given(st.integers(0, 5_000), st.integers(1, 1_000))
def test_shares_sum_up_to_what_is_ready(ready, workers):
    shares = [share_of(ready, place, workers) for place in range(workers)]
    assert sum(shares) == ready and max(shares) - min(shares) <= 1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3_000), st.integers(0, 7), st.booleans()), max_size=200))
def test_the_bounds_hold_and_what_runs_stays_open(steps):
    worker, running = Worker(), set()
    for waiting, oldest_ms, slot, is_begun in steps:
        if slot < worker.scaling.open:
            if is_begun:
                running.add(slot)
                worker.scaling.began(slot)
            elif slot in running:
                running.discard(slot)
                worker.scaling.ended(slot, worker.now)
        worker.hear(waiting, oldest_ms, 20 * BEAT)
        assert 2 <= worker.scaling.open <= 8
        assert all(slot < worker.scaling.open for slot in running)
