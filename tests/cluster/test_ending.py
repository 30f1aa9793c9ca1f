"""Who may end which node: a client, by name and process; a broker itself, the leader a worker."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, work

from actors import SECOND, Nanos, Ports
from cluster import Client
from cluster.broker.ending import Ending
from cluster.broker.link import Link
from cluster.peer.neighbours import MOMENT, SILENCE, Neighbours
from cluster.wire import (
    CUT_OFF_UNKNOWN,
    END_LIMIT_MS_MAX,
    ROLE_CLIENT,
    ROLE_WORKER,
    ClockNews,
    End,
    EndNode,
    FromBroker,
    FromClient,
    FromWorker,
    NodeAnswer,
    StandingBy,
)


class FakePeer:
    """The other end of a link, as far as these need it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return True

    def flush(self) -> None:
        return


class Quiet:
    def event(self, name: str, /, **fields: object) -> None:
        return


class Hand:
    """A clock that stands until it is moved, with one timer."""

    def __init__(self) -> None:
        self.time: Nanos = 0
        self.due: tuple[Nanos, Callable[[], None]] | None = None

    def now(self) -> Nanos:
        return self.time

    def later(self, wait: Nanos, callback: Callable[[], None]) -> None:
        assert self.due is None
        self.due = self.time + wait, callback

    def pass_(self, wait: Nanos) -> None:
        self.time += wait
        if self.due is not None and self.due[0] <= self.time:
            callback, self.due = self.due[1], None
            callback()


class Broker:
    """`b<number>` of so many, process 7, with the links that a test gives it."""

    def __init__(self, *links: Link, number: int = 1, brokers: int = 1) -> None:
        self.client = Link(FakePeer(), "client-1", 1, ROLE_CLIENT)  # type: ignore[arg-type]
        self.ended = 0
        self.clock = Hand()
        self.down: set[int] = set()
        self.told: list[bool] = []
        others = {other: f"b{other}" for other in range(1, brokers + 1) if other != number}
        self.neighbours = Neighbours(
            number, others, self.clock, lambda other: other not in self.down, self._tell  # type: ignore[arg-type]
        )
        self.ending = Ending(
            f"b{number}", 7, [self.client, *links], Quiet(), self._end, self, self.clock.later  # type: ignore[arg-type]
        )

    def _tell(self) -> None:
        self.told.append(self.neighbours.ends)

    def ask(self, node: str = "b1") -> None:
        self.ending.on_end_here(self.client, EndNode(1, node, 7, again=True))

    @property
    def refusals(self) -> list[str]:
        return [answer.refusal for answer in self.client.peer.sent]  # type: ignore[attr-defined]

    def _end(self) -> None:
        self.ended += 1

    def answer(self, handler: Callable[[Link, Any], None], message: EndNode) -> str:
        handler(self.client, message)
        (answer,) = self.client.peer.sent  # type: ignore[attr-defined]
        assert isinstance(answer, NodeAnswer) and answer.request == message.request
        self.client.peer.sent.clear()  # type: ignore[attr-defined]
        return answer.refusal


def worker(name: str = "w1", *, session: int = 5, pid: int = 70, stands_by: bool = False) -> Link:
    return Link(FakePeer(), name, 1, ROLE_WORKER, session=session, pid=pid, stands_by=stands_by)  # type: ignore[arg-type]


def sent(link: Link) -> list[Any]:
    messages: list[Any] = link.peer.sent  # type: ignore[attr-defined]
    return messages


def test_only_a_client_can_say_that_a_node_should_end():
    encoded = msgspec.msgpack.encode([EndNode(1, "b1", 7, again=True)])
    assert msgspec.msgpack.decode(encoded, type=list[FromClient])  # type: ignore[valid-type]
    for role in (FromWorker, FromBroker):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(encoded, type=list[role])  # type: ignore[valid-type]


@pytest.mark.parametrize("leads", [True, False])
def test_a_broker_ends_itself_if_its_process_is_meant_and_nobody_else(leads):
    broker = Broker()
    handler = broker.ending.on_end if leads else broker.ending.on_end_here
    assert broker.answer(handler, EndNode(1, "b1", 6, again=True)) == "", "its predecessor has ended: that is so"
    assert broker.ended == 0
    assert "ends no broker but itself" in broker.answer(handler, EndNode(2, "b2", 7, again=True)) or not leads
    assert "restarted" in broker.answer(handler, EndNode(3, "b1", 7, again=False))
    assert broker.ended == 0
    assert broker.answer(handler, EndNode(4, "b1", 7, again=True)) == ""
    assert broker.ended == 1


def test_a_broker_ends_when_the_others_had_a_moment_to_say_that_they_end():
    broker = Broker(brokers=3)
    broker.ask()
    broker.ask()
    assert (broker.ended, broker.refusals, broker.told) == (0, [], [True])
    broker.clock.pass_(MOMENT)
    assert (broker.ended, broker.refusals) == (1, ["", ""])


def test_a_broker_does_not_end_while_another_one_is_missing():
    broker = Broker(brokers=3)
    broker.down.add(3)
    broker.ask()
    assert broker.told == [] and broker.ended == 0
    (refusal,) = broker.refusals
    assert "broker b3 is missing: there is no link" in refusal and "without a majority" in refusal


def test_a_broker_does_not_end_while_another_one_is_silent():
    broker = Broker(brokers=3)
    broker.neighbours.linked(2)
    broker.neighbours.linked(3)
    broker.clock.pass_(2 * SECOND)
    broker.neighbours.heard(2, ClockNews(0))
    broker.clock.pass_(SILENCE - SECOND)
    broker.ask()
    assert "broker b3 is missing: it has said nothing for 3 s" in broker.refusals[0]


