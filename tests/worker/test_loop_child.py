"""What a worker does to the process of its event loop. The child is the other side of a real page, in the test's hands;
its process is a port that notes what it was sent.
"""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from actors import MILLISECOND, SECOND, Exit, Nanos
from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    Outcome,
)
from cluster.state.effects import Assignment
from cluster.worker.child_messages import (
    ASK_CANCEL,
    ASK_WITHDRAW,
    FINISHED,
    Asks,
    Places,
    Ready,
    StartFailed,
    encode,
    to_loop_decoder,
)
from cluster.worker.executor_child import LOCK_MISSES_MAX
from cluster.worker.loop_child import LoopChild
from cluster.worker.loop_page import LOOP_PAGE_BYTES, LoopPage
from cluster.worker.slots import Why

PLACES = 4


class Page:
    """A page whose lock is free, or held by somebody for good."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(LOOP_PAGE_BYTES))
        self.is_stuck = False
        self.waits = 0

    def acquire(self, timeout: Nanos) -> bool:
        self.waits += self.is_stuck and timeout > 0
        return not self.is_stuck

    def release(self) -> None: ...


class ChildProcess:
    """The `Child` port."""

    def __init__(self) -> None:
        self.pid = 1
        self.page = Page()
        self.places: dict[int, int] = {}        # task -> place
        self.asks: list[tuple[int, int]] = []   # (place, ask)
        self.frames_of_asks = 0
        self.signals: list[int] = []

    def send(self, frame: bytes) -> None:
        message = to_loop_decoder.decode(frame)
        if isinstance(message, Places):
            self.places |= {item.task: place for place, item in zip(message.places, message.items, strict=True)}
        else:
            assert isinstance(message, Asks)
            self.frames_of_asks += 1
            self.asks += zip(message.places, message.asks, strict=True)

    def signal(self, number: int) -> None:
        self.signals.append(number)


class Rig:
    """One loop, ready; it is the context and the owner of its `LoopChild` as well."""

    def __init__(self, places: int = PLACES) -> None:
        self.time: Nanos = SECOND
        self.child = ChildProcess()
        self.said: list[Outcome] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.pauses: list[Nanos] = []
        self.labels: list[object] = []
        self.clock = self.processes = self.log = self
        self.loop = LoopChild(2, places, self, b"", self)  # type: ignore[arg-type]
        self.begins()

    def begins(self) -> None:
        self.child = ChildProcess()
        if self.loop._child is None:
            self.loop.start()
        self.page = LoopPage(self.child.page.view, create=True)
        self.loop._on_frame(encode(Ready(("f",), ("f",))))

    # -- ports and owner ----------------------------------------------------------------------------------------------

    def now(self) -> Nanos:
        return self.time

    def wall_ms(self) -> int:
        return 0

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def spawn(self, entry: str, argument: bytes, *, label: str, **callbacks: object) -> ChildProcess:
        self.labels.append(label)
        return self.child

    def timer(self, key: object, delay: Nanos, start: Any) -> None:
        self.pauses.append(delay)
        start()

    def callback(self, function: Any) -> Any:
        return function

    def call_at(self, when: Nanos, callback: Any) -> None: ...

    system = SimpleNamespace(node="w1")

    def child_ready(self, ready: Ready) -> None: ...

    def child_failed_to_start(self, report: StartFailed | Exit) -> None: ...

    def child_exited(self, slot: int) -> None: ...

    def outcomes(self, outcomes: list[Outcome]) -> None:
        self.said += outcomes

    # -- what a test does ---------------------------------------------------------------------------------------------

    def assign(self, *tasks: int, timeout_ms: int = 60_000) -> None:
        for task in tasks:
            self.loop.slot.assign(Assignment(task, 1, 2, 1_000, timeout_ms, "f", b""))
        self.loop.feed()

    def begin(self, *tasks: int) -> None:
        for task in tasks:
            assert self.page.begin(self.child.places[task], self.time)
        self.page.beat(self.time)

    def ends(self, *tasks: int) -> None:
        for task in tasks:
            self.page.ring.append(msgspec.msgpack.encode(Outcome(task, 1, OUTCOME_COMPLETED, 1, 1, b"")))

    def passes(self, span: Nanos, *, turns: bool = True) -> None:
        self.time += span
        if turns:
            self.page.beat(self.time)
        self.loop.tick(self.time)

    @property
    def asked(self) -> list[tuple[int, int]]:
        """What was asked of which task."""
        tasks = {place: task for task, place in self.child.places.items()}
        return [(tasks[place], ask) for place, ask in self.child.asks]

    @property
    def fates(self) -> list[tuple[int, int]]:
        return [(outcome.task, outcome.status) for outcome in self.said]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_ends_makes_room_for_what_waits_here(rig: Rig):
    rig.assign(*range(1, 7))
    assert sorted(rig.child.places) == [1, 2, 3, 4]
    rig.begin(1, 2, 3, 4)
    rig.ends(2, 4)
    rig.loop._on_frame(FINISHED)
    assert rig.fates == [(2, OUTCOME_COMPLETED), (4, OUTCOME_COMPLETED)]
    assert sorted(rig.child.places) == [1, 2, 3, 4, 5, 6]


def test_finished_outcomes_are_collected_by_the_tick_while_the_loop_is_held_up(rig: Rig):
    rig.assign(1, 2)
    rig.begin(1, 2)
    rig.ends(1)
    rig.passes(50 * MILLISECOND, turns=False)
    assert rig.fates == [(1, OUTCOME_COMPLETED)]


def test_to_stop_what_has_not_begun_gives_it_up_at_once_and_what_runs_is_asked_and_thrown_out(rig: Rig):
    rig.assign(1, 2, 3, 4, 5)
    rig.begin(1)
    for task in (1, 2, 5):
        rig.loop.stop((task, 1), SECOND)
    assert rig.fates == [(2, OUTCOME_CANCELLED), (5, OUTCOME_CANCELLED)]
    assert rig.page.is_stopped(rig.child.places[1]) and not rig.page.begin(rig.child.places[2], rig.time)
    rig.passes(SECOND - 1)
    assert rig.asked == []
    rig.passes(1)
    assert rig.asked == [(1, ASK_CANCEL)]
    rig.ends(1)
    rig.passes(50 * MILLISECOND)
    assert rig.fates[2:] == [(1, OUTCOME_COMPLETED)] and rig.child.signals == []


def test_what_is_withdrawn_is_thrown_out_at_once_and_the_child_terminated_and_killed_if_it_stays(rig: Rig):
    rig.assign(1, 2, 3)
    rig.begin(1, 2)
    rig.loop.withdraw((1, 1))
    rig.loop.withdraw((3, 1))
    rig.loop.throw_out()
    assert rig.asked == [(1, ASK_WITHDRAW)]
    rig.passes(2 * SECOND)
    assert rig.child.signals == [15]
    rig.loop.withdraw((2, 1))
    rig.passes(2 * SECOND)
    assert rig.child.signals == [15, 9]
    rig.loop._on_exit(Exit(None, 9))
    assert rig.fates == []


def test_all_that_is_withdrawn_at_once_is_thrown_out_with_one_look():
    rig = Rig(places=1_000)
    tasks = range(1, 1_001)
    rig.assign(*tasks)
    rig.begin(*tasks)
    for task in tasks:
        rig.loop.withdraw((task, 1))
    rig.loop.throw_out()
    assert sorted(rig.asked) == [(task, ASK_WITHDRAW) for task in tasks]
    assert rig.child.frames_of_asks == 1


def test_a_loop_is_not_stuck_because_its_worker_was_late(rig: Rig):
    rig.assign(1, 2)
    rig.begin(1, 2)
    rig.passes(50 * MILLISECOND)
    rig.passes(10 * SECOND, turns=False)     # both were stopped, and the worker goes on first
    assert rig.events == []
    rig.passes(50 * MILLISECOND)
    for _ in range(41):
        rig.passes(50 * MILLISECOND, turns=False)
    assert [name for name, _ in rig.events] == ["loop_stuck"]


def test_a_drain_hands_back_what_has_not_begun(rig: Rig):
    rig.assign(*range(1, 7))
    rig.begin(1, 3)
    rig.loop.hand_back()
    assert sorted(rig.fates) == [(task, OUTCOME_RETURNED) for task in (2, 4, 5, 6)]
    assert rig.loop.is_working and rig.loop.running_tasks == [1, 3]


def test_a_lock_that_stays_taken_is_waited_for_once_and_costs_the_child(rig: Rig):
    rig.assign(1, 2, 3)
    rig.begin(1)
    rig.child.page.is_stuck = True
    rig.loop.hand_back()
    assert (rig.child.page.waits, rig.child.signals) == (1, [9])
    rig.loop._on_exit(Exit(None, 9))
    assert sorted(rig.fates) == [(1, OUTCOME_RETURNED), (2, OUTCOME_RETURNED), (3, OUTCOME_RETURNED)]


def test_a_lock_that_stays_taken_is_not_waited_for_again_while_the_child_ends(rig: Rig):
    rig.assign(1, 2, 3)
    rig.begin(1, 2, 3)
    rig.ends(1)
    rig.child.page.is_stuck = True
    for task in (1, 2, 3):
        rig.loop.withdraw((task, 1))
    assert rig.child.page.waits == 1


def test_ticks_that_find_the_lock_taken_too_often_cost_the_child_too(rig: Rig):
    rig.assign(1)
    rig.child.page.is_stuck = True
    for _ in range(LOCK_MISSES_MAX):
        rig.passes(50 * MILLISECOND)
    assert rig.child.signals == [9]


def test_a_stuck_loop_is_logged_once_a_minute_with_whom_it_is_stuck_in(rig: Rig):
    rig.assign(1, 2, timeout_ms=64_000)
    rig.begin(1, 2)
    rig.page.enter(rig.child.places[2])
    for _ in range(50):
        rig.passes(SECOND, turns=False)
    (event,) = rig.events
    assert event[0] == "loop_stuck"
    assert {key: event[1][key] for key in ("peer", "task", "running")} == {"peer": "f", "task": 2, "running": 2}
    for _ in range(15):                      # past the minute, and the limit
        rig.passes(SECOND, turns=False)
    assert [name for name, _ in rig.events] == ["loop_stuck", "loop_stuck"] and rig.child.signals == [15]


def test_a_child_that_dies_is_started_again_and_gets_what_comes_next(rig: Rig):
    rig.assign(1, 2)
    rig.begin(1, 2)
    rig.ends(1)
    old, rig.child = rig.child, ChildProcess()
    rig.loop._on_exit(Exit(None, 11))
    assert old.signals == []
    assert rig.fates == [(1, OUTCOME_COMPLETED), (2, OUTCOME_CRASHED)]
    rig.assign(3)
    rig.page = LoopPage(rig.child.page.view, create=True)
    rig.loop._on_frame(encode(Ready(("f",), ("f",))))
    assert sorted(rig.child.places) == [3]
    rig.assign(4)
    rig.begin(3, 4)
    rig.loop._on_exit(Exit(3, None))
    assert rig.fates[2:] == [(3, OUTCOME_SUSPECTED), (4, OUTCOME_SUSPECTED)]


def test_what_a_stopping_worker_cuts_off_goes_back_with_the_time_of_its_beginning(rig: Rig):
    rig.assign(1, 2)
    rig.begin(1)
    rig.passes(SECOND)
    rig.loop.kill(Why.STOPPING)
    rig.loop._on_exit(Exit(None, 9))
    assert rig.fates == [(1, OUTCOME_RETURNED), (2, OUTCOME_RETURNED)]
    began, waited = rig.said
    assert (began.started_ms, began.run_us) == (rig.wall_ms() - 1_000, SECOND // 1_000)
    assert (waited.started_ms, waited.run_us) == (0, 0)


def test_garbage_from_the_child_costs_it(rig: Rig):
    rig.assign(1)
    rig.begin(1)
    rig.loop._on_frame(b"\xc1")
    assert rig.child.signals == [9]


def test_children_that_end_without_a_task_are_started_again_after_growing_pauses(rig: Rig):
    for _ in range(4):
        rig.child = ChildProcess()
        rig.loop._on_exit(Exit(1, None))
    assert rig.pauses == [50 * MILLISECOND, 100 * MILLISECOND, 200 * MILLISECOND]
    rig.page = LoopPage(rig.child.page.view, create=True)
    rig.loop._on_frame(encode(Ready(("f",), ("f",))))
    rig.assign(1)
    rig.begin(1)
    rig.loop._on_exit(Exit(1, None))
    assert len(rig.pauses) == 3, "this one died of its task"
    assert rig.labels == ["w1/loop"] * 6


def test_a_loop_that_is_closed_is_not_started_again(rig: Rig):
    rig.loop.is_stopped = True
    rig.loop._on_exit(Exit(0, None))
    assert rig.pauses == [] and rig.labels == ["w1/loop"]
