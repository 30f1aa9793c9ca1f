"""Workers that open and shut slots: what is shut gets nothing, what it holds stays, and keys move."""

import pytest
from image_rig import assert_equal, restore

from cluster.state.commands import ROLE_WORKER, Register, WorkerSpec
from cluster.state.effects import ANSWER_OK, ANSWER_REFUSED


def slots_of(worker) -> set[int]:
    return {assignment.slot for assignment in worker.inbox}


def test_a_worker_begins_with_as_many_slots_as_it_says(rig):
    worker, client = rig.worker(slots=4, slots_min=2), rig.client()
    client.submit(count=10)
    assert slots_of(worker) == {0, 1} and len(worker.inbox) == 2


def test_what_waits_is_given_to_slots_that_open(rig):
    worker, client = rig.worker(slots=4, slots_min=1), rig.client()
    client.submit(count=10)
    assert worker.resize(3) == ANSWER_OK
    assert slots_of(worker) == {0, 1, 2}
    assert worker.resize(4) == ANSWER_OK and len(worker.inbox) == 4


def test_a_slot_that_is_shut_keeps_what_it_holds_and_gets_nothing_more(rig):
    worker, client = rig.worker(slots=3, slots_min=1), rig.client()
    worker.resize(3)
    client.submit(count=9)
    assert worker.resize(1) == ANSWER_OK
    assert slots_of(worker) == {0, 1, 2}, "nothing is taken from it"
    worker.complete(*worker.inbox)
    assert slots_of(worker) == {0}
    while worker.inbox:
        worker.complete(*worker.inbox)
        assert slots_of(worker) <= {0}
    assert rig.queue()["ready"] == 0


def test_the_loop_of_a_worker_is_never_shut(rig):
    worker, client = rig.worker(slots=2, slots_min=1, loop_names=("g",), loop_tasks=3, names=("f", "g")), rig.client()
    client.submit("g", 5)
    assert slots_of(worker) == {2} and len(worker.inbox) == 3
    worker.resize(2)
    worker.resize(1)
    worker.complete(*worker.inbox)
    assert slots_of(worker) == {2}


def test_keys_of_a_slot_that_is_shut_move_when_it_has_ended_what_it_runs(rig):
    worker, client = rig.worker(slots=2, slots_min=1, prefetch=1), rig.client()
    worker.resize(2)
    first = client.submit(key="a", actor="A")
    client.submit(key="b", actor="A")
    (last,) = [run for run in worker.inbox if run.slot == 1]
    key = "a" if [last.task] == first else "b"
    client.submit(key=key, actor="A")
    worker.resize(1)
    worker.complete(*worker.inbox)
    (moved,) = worker.inbox
    assert (moved.key, moved.slot) == (key, 0) and moved.epoch > last.epoch


@pytest.mark.parametrize("slots", [0, 1, 5, -1])
def test_a_number_beyond_its_bounds_is_refused(rig, slots):
    worker = rig.worker(slots=4, slots_min=2)
    assert worker.resize(slots) == ANSWER_REFUSED
    rig.client().submit(count=5)
    assert len(worker.inbox) == 2


def test_a_worker_without_bounds_cannot_be_resized(rig):
    worker = rig.worker(slots=3)
    assert worker.resize(2) == ANSWER_REFUSED
    rig.client().submit(count=5)
    assert len(worker.inbox) == 3


@pytest.mark.parametrize("slots_min", [-1, 5])
def test_bounds_that_are_none_are_refused(rig, slots_min):
    spec = WorkerSpec(4, ("default",), ("f",), slots_min=slots_min)
    (answer,) = rig.apply(Register("w1", 1, ROLE_WORKER, spec)).registered
    assert answer.code == ANSWER_REFUSED


def test_one_that_drains_opens_nothing(rig):
    worker, client = rig.worker(slots=4, slots_min=2), rig.client()
    client.submit(count=5)
    worker.drain()
    assert worker.resize(4) == ANSWER_OK and len(worker.inbox) == 2
    worker.complete(*worker.inbox)
    assert worker.inbox == []
    worker.expire()


def test_it_can_be_lost_with_slots_shut(rig):
    worker, client = rig.worker(slots=4, slots_min=1), rig.client()
    client.submit(count=3)
    worker.expire()
    other = rig.worker("w2", slots=3)
    assert len(other.inbox) == 3


def test_a_machine_that_is_restored_knows_which_are_shut(rig):
    worker, client = rig.worker(slots=4, slots_min=1), rig.client()
    client.submit(count=9)
    client.submit(key="k", actor="A")
    worker.resize(3)
    worker.resize(2)
    assert_equal(restore(rig.leader.image()), rig.leader)
