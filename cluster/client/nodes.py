"""Carries out what `rolling` decides: looks at the status, asks for the end of nodes, and tells how it goes."""

from collections.abc import Callable

from actors import MILLISECOND
from cluster.client.client import Client
from cluster.client.rolling import Ask, Course, Done, GiveUp, Look, Step
from cluster.errors import DeadlineExceeded, Unavailable

LOOK_INTERVAL_S = 0.1
ANSWER_TIMEOUT_S = 2.0


async def carry_out(client: Client, course: Course, tell: Callable[[Step], None] = lambda step: None) -> GiveUp | None:
    """Takes all nodes of the course through their turns; the step with which it gave up, or None.

    `tell` gets every step. Raises Unavailable if the client has ended.
    """
    while True:
        step = course.next(Look(await client.status()), client._ports.clock.now())
        tell(step)
        if isinstance(step, Done):
            return None
        if isinstance(step, GiveUp):
            return step
        if isinstance(step, Ask) and (refusal := await _ask(client, course, step)):
            course.refused(refusal)
        await client._pause(LOOK_INTERVAL_S)


async def _ask(client: Client, course: Course, ask: Ask) -> str:
    """Why not, if the node is asked in vain; "" also if nobody answers, for then the status will tell."""
    limit_ms = 0 if ask.is_broker else course.limits.running // MILLISECOND
    try:
        answer = client._actor.end_node(ask.node, ask.pid, limit_ms, again=ask.again, is_broker=ask.is_broker)
        refusal: str = await client._within(
            answer, ANSWER_TIMEOUT_S, lambda: DeadlineExceeded("no answer in time", outcome="unknown")
        )
    except DeadlineExceeded:
        return ""
    except Unavailable:
        if client._actor.has_ended:
            raise
        return ""
    return refusal
