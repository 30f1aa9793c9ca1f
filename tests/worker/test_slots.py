"""What a slot holds and whom it blames, without any process."""

from cluster.state.commands import OUTCOME_CANCELLED, OUTCOME_CRASHED, OUTCOME_RETURNED, OUTCOME_TIMED_OUT
from cluster.state.effects import Assignment
from cluster.worker.blame import Ended
from cluster.worker.page import WINDOW_TASKS
from cluster.worker.slots import OVERRUN_NS, TERM_GRACE_NS, WINDOW_BYTES, Due, Slot, Why

MS = 1_000_000
KILLED = Ended(None, 9, b"", now=5_000 * MS, wall_ms=1_000_000)


def slot_with(count: int, *, body: bytes = b"", estimate_us: int = 1_000, timeout_ms: int = 60_000) -> Slot:
    slot = Slot(0)
    for task in range(1, count + 1):
        slot.assign(Assignment(task, 1, 0, estimate_us, timeout_ms, "m:f", body))
    return slot


def sent(slot: Slot, claimed: int = 0) -> list[int]:
    tasks: list[int] = []
    while (batch := slot.next_batch(claimed)) is not None:
        tasks += [assignment.task for assignment in batch[1]]
    return tasks


def test_batches_are_numbered_without_gaps_and_stop_at_the_window():
    slot = slot_with(WINDOW_TASKS + 10)
    expected = 1
    while (batch := slot.next_batch(0)) is not None:
        first, items = batch
        assert first == expected
        expected += len(items)
    assert expected == WINDOW_TASKS + 1
    assert len(sent(slot, claimed=3)) == 3


def test_large_bodies_wait_until_earlier_ones_are_done_and_one_may_always_go():
    slot = slot_with(6, body=bytes(WINDOW_BYTES // 2))
    assert sent(slot) == [1, 2]
    assert slot.finish((1, 1))
    assert sent(slot) == [3]
    huge = slot_with(1, body=bytes(WINDOW_BYTES + 1))
    assert sent(huge) == [1]


def test_a_task_within_its_estimate_is_left_alone():
    slot = slot_with(3)
    sent(slot)
    assert slot.check(OVERRUN_NS, claimed=1, claimed_at=0) is Due.NOTHING
    assert slot.check(OVERRUN_NS + MS, claimed=1, claimed_at=0) is Due.HAND_BACK


def test_a_task_that_overruns_alone_has_nothing_to_hand_back():
    slot = slot_with(1)
    sent(slot)
    assert slot.check(OVERRUN_NS * 10, claimed=1, claimed_at=0) is Due.NOTHING


def test_what_is_queued_here_goes_back_too_when_the_slot_overruns():
    slot = slot_with(1)
    sent(slot)
    slot.assign(Assignment(9, 1, 0, 1, 1, "m:f", b""))
    assert slot.check(OVERRUN_NS * 10, claimed=1, claimed_at=0) is Due.HAND_BACK


def test_the_time_limit_counts_from_the_claim_and_kills_after_the_grace():
    slot = slot_with(1, timeout_ms=300)
    sent(slot)
    assert slot.check(1_299 * MS, claimed=1, claimed_at=1_000 * MS) is Due.NOTHING
    assert slot.check(1_300 * MS, claimed=1, claimed_at=1_000 * MS) is Due.END
    slot.end(Why.TIME_LIMIT, 1, 1_300 * MS)
    assert slot.check(1_301 * MS, claimed=1, claimed_at=1_000 * MS) is Due.NOTHING
    assert slot.check(1_300 * MS + TERM_GRACE_NS, claimed=1, claimed_at=1_000 * MS) is Due.KILL


def test_an_idle_slot_is_never_late():
    slot = slot_with(1)
    sent(slot)
    slot.finish((1, 1))
    assert slot.check(10**15, claimed=1, claimed_at=0) is Due.NOTHING


def test_the_claimed_task_of_a_lost_child_is_the_culprit_and_all_others_go_back():
    slot = slot_with(4)
    sent(slot)
    slot.assign(Assignment(5, 1, 0, 1, 1, "m:f", b""))
    slot.finish((1, 1))
    culprit, *others = slot.lost(2, 3_000 * MS, Ended(None, 9, b"tail", 5_000 * MS, 1_000_000))
    assert (culprit.task, culprit.status) == (2, OUTCOME_CRASHED)
    assert (culprit.started_ms, culprit.run_us) == (1_000_000 - 2_000, 2_000_000)
    assert culprit.error is not None
    assert (culprit.error.signal, culprit.error.exit_code, culprit.error.stderr) == (9, -1, "tail")
    assert [(outcome.task, outcome.status) for outcome in others] == [
        (3, OUTCOME_RETURNED),
        (4, OUTCOME_RETURNED),
        (5, OUTCOME_RETURNED),
    ]


def test_a_finished_task_is_no_culprit():
    slot = slot_with(2)
    sent(slot)
    slot.finish((1, 1))
    assert [outcome.status for outcome in slot.lost(1, 0, KILLED)] == [OUTCOME_RETURNED]


def test_a_child_ended_for_the_time_limit_of_a_task_blames_that_task_only_if_it_still_ran():
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.TIME_LIMIT, 1, 0)
    assert [outcome.status for outcome in slot.lost(1, 0, KILLED)] == [OUTCOME_TIMED_OUT, OUTCOME_RETURNED]
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.TIME_LIMIT, 1, 0)
    slot.finish((1, 1))
    assert [outcome.status for outcome in slot.lost(2, 0, KILLED)] == [OUTCOME_RETURNED]


