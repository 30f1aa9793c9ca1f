"""What a slot does to its child when tasks are cancelled or run for too long. The child is the other side of a real
claim page, in the test's hands; its process is a port that notes what it was sent.
"""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from actors import MILLISECOND, SECOND, Exit, Nanos
from cluster.state.commands import OUTCOME_CANCELLED, OUTCOME_COMPLETED, Outcome
from cluster.state.effects import Assignment
from cluster.worker.child_messages import FINISHED, WARNING_SIGNAL, Batch, Ready, StartFailed, batch_decoder, encode
from cluster.worker.page import PAGE_BYTES, ClaimPage
from cluster.worker.slot_child import SlotChild

MIB = 1024 * 1024


class Page:
    """A page whose lock is free, or held by somebody for good."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(PAGE_BYTES))
        self.is_stuck = False

    def acquire(self, timeout: Nanos) -> bool:
        return not self.is_stuck

    def release(self) -> None: ...


class ChildProcess:
    """The `Child` port."""

    def __init__(self) -> None:
        self.pid = 1
        self.page = Page()
        self.batches: list[Batch] = []
        self.signals: list[int] = []

    def send(self, frame: bytes) -> None:
        self.batches.append(batch_decoder.decode(frame))

    def signal(self, number: int) -> None:
        self.signals.append(number)


class Rig:
    """One slot, ready; it is the context and the owner of its `SlotChild` as well."""

    def __init__(self) -> None:
        self.time: Nanos = SECOND
        self.child = ChildProcess()
        self.said: list[Outcome] = []
        self.clock = self.processes = self.log = self
        self.slot = SlotChild(0, self, b"", self)  # type: ignore[arg-type]
        self.slot.start()
        self.page = ClaimPage(self.child.page.view, create=True)
        self.slot._on_frame(encode(Ready(("f",))))

    # -- ports and owner ----------------------------------------------------------------------------------------------

    def now(self) -> Nanos:
        return self.time

    def wall_ms(self) -> int:
        return 0

    def event(self, name: str, **fields: object) -> None: ...

    def spawn(self, entry: str, argument: bytes, **callbacks: object) -> ChildProcess:
        return self.child

    def callback(self, function: Any) -> Any:
        return function

    system = SimpleNamespace(node="w1")

    def child_ready(self, ready: Ready) -> None: ...

    def child_failed_to_start(self, report: StartFailed | Exit) -> None: ...

    def child_exited(self, slot: int) -> None: ...

    def outcomes(self, outcomes: list[Outcome]) -> None:
        self.said += outcomes

    # -- what a test does ---------------------------------------------------------------------------------------------

    def assign(self, *tasks: int, body: bytes = b"", soft_ms: int = 0) -> None:
        for task in tasks:
            self.slot.slot.assign(Assignment(task, 1, 0, 1_000, 60_000, "f", body, False, soft_ms))
        self.slot.feed()

    def claims(self, number: int) -> bool:
        return self.page.claim(number, self.time)

    def ends(self, task: int) -> None:
        self.page.ring.append(msgspec.msgpack.encode(Outcome(task, 1, OUTCOME_COMPLETED, 1, 1, b"")))

    def stop(self, *tasks: int) -> None:
        for task in tasks:
            self.slot.stop((task, 1), SECOND)

    def passes(self, span: Nanos) -> None:
        self.time += span
        self.slot.tick(self.time)

    @property
    def fates(self) -> list[tuple[int, int]]:
        return [(outcome.task, outcome.status) for outcome in self.said]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_has_not_begun_is_given_up_at_once_and_the_child_skips_it(rig: Rig):
    rig.assign(1, 2, 3)
    assert rig.claims(1)
    rig.stop(2)
    assert rig.fates == [(2, OUTCOME_CANCELLED)]
    assert not rig.claims(2) and rig.claims(3)


def test_what_waits_here_goes_to_the_child_when_all_that_was_there_is_given_up(rig: Rig):
    """The child skips withdrawn tasks without a word, so nobody else would think of the others."""
    rig.assign(*range(1, 7), body=bytes(MIB))
    sent = sum(len(batch.items) for batch in rig.child.batches)
    assert sent < 6, "its window is full"
    rig.stop(*range(1, sent + 1))
    assert sum(len(batch.items) for batch in rig.child.batches) == 6


def test_what_runs_is_asked_then_terminated_then_killed(rig: Rig):
    rig.assign(1)
    rig.claims(1)
    rig.stop(1)
    assert rig.page.is_stopped(1) and rig.child.signals == []
    rig.passes(SECOND - 1)
    assert rig.child.signals == []
    rig.passes(1)
    assert rig.child.signals == [15]
    rig.passes(2 * SECOND)
    assert rig.child.signals == [15, 9]


def test_to_stop_what_has_ended_asks_nobody_else_and_takes_nothing_back(rig: Rig):
    rig.assign(1, 2)
    rig.claims(1)
    rig.ends(1)
    rig.claims(2)
    rig.stop(2, 1)
    assert rig.page.is_stopped(2)
    rig.slot._on_frame(FINISHED)
    assert rig.fates == [(1, OUTCOME_COMPLETED)]


def test_the_lock_of_a_child_that_is_being_ended_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    rig.assign(1, 2, 3)
    rig.claims(1)
    rig.child.page.is_stuck = True
    rig.stop(2)
    assert rig.child.signals == [9]
    monkeypatch.setattr(rig.child.page, "acquire", None)
    rig.stop(1, 3)


def test_a_warning_is_for_the_task_that_runs_once_and_again_if_it_could_not_be_written_down(rig: Rig):
    rig.assign(1, soft_ms=300)
    rig.claims(1)
    rig.passes(300 * MILLISECOND - 1)
    assert rig.child.signals == []
    locked = rig.slot._locked
    rig.slot._locked = lambda timeout, action: None if timeout else locked(timeout, action)  # type: ignore[method-assign]
    rig.passes(1)
    assert rig.child.signals == []
    rig.slot._locked = locked  # type: ignore[method-assign]
    rig.passes(50 * MILLISECOND)
    assert rig.child.signals == [WARNING_SIGNAL] and rig.page.is_warned(1)
    rig.passes(50 * MILLISECOND)
    assert rig.child.signals == [WARNING_SIGNAL]


def test_a_warning_that_comes_late_is_for_nobody(rig: Rig):
    rig.assign(1, 2, soft_ms=300)
    rig.claims(1)
    rig.time += SECOND
    rig.ends(1)
    rig.claims(2)
    rig.slot._warn(1)
    assert rig.child.signals == [] and not rig.page.is_warned(2)
