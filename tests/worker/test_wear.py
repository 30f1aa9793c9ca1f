"""When a child has served long enough, without any process."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.wear import ROOM_MAX, UNLIMITED, Stage, Step, Wear, WearLimits

MB = 1_000_000
ABOVE = WearLimits(recycle_above=500 * MB)
LIMIT = WearLimits(memory_limit=1_000 * MB)


def step(wear: Wear, at_child: int = 0, successor: str = "none") -> Step:
    return wear.next_step(at_child, has_successor=successor != "none", is_ready=successor == "ready")


def test_a_child_without_limits_is_never_looked_at_and_never_replaced():
    wear = Wear(UNLIMITED)
    wear.tasks_ended(1_000_000)
    assert not wear.wants_look(is_working=True) and not wear.wants_look(is_working=False)
    assert step(wear) is Step.NOTHING and wear.room(5) == ROOM_MAX


def test_a_child_is_given_no_more_tasks_than_it_may_run():
    wear = Wear(WearLimits(recycle_after=3))
    assert [wear.room(at_child) for at_child in range(5)] == [3, 2, 1, 0, 0]
    wear.tasks_ended(2)
    assert [wear.room(at_child) for at_child in range(3)] == [1, 0, 0]


def test_its_successor_starts_with_its_last_task_and_takes_over_after_it():
    wear = Wear(WearLimits(recycle_after=3))
    assert step(wear, 2) is Step.NOTHING
    assert step(wear, 3) is Step.START
    assert step(wear, 3, "starting") is Step.NOTHING
    assert step(wear, 3, "ready") is Step.NOTHING
    wear.tasks_ended(3)
    assert step(wear, 0, "starting") is Step.NOTHING
    assert step(wear, 0, "ready") is Step.REPLACE


def test_a_task_that_was_taken_back_may_be_replaced_by_another():
    wear = Wear(WearLimits(recycle_after=3))
    assert step(wear, 3) is Step.START
    wear.tasks_ended(1)
    assert (wear.room(1), step(wear, 1, "ready")) == (1, Step.NOTHING)


def test_what_has_grown_works_on_until_its_successor_is_ready_and_is_looked_at_between_two_tasks():
    wear = Wear(ABOVE)
    wear.tasks_ended(1)
    assert not wear.looked(501 * MB, is_working=True)
    assert step(wear, 4) is Step.START
    assert step(wear, 4, "starting") is Step.NOTHING
    assert wear.room(4) == ROOM_MAX
    assert step(wear, 4, "ready") is Step.HOLD
    wear.hold()
    assert wear.room(1) == 0
    assert step(wear, 1, "ready") is Step.NOTHING
    wear.tasks_ended(1)
    assert step(wear, 0, "ready") is Step.LOOK
    wear.looked(501 * MB, is_working=False)
    assert step(wear, 0, "ready") is Step.REPLACE


def test_what_has_shrunk_again_goes_on_and_its_successor_waits():
    wear = Wear(ABOVE)
    wear.tasks_ended(1)
    wear.looked(501 * MB, is_working=True)
    wear.hold()
    wear.looked(500 * MB, is_working=False)
    assert (wear.stage, wear.room(0), step(wear, 0, "ready")) == (Stage.FRESH, ROOM_MAX, Step.NOTHING)


def test_one_look_is_enough_until_another_task_has_ended():
    wear = Wear(ABOVE)
    assert not wear.wants_look(is_working=True)
    wear.tasks_ended(1)
    assert wear.wants_look(is_working=False) and wear.wants_look(is_working=True)
    wear.looked(1, is_working=True)
    assert not wear.wants_look(is_working=True)


def test_a_memory_limit_is_looked_after_while_a_task_runs_and_ends_it():
    wear = Wear(LIMIT)
    assert wear.wants_look(is_working=True) and not wear.wants_look(is_working=False)
    assert not wear.looked(1_000 * MB, is_working=True)
    assert wear.wants_look(is_working=True)
    assert wear.looked(1_000 * MB + 1, is_working=True)


def test_what_is_above_its_memory_limit_between_two_tasks_gets_no_other():
    """Another one would be ended for what this one left."""
    wear = Wear(LIMIT)
    wear.tasks_ended(1)
    assert wear.wants_look(is_working=False)
    assert not wear.looked(1_001 * MB, is_working=False)
    assert (wear.room(0), step(wear), step(wear, 0, "ready")) == (0, Step.START, Step.REPLACE)


def test_memory_that_cannot_be_told_is_none():
    wear = Wear(WearLimits(0, 500 * MB, 1_000 * MB))
    wear.tasks_ended(1)
    assert not wear.looked(0, is_working=True)
    assert step(wear, 1) is Step.NOTHING


@given(
    st.builds(WearLimits, st.integers(0, 4), st.sampled_from([0, 500]), st.sampled_from([0, 1_000])),
    st.lists(st.tuples(st.integers(0, 1_500), st.booleans()), max_size=30),
)
def test_whatever_is_seen_the_steps_lead_to_a_child_that_may_be_fed(limits, seen):
    """A slot with a task waiting and a successor that starts: no course of events leaves it at a standstill."""
    wear, replaced = Wear(limits), 0
    for memory, is_working in seen:
        at_child = min(1, wear.room(0))
        if at_child and wear.looked(memory, is_working=is_working):
            wear, at_child = Wear(limits), 0        # killed
        for successor in ("none", "starting", "ready"):
            if step(wear, at_child, successor) is Step.HOLD:
                wear.hold()
        if at_child:
            wear.tasks_ended(1)
        for _ in range(3):
            due = step(wear, 0, "ready")
            if due is Step.HOLD:
                wear.hold()
            elif due is Step.LOOK:
                wear.looked(memory, is_working=False)
            elif due is Step.REPLACE:
                wear, replaced = Wear(limits), replaced + 1
        assert wear.room(0) > 0
    assert limits != UNLIMITED or replaced == 0
