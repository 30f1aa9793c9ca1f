"""What the event loop of a worker holds and whom it blames, without any process: the page is in the test's hands."""

import pytest

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    OUTCOME_TIMED_OUT,
    Outcome,
)
from cluster.state.effects import Assignment
from cluster.worker.blame import Ended
from cluster.worker.child_messages import ASK_CANCEL, ASK_LIMIT, ASK_WARN, ASK_WITHDRAW
from cluster.worker.loop_page import LOOP_PAGE_BYTES, LoopPage
from cluster.worker.loop_slots import STUCK_NS, THROWN_GRACE_NS, LoopSlot
from cluster.worker.slots import TERM_GRACE_NS, WINDOW_BYTES, Why

MS = 1_000_000
SECOND = 1_000 * MS
KILLED = Ended(None, 9, b"last words", now=50 * SECOND, wall_ms=1_000_000)


class Loop:
    """A loop with its page; tasks are 1, 2, 3, ... and time is what the test says."""

    def __init__(self, places: int = 8) -> None:
        self.slot = LoopSlot(3, places)
        self.page = LoopPage(memoryview(bytearray(LOOP_PAGE_BYTES)), create=True)
        self.now = SECOND

    def assign(self, *tasks: int, body: bytes = b"", timeout_ms: int = 20_000, soft_ms: int = 0) -> None:
        for task in tasks:
            self.slot.assign(Assignment(task, 1, 3, 1_000, timeout_ms, f"m:f{task}", body, False, soft_ms))

    def send(self) -> list[int]:
        self.slot.settle(self.page)
        batch = self.slot.next_batch(self.now)
        for held in batch:
            self.page.give(held.place)
        return [held.assignment.task for held in batch]

    def begin(self, *tasks: int) -> None:
        for task in tasks:
            assert self.page.begin(self.place(task), self.now)
        self.page.beat(self.now)

    def run(self, *tasks: int, **options: int) -> None:
        """They are assigned and begin."""
        self.assign(*tasks, **options)  # type: ignore[arg-type]
        self.send()
        self.begin(*tasks)

    def place(self, task: int) -> int:
        return self.slot.pairs[task, 1].place

    def passes(self, span: int, *, turns: bool = True) -> None:
        self.now += span
        if turns:
            self.page.beat(self.now)

    def check(self) -> tuple[dict[int, int], Why | None, bool]:
        """What is asked of which task, why the child is ended, and whether it is killed."""
        self.slot.settle(self.page)
        orders = self.slot.check(self.now, self.page)
        tasks = {held.place: held.assignment.task for held in self.slot.sent.values()}
        return {tasks[place]: ask for place, ask in orders.asks}, orders.end, orders.kill

    def lost(self, ended: Ended = KILLED) -> dict[int, int]:
        self.slot.settle(self.page)
        return fates(self.slot.lost(ended))


def fates(outcomes: list[Outcome]) -> dict[int, int]:
    return {outcome.task: outcome.status for outcome in outcomes}


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_everything_is_sent_at_once_as_far_as_there_are_places(loop: Loop):
    loop.assign(*range(1, 11))
    assert loop.send() == list(range(1, 9))
    assert loop.slot.finish((4, 1)) and loop.slot.finish((2, 1))
    assert loop.send() == [9, 10]
    assert len(set(loop.slot.sent)) == 8


