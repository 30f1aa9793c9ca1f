"""What a leader tells workers and clients."""

import pytest
from msgspec import Struct, msgpack

from cluster.broker.delivery import Delivery
from cluster.broker.link import Link, Links
from cluster.state.commands import BODY_BYTES_MAX, Failure
from cluster.state.effects import ANSWER_OK, STATE_COMPLETED, STATE_FAILED, Answer, Assignment, Effects, TaskResult
from cluster.state.machine import Machine
from cluster.state.tasks import (
    ERROR_MESSAGE_BYTES_MAX,
    ERROR_TYPE_BYTES_MAX,
    LOG_BYTES_MAX,
    STDERR_BYTES_MAX,
    TRACEBACK_BYTES_MAX,
)
from cluster.state.texts import NAME_BYTES_MAX
from cluster.wire import MESSAGE_BYTES_MAX, ROLE_CLIENT, ROLE_WORKER, Answers, Assignments, Results, Withdraw

WORKER_SESSION, CLIENT_SESSION = 1, 2


class Quiet:
    def event(self, name: str, /, **fields: object) -> None:
        return


class Outbox:
    """The peer of a link: keeps what it takes."""

    def __init__(self) -> None:
        self.messages: list[Struct] = []
        self.takes = True

    def send(self, message: Struct) -> bool:
        if self.takes:
            self.messages.append(message)
        return self.takes


class Leader:
    """A delivery with one link that speaks for one session."""

    def __init__(self, role: int, session: int) -> None:
        self.links = Links(Machine())
        self.dropped: list[Link] = []
        self.delivery = Delivery(self.links._machine, self.links, Quiet(), self.dropped.append)
        self.peer = Outbox()
        self.link = Link(self.peer, "w1", 7, role, session=session, reconciled=True)  # type: ignore[arg-type]
        self.links.add(self.link)
        self.links._by_session[session] = self.link


def test_an_assignment_and_its_withdrawal_of_one_turn_leave_in_that_order():
    leader = Leader(ROLE_WORKER, WORKER_SESSION)
    effects = Effects()
    effects.assignments[WORKER_SESSION] = [Assignment(5, 1, 0, 100, 1_000, "m:f", b"")]
    effects.withdrawn[WORKER_SESSION] = [(5, 1)]
    leader.delivery.carry_out(effects)
    assert [type(message) for message in leader.peer.messages] == [Assignments, Withdraw]


def test_a_client_hears_that_its_command_is_in_the_log_before_it_hears_of_results():
    leader = Leader(ROLE_CLIENT, CLIENT_SESSION)
    effects = Effects()
    effects.answers = [Answer(CLIENT_SESSION, 1, ANSWER_OK)]
    effects.results[CLIENT_SESSION] = [TaskResult(1, STATE_FAILED, 1, b"")]
    leader.delivery.carry_out(effects)
    assert [type(message) for message in leader.peer.messages] == [Answers, Results]


def test_failures_with_long_tracebacks_are_split_into_messages_that_fit():
    leader = Leader(ROLE_CLIENT, CLIENT_SESSION)
    failure = Failure("ValueError", "no", traceback="x" * 8_192, stderr="y" * 4_096)
    effects = Effects()
    effects.results[CLIENT_SESSION] = [TaskResult(task, STATE_FAILED, 1, b"", failure) for task in range(1_000)]
    leader.delivery.carry_out(effects)
    assert len(leader.peer.messages) > 1
    assert all(len(msgpack.encode(message)) < MESSAGE_BYTES_MAX // 4 for message in leader.peer.messages)
    assert sum(len(message.items) for message in leader.peer.messages) == 1_000  # type: ignore[attr-defined]


LONGEST = Failure(
    "é" * (ERROR_TYPE_BYTES_MAX // 2),
    "€" * (ERROR_MESSAGE_BYTES_MAX // 3),
    "€" * (TRACEBACK_BYTES_MAX // 3),
    stderr="€" * (STDERR_BYTES_MAX // 3),
    log="€" * (LOG_BYTES_MAX // 3),
)
RESULTS = {
    "a long log": TaskResult(1, STATE_FAILED, 1, b"", Failure("E", "no", log="l" * LOG_BYTES_MAX)),
    "a long type": TaskResult(1, STATE_FAILED, 1, b"", Failure("€" * (ERROR_TYPE_BYTES_MAX // 3), "")),
    "all that a failure may have": TaskResult(1, STATE_FAILED, 1, b"", LONGEST),
    "the largest result": TaskResult(1 << 63, STATE_COMPLETED, 1 << 31, b"x" * BODY_BYTES_MAX, LONGEST),
    "nothing at all": TaskResult(1 << 63, STATE_COMPLETED, 1 << 31, b""),
}


@pytest.mark.parametrize("largest", RESULTS.values(), ids=RESULTS)
def test_no_message_of_results_is_too_large_for_a_link(largest):
    leader = Leader(ROLE_CLIENT, CLIENT_SESSION)
    effects = Effects()
    count = 20 if largest.body else 20_000
    effects.results[CLIENT_SESSION] = [largest] * count
    leader.delivery.carry_out(effects)
    assert max(len(msgpack.encode(message)) for message in leader.peer.messages) < MESSAGE_BYTES_MAX // 2
    assert sum(len(message.items) for message in leader.peer.messages) == count  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"", b"x" * BODY_BYTES_MAX])
def test_no_message_of_assignments_is_too_large_for_a_link(body):
    leader = Leader(ROLE_WORKER, WORKER_SESSION)
    name = "€" * (NAME_BYTES_MAX // 3)
    effects = Effects()
    count = 20 if body else 20_000
    longest = Assignment(1 << 63, 1, 0, 100, 1_000, name, body, True, 1_000, name, name, 1 << 40)
    effects.assignments[WORKER_SESSION] = [longest] * count
    leader.delivery.carry_out(effects)
    assert max(len(msgpack.encode(message)) for message in leader.peer.messages) < MESSAGE_BYTES_MAX // 2
    assert sum(len(message.items) for message in leader.peer.messages) == count  # type: ignore[attr-defined]


def test_a_link_that_does_not_take_results_is_let_go_so_that_its_client_asks_again():
    leader = Leader(ROLE_CLIENT, CLIENT_SESSION)
    leader.peer.takes = False
    effects = Effects()
    effects.results[CLIENT_SESSION] = [TaskResult(1, STATE_FAILED, 1, b"")]
    leader.delivery.carry_out(effects)
    assert leader.dropped == [leader.link]


def test_a_worker_that_does_not_take_its_assignments_is_let_go_so_that_it_says_what_it_holds():
    leader = Leader(ROLE_WORKER, WORKER_SESSION)
    leader.peer.takes = False
    effects = Effects()
    effects.assignments[WORKER_SESSION] = [Assignment(5, 1, 0, 100, 1_000, "m:f", b"")]
    leader.delivery.carry_out(effects)
    assert leader.dropped == [leader.link]
