"""The leader's part of locks, by itself: what it proposes, and again if nothing came of it."""

from collections.abc import Callable

import pytest

from actors import MILLISECOND, SECOND, Nanos
from cluster.broker.delivery import Delivery
from cluster.broker.entries import EntryBuilder
from cluster.broker.inspection import Inspection
from cluster.broker.lease_table import LeaseTable
from cluster.broker.link import Link, Links
from cluster.broker.lock_service import PROPOSE_AGAIN, LockService
from cluster.broker.questions import Questions
from cluster.state.commands import (
    ROLE_CLIENT,
    TASK_NUMBER_BITS,
    Acquire,
    Close,
    Command,
    Extend,
    Lapse,
    Register,
    Stamp,
)
from cluster.state.effects import CLAIM_OVER, CLAIM_WANTED, ClaimNews, Effects
from cluster.state.machine import Machine
from cluster.wire import HELLO_ITEMS_MAX, Claims, ClaimsNews, GiveUpClaims, Message

HOLD_MS = 4_000
AT_MOST_MS = 3_000
LOOK = 500 * MILLISECOND


class Line:
    def __init__(self) -> None:
        self.said: list[object] = []
        self.is_full = False

    def send(self, message: object) -> bool:
        if not self.is_full:
            self.said.append(message)
        return not self.is_full


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
        self.links = links = Links(machine)
        self.round = 0
        self.refused: list[str] = []
        self.questions = questions = Questions(
            machine, links, Delivery(machine, links, Quiet(), lambda link: None), dict, at_once, self._ask,
            lambda link, reason: None, Inspection(machine, links, at_once, lambda task: None, no_schedules), tuple,
        )  # fmt: skip
        self.service = LockService(
            machine, links, self.leases, questions, Quiet(), lambda: self.now,
            lambda lapse: self.proposed.append((self.now, lapse)), lambda link, reason: self.refused.append(reason),
        )  # fmt: skip
        questions.restart(leading=True)
        self.apply(Register("holder", 1, ROLE_CLIENT))
        self.leases.heard(1, 0)

    def _ask(self, number: int) -> None:
        self.round = number

    def apply(self, *commands: Command) -> None:
        builder, effects = EntryBuilder(), Effects()
        for command in commands:
            builder.add(command, 0)
        (payload,) = builder.take(Stamp(1 + self.now // MILLISECOND, 1))
        self.machine.apply(self.machine.applied_index + 1, 1, payload, effects)
        self.service.carry_out(effects)

    def link(self, name: str, incarnation: int) -> tuple[Link, "Line"]:
        line = Line()
        link = Link(line, name, incarnation, ROLE_CLIENT)  # type: ignore[arg-type]
        self.links.add(link)
        return link, line

    def give_up(self, link: Link, *claims: int) -> None:
        """Behind a round that shows that it leads."""
        self.service.on_give_up(link, GiveUpClaims(1, list(claims)))
        self.questions.confirmed(self.round)

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


def test_what_its_own_client_gives_up_is_proposed_to_end_and_told_once_it_has(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS))
    claim = 1 << TASK_NUMBER_BITS | 1
    link, line = leader.link("holder", 1)
    leader.give_up(link, claim, claim)
    ((_, lapse),) = leader.proposed
    assert lapse == Lapse([], [claim, 0]) and not line.said
    leader.apply(lapse)
    assert not leader.holds
    told = ClaimsNews(1, [ClaimNews(claim, 0, CLAIM_OVER)])
    assert line.said == [told]
    leader.give_up(link, claim)
    assert line.said == [told, told] and len(leader.proposed) == 1


def test_what_another_one_gives_up_or_too_many_do_not_end(leader):
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS))
    claim = 1 << TASK_NUMBER_BITS | 1
    own, _ = leader.link("holder", 1)
    leader.give_up(own, *[claim] * (HELLO_ITEMS_MAX + 1))
    for stranger in (leader.link("holder", 2)[0], leader.link("other", 1)[0]):
        leader.give_up(stranger, claim)
    assert leader.refused == ["gives up claims of another, or too many"] * 3
    assert not leader.proposed and leader.holds


def test_who_asks_for_claims_of_a_session_that_has_ended_is_told_that_they_are_gone_and_not_by_what(leader):
    link, line = leader.link("holder", 1)
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS))
    claim, other = 1 << TASK_NUMBER_BITS | 1, 1 << TASK_NUMBER_BITS | 2

    def asked() -> ClaimsNews:
        leader.service.on_claims(link, Claims(1, [claim, other], 7))
        leader.questions.confirmed(leader.round)
        said = line.said[-1]
        assert isinstance(said, ClaimsNews)
        return said

    answer = asked()
    leader.apply(Close(1, 1))
    gone = asked()
    assert (answer.sent, [news.fence for news in answer.items]) == (7, [1, 0])
    assert (gone.sent, [news.fence for news in gone.items]) == (0, [0, 0])


def test_a_holder_whose_link_was_full_hears_later_that_it_is_to_give_way(leader):
    """It has no reason to ask, so it would keep the others waiting for as long as its turn may last."""
    link, line = leader.link("holder", 1)
    leader.links.claim(link, 1)
    leader.apply(Acquire(1, 1, 1, 1, "door", 1, 1, HOLD_MS, at_most_ms=60_000), Register("newest", 1, ROLE_CLIENT))
    line.is_full = True
    leader.apply(Acquire(2, 1, 1, 1, "door", 1, 1, HOLD_MS, waits=True, at_most_ms=60_000, replaces=True))
    leader.look_until(SECOND, hears=True)
    assert line.said == []
    line.is_full = False
    leader.look_until(3 * SECOND, hears=True)
    assert line.said == [ClaimsNews(1, [ClaimNews(1 << TASK_NUMBER_BITS | 1, 1, CLAIM_WANTED)])]
