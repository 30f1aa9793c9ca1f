"""The leader's part of locks, by itself: what it proposes, and again if nothing came of it."""

from collections.abc import Callable

import pytest

from actors import MILLISECOND, SECOND, Nanos
from cluster.broker.delivery import Delivery
from cluster.broker.entries import EntryBuilder
from cluster.broker.inspection import Inspection
from cluster.broker.lease_table import LeaseTable
from cluster.broker.link import Links
from cluster.broker.lock_service import PROPOSE_AGAIN, LockService
from cluster.broker.questions import Questions
from cluster.state.commands import ROLE_CLIENT, Acquire, Command, Extend, Lapse, Register, Stamp
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.wire import Message

HOLD_MS = 4_000
AT_MOST_MS = 3_000
LOOK = 500 * MILLISECOND


class Quiet:
    def event(self, name: str, /, **fields: object) -> None:
        return


def at_once(callback: Callable[[], None]) -> None:
    callback()


def no_schedules(question: object) -> Message:
    raise AssertionError("nobody asks for schedules here")


class Leader:
    """Looks twice a second. `proposed` are the Lapses that it wrote, and when; nothing comes of them but by `apply`."""

    def __init__(self) -> None:
        self.now: Nanos = 0
        self.machine = machine = Machine()
        self.leases = LeaseTable()
        self.proposed: list[tuple[Nanos, Lapse]] = []
        links = Links(machine)
        questions = Questions(
            machine, links, Delivery(machine, links, Quiet(), lambda link: None), dict, at_once, lambda number: None,
            lambda link, reason: None, Inspection(machine, links, at_once, lambda task: None, no_schedules),
        )  # fmt: skip
        self.service = LockService(
            machine, links, self.leases, questions, Quiet(), lambda: self.now,
            lambda lapse: self.proposed.append((self.now, lapse)), lambda link, reason: None,
        )  # fmt: skip
        self.apply(Register("holder", 1, ROLE_CLIENT))
        self.leases.heard(1, 0)

    def apply(self, *commands: Command) -> None:
        builder, effects = EntryBuilder(), Effects()
        for command in commands:
            builder.add(command, 0)
        (payload,) = builder.take(Stamp(1 + self.now // MILLISECOND, 1))
        self.machine.apply(self.machine.applied_index + 1, 1, payload, effects)
        self.service.carry_out(effects)

    def look_until(self, end: Nanos, *, hears: bool = False) -> None:
        while self.now < end:
            self.now += LOOK
            if hears:
                self.leases.heard(1, self.now)
            self.service.look(self.now)

    @property
    def holds(self) -> bool:
        return self.machine.locks.holds(1)


@pytest.fixture
def leader() -> Leader:
    return Leader()


def test_a_claim_of_one_that_is_silent_is_proposed_to_end_again_until_something_came_of_it(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS))
    leader.look_until(4 * SECOND + 2 * PROPOSE_AGAIN + SECOND)
    first, again, third = leader.proposed
    assert [at for at, _ in leader.proposed] == [4 * SECOND + turn * PROPOSE_AGAIN for turn in range(3)]
    assert first[1] == again[1] == third[1] and first[1].silent
    assert leader.service.is_lapsing(1), "its heartbeats are not answered as long as one may be written"
    leader.apply(third[1])
    assert not leader.holds and not leader.service.is_lapsing(1)
    leader.look_until(60 * SECOND)
    assert len(leader.proposed) == 3


def test_what_was_proposed_twice_ends_one_claim(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS), Acquire(1, 2, 1, 2, "door", 1, 1, HOLD_MS))
    leader.look_until(4 * SECOND + PROPOSE_AGAIN)
    (_, first), (_, again) = leader.proposed
    leader.apply(Lapse(first.silent[:2]))
    assert leader.machine.locks.holds(2)
    leader.apply(Lapse(again.silent[:2]))
    assert leader.machine.locks.holds(2)


def test_one_that_is_heard_again_while_nothing_came_of_its_end_keeps_its_claim_until_it_is_proposed_again(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS))
    leader.look_until(5 * SECOND)
    leader.look_until(5 * SECOND + 3 * PROPOSE_AGAIN, hears=True)
    assert len(leader.proposed) == 1 and leader.holds


def test_a_turn_that_is_over_is_proposed_to_end_again_and_a_longer_one_is_counted_anew(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS, True, "", AT_MOST_MS))
    leader.look_until(LOOK + 3 * SECOND + PROPOSE_AGAIN, hears=True)
    first, again = [at for at, _ in leader.proposed]
    assert (first, again - first) == (LOOK + 3 * SECOND, PROPOSE_AGAIN) and leader.proposed[0][1].over
    leader.apply(Extend(1, 2, 1, leader.proposed[0][1].over[0], 0, AT_MOST_MS))
    leader.apply(leader.proposed[0][1])
    assert leader.holds, "it was judged by older terms"
    begun = leader.now
    leader.look_until(begun + LOOK + 3 * SECOND, hears=True)
    assert [at for at, _ in leader.proposed[2:]] == [begun + LOOK + 3 * SECOND]
    leader.apply(leader.proposed[2][1])
    assert not leader.holds
