"""The cluster's state as one object: every broker says what it knows of itself, the leader adds the rest."""

import asyncio
from typing import Any

import msgspec

from actors import MILLISECOND, Clock
from cluster.client.actor import ClientActor
from cluster.errors import ClusterError
from cluster.topology import Topology

BROKER_ANSWER_TIMEOUT = 2_000 * MILLISECOND     # a broker that is silent for so long is shown as down


async def gather_status(
    actor: ClientActor, plan: Topology, clock: Clock, loop: asyncio.AbstractEventLoop
) -> dict[str, Any]:
    """The object of `status --json`: `leader`, `term`, `brokers`, `workers`, `queues`.

    Brokers that do not answer have role "down" and nulls; `workers` and `queues` are empty while there is no leader.
    """
    answers = [_ask(actor, node.name, clock) for node in plan.brokers]
    reports: list[dict[str, Any] | None] = [await answer for answer in [loop.create_task(ask) for ask in answers]]
    known = [report for report in reports if report is not None]
    leading = max(
        (report for report in known if report["broker"]["role"] == "leader" and "queues" in report),
        key=lambda report: int(report["term"]),
        default=None,
    )
    return {
        "leader": leading["broker"]["node"] if leading else None,
        "term": max((int(report["term"]) for report in known), default=0),
        "brokers": [
            report["broker"] if report is not None else _down(node.name)
            for node, report in zip(plan.brokers, reports, strict=True)
        ],
        "workers": leading["workers"] if leading else [],
        "queues": leading["queues"] if leading else [],
    }


async def _ask(actor: ClientActor, node: str, clock: Clock) -> dict[str, Any] | None:
    future = actor.status(node)

    def give_up() -> None:
        future.cancel()

    timer = clock.call_at(clock.now() + BROKER_ANSWER_TIMEOUT, give_up)
    try:
        report: dict[str, Any] = msgspec.msgpack.decode(await future)
    except (ClusterError, asyncio.CancelledError):
        return None
    finally:
        timer.cancel()
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
