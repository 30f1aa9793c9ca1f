"""How many slots are open: by what waits and for how long, and by how many were busy at once."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.scaling import PACE, Scaling

BEAT = 500_000_000
AGE_MS = PACE.open_age_ms


class Worker:
    """Hears an answer twice a second."""

    def __init__(self, slots_min: int = 2, slots_max: int = 8) -> None:
        self.now = 0
        self.scaling = Scaling(slots_min, slots_max, 0)

    def hear(self, ready: int, oldest_ms: int = AGE_MS, span: int = BEAT, busy: int = 0) -> int:
        for _ in range(span // BEAT):
            self.now += BEAT
            self.scaling.look(min(busy, self.scaling.open), ready, oldest_ms, self.now)
        return self.scaling.open


def test_it_begins_with_the_fewest_and_opens_none_for_what_has_not_waited():
    worker = Worker()
    assert worker.hear(0, 0, 10 * BEAT) == 2
    assert worker.hear(100, AGE_MS - 1, 10 * BEAT) == 2


def test_it_doubles_with_pauses_up_to_the_most():
    worker = Worker()
    assert worker.hear(100) == 4
    assert worker.hear(100, span=PACE.open_pause - BEAT) == 4
    assert worker.hear(100) == 8
    assert worker.hear(100, span=10 * PACE.open_pause) == 8


def test_it_opens_no_more_than_what_waits():
    assert Worker().hear(1) == 3


def test_it_opens_none_while_others_are_not_there_yet():
    worker = Worker()
    assert worker.scaling.look(2, 100, AGE_MS, BEAT, may_open=False) == 2
    assert worker.hear(100) == 4


def test_slots_that_were_not_needed_are_closed_one_by_one_after_a_while():
    worker = Worker()
    worker.hear(100, span=PACE.open_pause + 2 * BEAT)
    assert worker.scaling.open == 8
    assert worker.hear(0, 0, PACE.close_idle - BEAT) == 8
    assert worker.hear(0, 0) == 7
    assert worker.hear(0, 0, PACE.close_pause - BEAT) == 7
    assert worker.hear(0, 0) == 6
    assert worker.hear(0, 0, 20 * PACE.close_pause) == 2


def test_as_many_stay_open_as_were_busy_at_once():
    worker = Worker()
    worker.hear(100, span=PACE.open_pause + 2 * BEAT)
    for _ in range(5):
        worker.hear(0, 0, PACE.close_idle - BEAT, busy=1)
        worker.hear(0, 0, busy=5)
    assert worker.scaling.open == 5


def test_waves_that_are_shorter_than_the_window_change_nothing():
    worker = Worker()
    worker.hear(100, span=3 * PACE.open_pause)
    seen = set()
    for _ in range(10):
        seen.add(worker.hear(0, 0, PACE.close_idle // 2))
        seen.add(worker.hear(50, span=2 * BEAT))
    assert seen == {8}


def test_what_waits_for_a_moment_keeps_slots_open():
    worker = Worker()
    worker.hear(100, span=3 * PACE.open_pause)
    for _ in range(5):
        worker.hear(0, 0, PACE.close_idle - BEAT)
        assert worker.hear(1, 0) == 8


def test_with_equal_bounds_nothing_ever_changes():
    worker = Worker(3, 3)
    assert worker.hear(100, span=100 * BEAT) == worker.hear(0, 0, 10 * PACE.close_idle) == 3


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3_000), st.integers(0, 9), st.booleans()), max_size=200))
def test_the_bounds_hold_and_slots_close_one_at_a_time(steps):
    worker = Worker()
    for ready, oldest_ms, busy, is_long in steps:
        before = worker.scaling.open
        worker.hear(ready, oldest_ms, PACE.close_idle if is_long else BEAT, busy=busy)
        assert 2 <= worker.scaling.open <= 8
        assert worker.scaling.open >= min(before, busy) - 1
        if not is_long:
            assert before - 1 <= worker.scaling.open <= 2 * before
