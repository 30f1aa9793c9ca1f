"""What a leader tells workers that could open slots: how much waits for them, and for how long."""

import pytest
from state_rig import Rig

from actors import MILLISECOND
from cluster.broker.slot_hints import LOOK_INTERVAL, MARKS_MAX, NOTHING, SlotHints

BEAT = 500 * MILLISECOND


class Leader:
    """Hears each worker every 500 ms."""

    def __init__(self, rig: Rig) -> None:
        self.now = 1_000 * BEAT
        self.hints = SlotHints(rig.leader, lambda: self.now)

    def beat(self, *workers, beats: int = 1):
        """What the workers are told the last time."""
        for _ in range(beats):
            self.now += BEAT
            told = [self.hints.hint(worker.session) for worker in workers]
        return told[0] if len(workers) == 1 else told


@pytest.fixture
def leader(rig):
    return Leader(rig)


def test_a_worker_without_bounds_is_told_nothing(rig, leader):
    worker = rig.worker(slots=4)
    rig.client().submit(count=10)
    assert leader.beat(worker, beats=4) == NOTHING
    assert leader.hints.hint(77) == NOTHING


def test_a_worker_is_told_how_much_waits_and_since_when(rig, leader):
    worker = rig.worker(slots=4, slots_min=1)
    assert leader.beat(worker) == NOTHING
    rig.client().submit(count=10)
    assert [leader.beat(worker) for _ in range(4)] == [(9, 0), (9, 500), (9, 1_000), (9, 1_500)]


def test_tasks_that_come_and_go_have_not_waited(rig, leader):
    worker, client = rig.worker(slots=4, slots_min=1), rig.client()
    leader.beat(worker)
    for _ in range(10):
        client.submit(count=3)
        ready, oldest_ms = leader.beat(worker)
        assert ready == 2 and oldest_ms == 0
        while worker.inbox:
            worker.complete(*worker.inbox)


def test_the_age_of_a_queue_that_never_runs_dry_is_about_what_its_tasks_wait(rig, leader):
    worker, client = rig.worker(slots=4, slots_min=1), rig.client()
    client.submit(count=60)
    ages = []
    for _ in range(200):
        ages.append(leader.beat(worker)[1])
        client.submit(count=1)
        worker.complete(*worker.inbox)
    waited_ms = 60 * 500
    assert max(ages) <= waited_ms + 500, "not more than the truth"
    assert min(ages[MARKS_MAX:]) >= (MARKS_MAX - 2) * 500, "and enough of it at any time"


def test_of_one_task_one_worker_hears(rig, leader):
    workers = [rig.worker(f"w{number}", slots=4, slots_min=1) for number in range(3)]
    leader.beat(*workers)
    rig.client().submit(count=3 + 1)
    assert leader.beat(*workers, beats=3) == [(1, 1_000), NOTHING, NOTHING]
    rig.client("c2").submit(count=4)
    assert sorted(ready for ready, _ in leader.beat(*workers)) == [1, 2, 2]


def test_what_the_first_worker_does_nothing_about_another_one_hears_of(rig, leader):
    """Its children may fail to start, for one."""
    workers = [rig.worker(f"w{number}", slots=4, slots_min=1) for number in range(3)]
    leader.beat(*workers)
    rig.client().submit(count=3 + 1)
    heard = [leader.beat(*workers) for _ in range(130)]
    asked = [next(place for place, hint in enumerate(hints) if hint != NOTHING) for hints in heard]
    assert all(len([hint for hint in hints if hint != NOTHING]) == 1 for hints in heard), "one of them at a time"
    assert set(asked[:30]) == {0} and set(asked) == {0, 1, 2}


def test_who_has_opened_all_and_who_is_gone_takes_no_share(rig, leader):
    first, second = [rig.worker(f"w{number}", slots=2, slots_min=1) for number in range(2)]
    rig.client().submit(count=12)
    assert [ready for ready, _ in leader.beat(first, second, beats=2)] == [5, 5]
    first.resize(2)
    assert [ready for ready, _ in leader.beat(first, second)] == [0, 9]
    second.expire()
    leader.hints.forget(second.session)
    assert leader.beat(first, second) == [NOTHING, NOTHING]


def test_one_look_answers_all_that_are_heard_within_it(rig, leader):
    first, second = [rig.worker(f"w{number}", slots=2, slots_min=1) for number in range(2)]
    leader.beat(first, second)
    rig.client().submit(count=4)
    leader.beat(first)
    rig.client("c2").submit(count=20)
    leader.now += LOOK_INTERVAL - 1
    assert leader.hints.hint(second.session) == (1, 0)


def test_a_new_term_begins_anew(rig, leader):
    worker = rig.worker(slots=4, slots_min=1)
    rig.client().submit(count=10)
    assert leader.beat(worker, beats=10)[1] > 4_000
    leader.hints.restart()
    assert leader.beat(worker) == (9, 0)
