"""The cluster's state as one object: every broker says what it knows of itself, the leader adds the rest."""

from asyncio import Future, ensure_future, gather
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from actors import MILLISECOND, Clock, Nanos
from cluster.client.actor import ClientActor
from cluster.errors import Overloaded, Unavailable
from cluster.topology import Topology

BROKER_ANSWER_TIMEOUT = 2_000 * MILLISECOND     # a broker that is silent for so long is shown as down
LINK_PATIENCE = 500 * MILLISECOND               # of a client that has just begun, with a broker that has no link yet
LINK_LOOK_S = 0.01

Pause = Callable[[float], Awaitable[None]]      # for so many seconds


async def gather_status(
    actor: ClientActor, plan: Topology, clock: Clock, begun_at: Nanos, pause: Pause, *, stale: bool = False
) -> dict[str, Any]:
    """The object of `status --json`: `leader`, `term`, `brokers`, `workers`, `queues`, `parked`, `parked_more`,
    `limits`, `limits_more`, `schedules`.

    Brokers that do not answer have role "down" and nulls; what follows `brokers` is empty while no leader knows that
    it leads. With `stale` nobody has to know: it is that of the broker that has applied most, and `leader` is the
    one that it follows. If no broker can be asked, and one said why, that is `refusal`. Raises Unavailable if the
    client has ended, Overloaded if a broker would not answer.
    """

    async def ask(node: str) -> bytes:
        """Links come up one after the other: one that is not there in the first moments is no broker that is down."""
        while True:
            if actor.is_refused:
                raise Unavailable(actor.refusal, outcome="refused")
            try:
                return await actor.status(node, stale=stale)
            except Unavailable:
                if actor.has_ended or clock.now() >= begun_at + LINK_PATIENCE:
                    raise
            await pause(LINK_LOOK_S)

    answers = [ensure_future(ask(node.name)) for node in plan.brokers]
    timer = clock.call_at(clock.now() + BROKER_ANSWER_TIMEOUT, lambda: _give_up(answers))
    try:
        replies = await gather(*answers, return_exceptions=True)
    finally:
        timer.cancel()
    refused = [reply for reply in replies if isinstance(reply, Unavailable)]
    if refused and actor.has_ended:
        raise refused[0]
    for reply in replies:
        if isinstance(reply, Overloaded):
            raise reply
    reports = [_report(reply) for reply in replies]
    known = [report for report in reports if report is not None]
    refused_for = {"refusal": actor.refusal} if not known and actor.refusal else {}
    source = max([report for report in known if "queues" in report], key=_age, default=None)
    return {
        "leader": source["leader"] if source else None,
        "term": max((int(report["term"]) for report in known), default=0),
        "brokers": [
            report["broker"] if report is not None else _down(node.name)
            for node, report in zip(plan.brokers, reports, strict=True)
        ],
        "workers": source["workers"] if source else [],
        "queues": source["queues"] if source else [],
        "parked": source.get("parked", []) if source else [],
        "parked_more": source.get("parked_more", 0) if source else 0,
        "limits": source.get("limits", []) if source else [],
        "limits_more": source.get("limits_more", 0) if source else 0,
        "schedules": source.get("schedules", {}) if source else {},
        **refused_for,
    }


def _age(report: dict[str, Any]) -> tuple[int, bool, int]:
    """What is newer is greater. Of confirmed reports there may be two: a leader was replaced in between."""
    broker = report["broker"]
    return broker["applied_index"], broker["node"] == report["leader"], report["term"]


def _give_up(answers: Sequence["Future[bytes]"]) -> None:
    for answer in answers:
        answer.cancel()


def _report(reply: bytes | BaseException) -> dict[str, Any] | None:
    """What a broker said; None if it could not be asked or was silent."""
    if isinstance(reply, BaseException):
        return None
    report: dict[str, Any] = msgspec.msgpack.decode(reply)
    return report


def _down(node: str) -> dict[str, Any]:
    return {
        "node": node,
        "pid": None,
        "role": "down",
        "term": None,
        "commit_index": None,
        "applied_index": None,
        "digest": None,
        "sync": None,
    }