def test_a_broker_that_goes_while_another_one_waits_to_end_keeps_that_one():
    broker = Broker(brokers=3)
    broker.ask()
    broker.down.add(2)
    broker.clock.pass_(MOMENT)
    assert broker.ended == 0 and "b2 is missing" in broker.refusals[0]
    assert broker.told == [True, False]


def test_of_two_brokers_that_are_asked_at_the_same_time_one_ends():
    first, last = Broker(brokers=3), Broker(number=3, brokers=3)
    first.ask("b1")
    last.ask("b3")
    first.neighbours.heard(3, ClockNews(0, ending=True))
    last.neighbours.heard(1, ClockNews(0, ending=True))
    first.clock.pass_(MOMENT)
    last.clock.pass_(MOMENT)
    assert (first.ended, last.ended) == (1, 0)
    assert "broker b1 is about to end as well" in last.refusals[0]


def test_a_broker_that_is_asked_later_stays_whatever_its_place_until_the_other_one_is_back():
    first = Broker(brokers=3)
    first.neighbours.heard(3, ClockNews(0, ending=True))
    first.ask()
    assert first.ended == 0 and "b3 is about to end" in first.refusals[0]
    first.neighbours.linked(3)
    first.ask()
    first.clock.pass_(MOMENT)
    assert first.ended == 1


def test_a_leader_passes_an_end_on_to_the_worker_that_is_meant():
    link = worker(pid=70)
    broker = Broker(link, worker("w2"))
    assert broker.answer(broker.ending.on_end, EndNode(1, "w1", 69, again=True)) == ""
    assert sent(link) == [], "another process of that name"
    assert broker.answer(broker.ending.on_end, EndNode(2, "w1", 70, again=False, limit_ms=5_000)) == ""
    assert sent(link) == [End(again=False, limit_ms=5_000)]
    assert "no worker 'w3'" in broker.answer(broker.ending.on_end, EndNode(3, "w3", 70, again=True))


@pytest.mark.parametrize("limit_ms", [-1, END_LIMIT_MS_MAX + 1])
def test_a_limit_that_makes_no_sense_is_refused(limit_ms):
    link = worker()
    broker = Broker(link)
    assert "out of range" in broker.answer(broker.ending.on_end, EndNode(1, "w1", 70, again=True, limit_ms=limit_ms))
    assert sent(link) == []


def test_a_broker_that_does_not_lead_passes_nothing_on():
    link = worker()
    broker = Broker(link)
    assert "does not lead" in broker.answer(broker.ending.on_end_here, EndNode(1, "w1", 70, again=True))
    assert sent(link) == []


def test_a_stand_in_is_asked_when_no_worker_of_that_name_has_a_session():
    out = worker(session=0, pid=0)
    broker = Broker(out)
    broker.ending.on_standing_by(out, StandingBy())
    assert broker.answer(broker.ending.on_end, EndNode(1, "w1", 0, again=True)) == ""
    assert sent(out) == [End(again=True)]
    assert out.cut_off == CUT_OFF_UNKNOWN
    broker.ending.on_standing_by(out, StandingBy(cut_off=2))
    assert out.stands_by and out.cut_off == 2
    broker.ending.on_standing_by(out, StandingBy(stands=False))
    assert "no worker 'w1'" in broker.answer(broker.ending.on_end, EndNode(2, "w1", 0, again=True))


def test_a_client_that_asks_the_wrong_broker_or_for_nobody_is_told_so():
    rig = ClientWorld(workers=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        follower = next(name for name in BROKERS if name != rig.leader)
        ask = cluster._actor.end_node
        questions = cluster._actor._questions
        peer = cluster._actor._links.peer(follower)
        return [
            await questions.end_node(peer, "w1", 0, 0, again=True),
            await questions.end_node(peer, rig.leader, 100, 0, again=True),
            await ask("w9", 1, 0, again=True, is_broker=False),
        ]

    told = rig.run(user, only_looks=True)
    assert "does not lead" in told[0] and "does not lead" in told[1] and "no worker 'w9'" in told[2]


def test_a_worker_drains_with_the_limit_of_the_one_that_asked():
    """The task takes a minute; the worker's own limit is nine seconds."""
    rig = ClientWorld(workers=1, slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), work_us=60_000 * MS)
        await pause(ports, 1.0)
        status = await cluster.status()
        (row,) = status["workers"]
        pid = row["pid"] or 0
        assert await cluster._actor.end_node("w1", pid, 120_000, again=True, is_broker=False) == ""
        await pause(ports, 30.0)
        (row,) = (await cluster.status())["workers"]
        assert row["draining"] and row["running"] == 1
        await handle
        (record,) = await cluster.records([handle.id])
        return record.attempts

    assert rig.run(user) == 1
    assert list(rig.runs.values()) == [1]


def test_a_worker_that_was_asked_to_end_waits_for_its_last_answers_while_no_broker_leads():
    """Its outcome is recorded before it leaves: else the task, which has ended, would run again."""
    rig = ClientWorld(workers=1, slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), work_us=1_000 * MS)
        await pause(ports, 0.6)
        (row,) = (await cluster.status())["workers"]
        assert row["running"] == 1
        assert await cluster._actor.end_node("w1", row["pid"] or 0, 0, again=True, is_broker=False) == ""
        for broker in rig.brokers.values():
            rig.world.pause(broker)
        await pause(ports, 3.0)
        assert rig.workers["w1"].alive
        for broker in rig.brokers.values():
            rig.world.resume(broker)
        await handle
        await pause(ports, 1.0)
        (record,) = await cluster.records([handle.id])
        return record.attempts

    assert rig.run(user) == 1
    assert list(rig.runs.values()) == [1] and not rig.workers["w1"].alive
