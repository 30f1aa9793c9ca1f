"""What workers are sent with tasks that need others: put in when it is sent, a chunk at a time."""

import tracemalloc
from collections.abc import Callable

import pytest
from msgspec import Struct, msgpack
from state_rig import Client, Rig, Worker

from cluster.broker.delivery import Delivery
from cluster.broker.link import Link, Links
from cluster.state import retention
from cluster.state.commands import INPUTS_BYTES_MAX, UNMET_UNKNOWN, Cancel, Tick
from cluster.state.effects import STATE_COMPLETED, Effects
from cluster.state.inputs import End, Inputs
from cluster.wire import ROLE_WORKER, Assignments, Holding, Withdraw

MEMBERS = 5
DEPENDENTS = 12
CHUNKS_BYTES_MAX = 4 * INPUTS_BYTES_MAX     # one that is made, one that was sent, and what encodes them


class Quiet:
    def event(self, name: str, /, **fields: object) -> None:
        return


class Wire:
    """The peer of a link: keeps what became of needs, and nothing that is large."""

    def __init__(self) -> None:
        self.ends: dict[int, list[tuple[int, int]]] = {}    # task -> state and length of each result that it was given
        self.kinds: list[type[Struct]] = []
        self.takes = True

    def send(self, message: Struct) -> bool:
        self.kinds.append(type(message))
        if isinstance(message, Assignments):
            for given in message.items:
                ends = msgpack.decode(given.body, type=Inputs).results
                self.ends[given.task] = [(end.state, len(end.body)) for end in ends]
        return self.takes


class Leader:
    """The delivery of the rig's leader, and its link to a worker."""

    def __init__(self, rig: Rig, worker: Worker) -> None:
        links = Links(rig.leader)
        self.wire = Wire()
        self.dropped: list[Link] = []
        self.delivery = Delivery(rig.leader, links, Quiet(), self.dropped.append)
        self.link = Link(self.wire, worker.name, worker.incarnation, ROLE_WORKER)  # type: ignore[arg-type]
        links.add(self.link)
        assert links.claim(self.link, worker.session)
        self.link.reconciled = True


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def let_many_go(rig: Rig, client: Client, worker: Worker) -> list[int]:
    """In one entry tasks are handed out that need the same results, as large as they may be."""
    members = client.submit(count=MEMBERS)
    needy = [client.needy(members) for _ in range(DEPENDENTS)]
    given = list(worker.inbox)
    for one in given:
        worker.complete(one, body=bytes(INPUTS_BYTES_MAX // MEMBERS))
    worker.inbox = []
    return needy


ALL_THERE = [(STATE_COMPLETED, INPUTS_BYTES_MAX // MEMBERS)] * MEMBERS


def test_large_inputs_of_many_tasks_cost_the_leader_no_more_than_those_of_a_few(rig: Rig) -> None:
    worker = rig.worker(slots=DEPENDENTS + MEMBERS)
    needy = let_many_go(rig, rig.client(), worker)
    (given,) = rig.effects.assignments.values()
    assert len(given) == DEPENDENTS and sum(len(one.body) for one in given) < 1_000
    leader = Leader(rig, worker)
    assert peak_bytes(lambda: leader.delivery.carry_out(rig.effects)) < CHUNKS_BYTES_MAX
    assert leader.wire.ends == dict.fromkeys(needy, ALL_THERE)
    assert leader.wire.kinds.count(Assignments) == DEPENDENTS


def test_so_does_a_worker_that_says_what_it_holds_and_lacks_all_of_it(rig: Rig) -> None:
    worker = rig.worker(slots=DEPENDENTS + MEMBERS)
    needy = let_many_go(rig, rig.client(), worker)
    leader = Leader(rig, worker)
    said = Holding(worker.session, leader.delivery.term, [], False)
    assert peak_bytes(lambda: leader.delivery.on_holding(leader.link, said)) < CHUNKS_BYTES_MAX
    assert leader.wire.ends == dict.fromkeys(needy, ALL_THERE)


def test_what_is_held_is_told_to_a_status_without_the_inputs(rig: Rig) -> None:
    worker = rig.worker(slots=DEPENDENTS + MEMBERS)
    let_many_go(rig, rig.client(), worker)
    assert sum(len(one.body) for one in rig.leader.held_by(worker.session)) < 1_000


def test_for_a_link_that_takes_nothing_no_further_inputs_are_made(rig: Rig) -> None:
    worker = rig.worker(slots=DEPENDENTS + MEMBERS)
    let_many_go(rig, rig.client(), worker)
    leader = Leader(rig, worker)
    leader.wire.takes = False
    leader.delivery.carry_out(rig.effects)
    assert leader.dropped == [leader.link] and leader.wire.kinds.count(Assignments) == 1


@pytest.fixture
def handed_out(rig: Rig) -> tuple[Client, Worker, int, Effects]:
    """A dependent that was handed out in an entry whose effects were not carried out yet."""
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit()
    needy = client.needy([first])
    worker.complete(worker.inbox[0], body=b"x" * 1_000)
    worker.inbox = []
    return client, worker, needy, rig.effects


def collect(rig: Rig, effects: Effects, later: Effects) -> Effects:
    """As a broker does that applies several entries in one go."""
    for session, pairs in later.withdrawn.items():
        effects.withdrawn.setdefault(session, []).extend(pairs)
    return effects


def test_a_dependent_that_was_cancelled_before_it_was_sent_is_not_sent(rig: Rig, handed_out) -> None:
    client, worker, needy, effects = handed_out
    command = Cancel(client.session, client.seq, client.seq, [needy])
    client.seq += 1
    collect(rig, effects, rig.apply(command))
    leader = Leader(rig, worker)
    leader.delivery.carry_out(effects)
    assert Withdraw in leader.wire.kinds and Assignments not in leader.wire.kinds


def test_one_that_was_replayed_as_well_is_sent_for_its_new_attempt_only(rig: Rig, handed_out) -> None:
    client, worker, needy, effects = handed_out
    client.cancel(needy)
    collect(rig, effects, rig.effects)
    assert client.replay(needy) == 1
    effects.assignments[worker.session] += rig.effects.assignments[worker.session]
    assert [one.attempt for one in rig.leader.passed_on(effects.assignments[worker.session])] == [2]


def test_a_result_that_is_gone_before_it_was_sent_is_said_to_be_gone(rig: Rig, handed_out, monkeypatch) -> None:
    _, worker, needy, effects = handed_out
    monkeypatch.setattr(retention, "OVERDUE_BYTES_MAX", 100)
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 100)
    rig.apply(Tick(rig.now_ms))
    (given,) = rig.leader.passed_on(effects.assignments[worker.session])
    (end,) = msgpack.decode(given.body, type=Inputs).results
    assert given.task == needy and end == End(end.task, UNMET_UNKNOWN)
