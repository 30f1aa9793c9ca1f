"""Questions to a broker, and who may answer them when.

What the state says is the truth only at a leader that has not been replaced, so these wait for a round
(`cluster.broker.rounds`): records, that a task is unknown or ended without a result, the leader's part of the status,
and that a lease goes on. A result is told at once, since it never changes. Who says `stale` is answered at once by any
broker.

The thesis notes the commit index when a question comes, and waits until that much is applied. Here nothing is left to
wait for: whatever anybody was told of before the question came is applied here when the round is confirmed. Of earlier
terms, because a broker leads (`Leading`) only when the first entry of its own term is applied, which lies behind all
that. Of the own term, because only this broker tells of it, and only of what it has applied. Of later terms there is
nothing, which is what the round has shown. And what is committed but not applied yet, nobody was told of.
"""

from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from cluster.broker.delivery import Delivery
from cluster.broker.inspection import Inspection
from cluster.broker.inspection import Question as Inspected
from cluster.broker.link import Link, Links
from cluster.broker.rounds import Rounds
from cluster.broker.status import cluster_status, replica_status
from cluster.state.machine import Machine
from cluster.wire import (
    MESSAGE_BYTES_MAX,
    Describe,
    Lease,
    Message,
    NodeAnswer,
    StatusReply,
    StatusRequest,
    Watch,
)

LINK_QUESTIONS_MAX = 8_192      # of one link that wait for a round, so that one client does not take all the room
STATUS_BYTES_MAX = MESSAGE_BYTES_MAX // 2
TOO_MANY = "too many questions of this client wait at the leader; ask for fewer at a time, many tasks in one question"
NOT_TAKEN = "the link to this client is full, or the answer is too large for it; ask for fewer tasks, or again later"

# What has a number, so that it can be refused.
Asked = Describe | Inspected | StatusRequest

Answering = Callable[[Link, msgspec.Struct], None]