def test_nothing_is_said_of_a_withdrawn_task_whose_child_was_ended_for_it():
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.WITHDRAWN, 1, 0)
    assert [(outcome.task, outcome.status) for outcome in slot.lost(1, 0, KILLED)] == [(2, OUTCOME_RETURNED)]


def test_a_task_is_warned_once_when_its_soft_time_limit_has_passed():
    slot = Slot(0)
    slot.assign(Assignment(1, 1, 0, 1_000, 60_000, "m:f", b"", False, 300))
    sent(slot)
    assert slot.check(299 * MS, claimed=1, claimed_at=0) is Due.NOTHING
    assert slot.check(300 * MS, claimed=1, claimed_at=0) is Due.WARN
    slot.warned(1)
    assert slot.check(301 * MS, claimed=1, claimed_at=0) is Due.NOTHING


def test_a_cancelled_task_is_ended_when_its_grace_is_over():
    slot = slot_with(3)
    sent(slot)
    next(iter(slot.pairs.values())).stop_at = 5_000
    assert slot.check(4_999, claimed=1, claimed_at=0) is Due.NOTHING
    assert slot.check(5_000, claimed=1, claimed_at=0) is Due.CANCEL
    assert slot.check(5_000, claimed=2, claimed_at=0) is Due.NOTHING, "another one runs"


def test_the_outcome_of_a_cancelled_task_that_had_to_be_ended_says_so():
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.CANCELLED, 1, now=0)
    ended, back = slot.lost(1, 0, KILLED)
    assert (ended.task, ended.status) == (1, OUTCOME_CANCELLED)
    assert ended.error is not None and (ended.error.type, ended.error.signal) == ("TaskCancelled", 9)
    assert back.status == OUTCOME_RETURNED


def test_a_cancelled_task_that_did_not_begin_leaves_the_slot():
    slot = slot_with(2)
    held = list(slot.pairs.values())[1]
    assert slot.give_up(held).status == OUTCOME_CANCELLED
    assert len(slot.pairs) == 1


def test_a_child_ended_for_its_memory_blames_the_task_that_was_meant_and_no_other():
    slot = slot_with(3)
    sent(slot)
    slot.end(Why.MEMORY_LIMIT, 1, 0, grace=0, reason="too large")
    culprit, *others = slot.lost(1, 0, KILLED)
    assert (culprit.task, culprit.status) == (1, OUTCOME_CRASHED)
    assert culprit.error is not None
    assert (culprit.error.type, culprit.error.message) == ("MemoryLimitExceeded", "too large")
    assert [outcome.status for outcome in others] == [OUTCOME_RETURNED] * 2
    slot = slot_with(3)
    sent(slot)
    slot.end(Why.MEMORY_LIMIT, 1, 0, grace=0, reason="too large")
    slot.finish((1, 1))
    assert [outcome.status for outcome in slot.lost(2, 0, KILLED)] == [OUTCOME_RETURNED] * 2


def test_what_is_kept_back_from_the_child_goes_first_and_in_order_later():
    slot = slot_with(4, body=bytes(WINDOW_BYTES // 4))
    slot.assign(Assignment(9, 1, 0, 1, 1, "m:f", b""))
    assert sent(slot) == [1, 2, 3, 4, 9]
    slot.assign(Assignment(10, 1, 0, 1, 1, "m:f", b""))
    slot.keep(slot.waiting(claimed=2))
    assert [held.assignment.task for held in slot.queued] == [3, 4, 9, 10]
    assert (list(slot.sent), len(slot.pairs)) == ([1, 2], 6)
    batch = slot.next_batch(2)
    assert batch is not None
    first, items = batch
    assert (first, [item.task for item in items]) == (6, [3, 4, 9, 10]), "numbers are not used twice"


def test_a_batch_is_no_longer_than_the_child_may_still_run():
    slot = slot_with(5)
    batch = slot.next_batch(0, 2)
    assert batch is not None and len(batch[1]) == 2
    assert slot.next_batch(0, 0) is None


def test_a_stopping_worker_blames_nobody():
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.STOPPING, 0, 0)
    first, second = slot.lost(1, 0, KILLED)
    assert (first.status, second.status) == (OUTCOME_RETURNED, OUTCOME_RETURNED)
    assert (first.started_ms, first.run_us) == (KILLED.wall_ms - KILLED.now // 1_000_000, KILLED.now // 1_000), "it ran"
    assert (first.error, second.started_ms) == (None, 0), "nobody is to blame, and the other one had not begun"


def test_a_slot_starts_over_with_a_new_child():
    slot = slot_with(2)
    sent(slot)
    slot.end(Why.STOPPING, 0, 0)
    slot.lost(1, 0, KILLED)
    slot.assign(Assignment(7, 1, 0, 1, 1, "m:f", b""))
    assert slot.next_batch(0) == (1, [Assignment(7, 1, 0, 1, 1, "m:f", b"")])


def test_a_child_that_is_being_ended_gets_nothing_more():
    slot = slot_with(2)
    slot.end(Why.TIME_LIMIT, 1, 0)
    assert slot.next_batch(0) is None


def test_only_what_is_not_claimed_can_be_withdrawn():
    slot = slot_with(3)
    sent(slot)
    assert [held.number for held in slot.waiting(claimed=1)] == [2, 3]


def test_an_outcome_of_a_task_that_was_given_up_is_not_taken():
    slot = slot_with(1)
    sent(slot)
    (held,) = slot.sent.values()
    slot.drop(held)
    assert not slot.finish((1, 1))