def test_large_bodies_wait_until_earlier_ones_have_begun_and_one_may_always_go(loop: Loop):
    loop.assign(1, 2, 3, 4, body=bytes(WINDOW_BYTES // 2))
    assert loop.send() == [1, 2] and loop.send() == []
    loop.begin(1)
    assert loop.send() == [3]
    loop.begin(2, 3)
    loop.assign(5, body=bytes(WINDOW_BYTES + 1))
    assert loop.send() == [4]
    loop.begin(4)
    assert loop.send() == [5]


def test_a_place_is_used_again_only_when_the_child_has_seen_that_its_task_was_withdrawn():
    loop = Loop(places=1)
    loop.assign(1, 2)
    assert loop.send() == [1]
    held, place = loop.slot.pairs[1, 1], loop.place(1)
    assert loop.page.withdraw(place)
    loop.slot.taken_back(held)
    assert fates([loop.slot.hand_back(held)]) == {1: OUTCOME_RETURNED}
    assert loop.send() == []
    assert not loop.page.begin(place, loop.now)
    assert loop.send() == [2]


def test_what_has_begun_cannot_be_withdrawn(loop: Loop):
    loop.run(1)
    assert not loop.page.withdraw(loop.place(1))


def test_a_late_one_is_thrown_out_once_and_the_child_ended_if_it_stays(loop: Loop):
    loop.run(1, timeout_ms=300)
    loop.run(2)
    loop.passes(300 * MS - 1)
    assert loop.check() == ({}, None, False)
    loop.passes(1)
    assert loop.check() == ({1: ASK_LIMIT}, None, False)
    loop.passes(THROWN_GRACE_NS - 1)
    assert loop.check() == ({}, None, False)
    loop.passes(1)
    assert loop.check() == ({}, Why.TIME_LIMIT, False)
    loop.slot.end(Why.TIME_LIMIT, 0, loop.now)
    loop.passes(TERM_GRACE_NS)
    assert loop.check() == ({}, None, True)
    assert loop.lost() == {1: OUTCOME_TIMED_OUT, 2: OUTCOME_RETURNED}


def test_limits_count_from_the_beginning_not_from_the_sending(loop: Loop):
    loop.assign(1, timeout_ms=300)
    loop.send()
    loop.passes(SECOND)
    loop.begin(1)
    loop.passes(300 * MS - 1)
    assert loop.check() == ({}, None, False)


def test_a_warning_is_given_once_and_before_the_limit(loop: Loop):
    loop.run(1, soft_ms=100, timeout_ms=300)
    loop.passes(100 * MS)
    assert loop.check() == ({1: ASK_WARN}, None, False)
    loop.passes(100 * MS)
    assert loop.check() == ({}, None, False)
    loop.passes(100 * MS)
    assert loop.check() == ({1: ASK_LIMIT}, None, False)


def test_a_cancelled_one_is_thrown_out_after_its_grace(loop: Loop):
    loop.run(1, 2)
    loop.slot.pairs[1, 1].stop_at = loop.now + SECOND
    loop.passes(SECOND)
    assert loop.check() == ({1: ASK_CANCEL}, None, False)
    loop.passes(THROWN_GRACE_NS)
    assert loop.check() == ({}, Why.CANCELLED, False)
    loop.slot.end(Why.CANCELLED, 0, loop.now)
    assert loop.lost() == {1: OUTCOME_CANCELLED, 2: OUTCOME_RETURNED}


def test_one_that_was_given_up_is_thrown_out_and_never_heard_of_again(loop: Loop):
    loop.run(1, 2)
    loop.slot.pairs[1, 1].is_given_up = True
    assert loop.check() == ({1: ASK_WITHDRAW}, None, False)
    assert not loop.slot.finish((1, 1)) and loop.slot.finish((2, 1))
    loop.run(3, 4)
    loop.slot.pairs[3, 1].is_given_up = True
    loop.check()
    loop.passes(THROWN_GRACE_NS)
    assert loop.check() == ({}, Why.WITHDRAWN, False)
    loop.slot.end(Why.WITHDRAWN, 0, loop.now)
    assert loop.lost() == {4: OUTCOME_RETURNED}


def test_a_loop_that_is_stuck_with_nobody_late_is_left_alone_and_says_whose_code_it_is_in(loop: Loop):
    loop.run(1, 2)
    loop.page.enter(loop.place(2))
    loop.passes(STUCK_NS - 1, turns=False)
    assert loop.slot.stuck(loop.now, loop.page) is None
    loop.passes(1, turns=False)
    assert loop.check() == ({}, None, False)
    stuck = loop.slot.stuck(loop.now, loop.page)
    assert stuck is not None and stuck.by is not None
    assert (stuck.by.task, set(stuck.running), stuck.since) == (2, {1, 2}, loop.now - STUCK_NS)


def test_a_stuck_loop_is_ended_as_soon_as_somebody_is_late_and_who_holds_it_up_is_suspected(loop: Loop):
    loop.run(1, timeout_ms=5_000)
    loop.run(2, 3)
    loop.assign(4)
    loop.send()
    loop.page.enter(loop.place(2))
    loop.passes(5 * SECOND, turns=False)
    assert loop.check() == ({1: ASK_LIMIT}, Why.TIME_LIMIT, False)
    loop.slot.end(Why.TIME_LIMIT, 1 + loop.place(2), loop.now)
    outcomes = {1: OUTCOME_TIMED_OUT, 2: OUTCOME_SUSPECTED, 3: OUTCOME_RETURNED, 4: OUTCOME_RETURNED}
    assert loop.lost() == outcomes


def test_who_holds_it_up_past_its_own_limit_has_timed_out(loop: Loop):
    loop.run(1, timeout_ms=5_000)
    loop.run(2)
    loop.page.enter(loop.place(1))
    loop.passes(5 * SECOND, turns=False)
    assert loop.check()[1] is Why.TIME_LIMIT
    loop.slot.end(Why.TIME_LIMIT, 1 + loop.place(1), loop.now)
    assert loop.lost() == {1: OUTCOME_TIMED_OUT, 2: OUTCOME_RETURNED}


def test_an_idle_loop_is_not_stuck_and_one_that_does_not_take_what_it_is_sent_is(loop: Loop):
    loop.passes(100 * SECOND, turns=False)
    assert loop.slot.stuck(loop.now, loop.page) is None
    loop.assign(1, timeout_ms=10_000)
    loop.send()
    loop.passes(STUCK_NS - 1, turns=False)
    assert loop.slot.stuck(loop.now, loop.page) is None
    loop.passes(1, turns=False)
    assert loop.slot.stuck(loop.now, loop.page) is not None
    assert loop.check() == ({}, None, False)
    loop.passes(10 * SECOND, turns=False)
    assert loop.check() == ({}, Why.NO_ANSWER, False)
    loop.slot.end(Why.NO_ANSWER, 0, loop.now)
    assert loop.lost() == {1: OUTCOME_RETURNED}


def test_a_child_that_died_with_one_task_blames_it_with_the_evidence(loop: Loop):
    loop.run(1)
    loop.assign(2)
    loop.send()
    loop.assign(*range(3, 12))
    (culprit, *others) = loop.slot.lost(KILLED)
    assert (culprit.task, culprit.status) == (1, OUTCOME_CRASHED)
    assert culprit.error is not None
    assert (culprit.error.signal, culprit.error.stderr) == (9, "last words")
    assert culprit.run_us == 49_000_000
    assert {outcome.status for outcome in others} == {OUTCOME_RETURNED} and len(others) == 10


def test_a_child_that_died_with_several_makes_suspects_of_those_that_had_begun(loop: Loop):
    loop.run(1, 2, 3)
    loop.slot.finish((2, 1))
    loop.assign(4)
    loop.send()
    outcomes = loop.slot.lost(KILLED)
    assert fates(outcomes) == {1: OUTCOME_SUSPECTED, 3: OUTCOME_SUSPECTED, 4: OUTCOME_RETURNED}
    assert outcomes[0].error is not None and "2 tasks" in outcomes[0].error.message


def test_what_begins_after_the_last_look_is_known_when_the_child_is_lost(loop: Loop):
    loop.assign(1, 2)
    loop.send()
    loop.check()
    loop.begin(1, 2)
    assert loop.lost() == {1: OUTCOME_SUSPECTED, 2: OUTCOME_SUSPECTED}


def test_a_child_that_the_worker_stops_blames_nobody_and_the_next_begins_anew(loop: Loop):
    loop.run(1, 2)
    loop.slot.end(Why.STOPPING, 0, loop.now, grace=0)
    assert loop.send() == []
    assert loop.lost() == {1: OUTCOME_RETURNED, 2: OUTCOME_RETURNED}
    loop.assign(*range(3, 12))
    assert len(loop.send()) == 8