class Questions:
    """Of one broker. `own` gives `leader` and `term` as this broker believes them, and its own row of the status;
    `at_turn_end` runs a callback then; `ask` starts a round of that number; `refuse` notes what is not answered;
    `inspection` answers questions of single tasks, locks and schedules; `uncomputed` names schedules whose times the
    leader cannot compute.
    """

    def __init__(
        self,
        machine: Machine,
        links: Links,
        delivery: Delivery,
        own: Callable[[], dict[str, object]],
        at_turn_end: Callable[[Callable[[], None]], None],
        ask: Callable[[int], object],
        refuse: Callable[[Link, str], None],
        inspection: Inspection,
        uncomputed: Callable[[], Collection[str]],
    ) -> None:
        self._machine = machine
        self._links = links
        self._delivery = delivery
        self._own = own
        self._at_turn_end = at_turn_end
        self._ask = ask
        self._refuse = refuse
        self._inspection = inspection
        self._uncomputed = uncomputed
        self._leading = False
        self._rounds: Rounds[tuple[Answering, Link, msgspec.Struct]] = Rounds()
        self._of_link: Counter[Link] = Counter()        # that wait for a round
        self._stalled = 0               # the round that was under way at the last `look`

    def restart(self, *, leading: bool) -> None:
        """Another term, or none: whoever asked the leader asks the next one. Who asked this broker is answered."""
        self._leading = self._inspection.leading = leading
        self._of_link.clear()
        for _, link, question in self._rounds.end():
            if isinstance(question, StatusRequest):
                self._tell_own(link, question)

    # -- rounds -----------------------------------------------------------------------------------------------------

    def after_round(self, answering: Answering, link: Link, question: msgspec.Struct) -> None:
        """Calls `answering` once it is certain that this broker led after the question came. All that come in one turn
        share a round."""
        if not isinstance(question, Lease) and self._of_link[link] >= LINK_QUESTIONS_MAX:
            self.refuse(link, question, TOO_MANY)
        elif self._rounds.add((answering, link, question)):
            self._of_link[link] += not isinstance(question, Lease)
            self._at_turn_end(self._begin)
        else:
            self.refuse(link, question, TOO_MANY)

    def refuse(self, link: Link, question: msgspec.Struct, reason: str) -> None:
        """Says so, where a question has a number. Who waits for results or follows tasks says all of that again over
        its next link, in few messages; a lease is asked for again anyhow."""
        self._refuse(link, reason)
        if isinstance(question, Lease):
            return
        if not (isinstance(question, Asked) and link.peer.send(NodeAnswer(question.request, reason))):
            self._delivery.let_go(link, type(question).__name__)

    def answer(self, link: Link, question: Asked, answer: Message) -> None:
        if not link.peer.send(answer):
            self.refuse(link, question, NOT_TAKEN)

    def _begin(self) -> None:
        if self._leading and (number := self._rounds.begin()):
            self._ask(number)

    def confirmed(self, number: int) -> None:
        """A majority has answered a heartbeat that was sent after round `number` had begun."""
        for answering, link, question in self._rounds.confirmed(number):
            if not isinstance(question, Lease):
                self._forget_one(link)
            if self._links.of_peer(link.peer) is link:
                answering(link, question)
        self._begin()

    def look(self) -> None:
        """Twice a second: a broker says what it knows of itself even if no majority answers it. Somebody wants to see
        what is wrong."""
        under_way = self._rounds.under_way
        if under_way and under_way == self._stalled:
            for _, link, question in self._rounds.withdraw(lambda item: isinstance(item[2], StatusRequest)):
                self._forget_one(link)
                self._tell_own(link, question)
        self._stalled = under_way

    def _forget_one(self, link: Link) -> None:
        self._of_link[link] -= 1
        if not self._of_link[link]:
            del self._of_link[link]

    # -- tasks ------------------------------------------------------------------------------------------------------

    def on_watch(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Watch)
        if missing := self._delivery.watch(link, message.tasks):
            self.after_round(self._on_watch_confirmed, link, Watch(missing))

    def _on_watch_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Watch)
        if missing := self._delivery.watch(link, message.tasks, is_certain=True):    # some may have come meanwhile
            self._delivery.tell_unknown(link, missing)

    def on_describe(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Describe)
        if message.stale:
            self._describe(link, message)
        else:
            self.after_round(self._describe, link, message)

    def _describe(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Describe)
        self.answer(link, message, self._delivery.described(message))

    def on_inspect(self, link: Link, message: msgspec.Struct) -> None:
        """One task or schedule, or a list of them or of locks."""
        assert isinstance(message, Inspected)
        if message.stale:
            self._inspect(link, message)
        else:
            self.after_round(self._inspect, link, message)

    def _inspect(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Inspected)
        if not self._inspection.answer(link, message, self.answer):
            self.refuse(link, message, TOO_MANY)

    # -- status -----------------------------------------------------------------------------------------------------

    def on_status(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, StatusRequest)
        if message.stale:
            self._reply(link, message, self._own() | self._part())
        elif self._leading:
            self.after_round(self._on_status_confirmed, link, message)
        else:
            self._reply(link, message, self._own())

    def _on_status_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        self._reply(link, message, self._own() | self._part())

    def _tell_own(self, link: Link, message: msgspec.Struct) -> None:
        """A leader that does not know whether it still is one."""
        self._reply(link, message, self._own() | {"leader": None})

    def _part(self) -> dict[str, object]:
        """Workers and queues, as this broker sees them."""
        if not self._leading:
            return replica_status(self._machine)
        return cluster_status(self._machine, self._links, self._uncomputed())

    def _reply(self, link: Link, message: msgspec.Struct, report: dict[str, object]) -> None:
        assert isinstance(message, StatusRequest)
        encoded = msgspec.msgpack.encode(report)
        if len(encoded) > STATUS_BYTES_MAX:
            self.refuse(
                link,
                message,
                f"the status takes {len(encoded)} bytes, more than a message may: there are too many queues, workers "
                "or long names; `tasks` lists what is in one queue",
            )
        else:
            self.answer(link, message, StatusReply(message.request, msgspec.Raw(encoded)))
