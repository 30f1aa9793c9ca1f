"""The supervisor actor: carries out what `strategy` decides.

Its children are children of its cell, so stopping them in reverse order when it ends is the cell's work. It
has started when all children of its specification have; from then on orders, which are messages, are served
whatever its children do.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from actors.actor import Actor, handles
from actors.asks import Reply
from actors.errors import ActorError
from actors.messages import EXPECTED, SHUTDOWN, ExitReason, Failed
from actors.ref import Ref
from actors.supervision.spec import ChildSpec, SupervisorSpec
from actors.supervision.strategy import (
    Action,
    GiveUp,
    Ready,
    Refusal,
    Start,
    State,
    Stop,
    Supervision,
    Wait,
)

if TYPE_CHECKING:
    from actors.cell import Cell


class StartFailed(ActorError):
    """A child of the specification failed at the first start; those before it were stopped again."""


class StartChild(Struct, frozen=True):
    """Anyone -> supervisor: one more child. Owes: ChildAnswer when it has started, or not."""

    spec: ChildSpec


class TerminateChild(Struct, frozen=True):
    """Anyone -> supervisor: stop this child and leave it so. Owes: ChildAnswer when it has ended."""

    id: str


class RestartChild(Struct, frozen=True):
    """Anyone -> supervisor: start this stopped child. Owes: ChildAnswer when it has started, or not."""

    id: str


class DeleteChild(Struct, frozen=True):
    """Anyone -> supervisor: forget this stopped child. Owes: ChildAnswer."""

    id: str


class WhichChildren(Struct, frozen=True):
    """Anyone -> supervisor. Owes: a list of ChildStatus, the newest first."""


class ChildAnswer(Struct, frozen=True):
    """Supervisor -> who gave an order: done if both `refusal` and `failure` are None."""

    ref: Ref[Any] | None = None
    refusal: Refusal | None = None
    failure: ExitReason | None = None


class ChildStatus(Struct, frozen=True):
    """One child: `ref` is set while there is an actor."""

    id: str
    state: State
    ref: Ref[Any] | None


class Supervisor(Actor):
    """Starts its children, restarts what crashes, and gives up when that happens too often."""

    def __init__(self, spec: SupervisorSpec) -> None:
        self._spec = spec
        self._cells: dict[str, Cell] = {}
        self._ids: dict[Cell, str] = {}
        self._orders: dict[str, Reply] = {}    # who waits for this child to start or end

    async def started(self) -> None:
        context = self.context
        self._core = Supervision(self._spec, context.entropy.below)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._carry_out(self._core.begin(context.clock.now()))
        await self._ready

    # Orders

    @handles
    def on_start_child(self, message: StartChild) -> None:
        self._order(message.spec.id, lambda: self._core.add(message.spec))

    @handles
    def on_terminate_child(self, message: TerminateChild) -> None:
        self._order(message.id, lambda: self._core.terminate(message.id))

    @handles
    def on_restart_child(self, message: RestartChild) -> None:
        self._order(message.id, lambda: self._core.restart(message.id))

    @handles
    def on_delete_child(self, message: DeleteChild) -> ChildAnswer:
        result = self._core.delete(message.id)
        return ChildAnswer(refusal=result) if isinstance(result, Refusal) else ChildAnswer()

    @handles
    def on_which_children(self, message: WhichChildren) -> list[ChildStatus]:
        return [
            ChildStatus(child_id, child.state, self._ref(child_id))
            for child_id, child in reversed(self._core.children.items())
        ]

    # What cells of children call

    def child_started(self, cell: "Cell") -> None:
        """See `actors.life.Observer`."""
        child_id = self._id_of(cell)
        if child_id is not None:
            self._carry_out(self._core.started(child_id, self.context.clock.now()))
            self._answer(child_id, ChildAnswer(ref=cell.ref))

    def child_ended(self, cell: "Cell", reason: ExitReason) -> None:
        """See `actors.life.Observer`."""
        child_id = self._id_of(cell)
        if child_id is None:
            return
        del self._cells[child_id], self._ids[cell]
        child = self._core.children.get(child_id)
        stopping = child is not None and child.state is State.STOPPING
        self._ended(child_id, reason, by_order=stopping)

    # Carrying out

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action.id)
            elif isinstance(action, Stop):
                self._cells[action.id].stop_within_limit()
            elif isinstance(action, Wait):
                again = partial(self._due, action.id)
                self.context.timer(("restart", action.id), action.delay, again)
            elif isinstance(action, Ready):
                self._ready.set_result(None)
            else:
                self._give_up(action)

    def _start(self, child_id: str) -> None:
        spec = self._core.children[child_id].spec
        now = self.context.clock.now()
        try:
            actor = spec.start()
        except Exception as error:
            self._ended(child_id, Failed(type(error).__qualname__, str(error)), by_order=False)
            return
        if actor is None:
            self._carry_out(self._core.ignored(child_id, now))
            self._answer(child_id, ChildAnswer())
            return
        cell = self.context.start_child(actor, spec.mailbox, spec.shutdown_ns, self)
        self._cells[child_id] = cell
        self._ids[cell] = child_id
        if next(reversed(self._core.children)) != child_id:
            self._keep_order()

    def _ended(self, child_id: str, reason: ExitReason, *, by_order: bool) -> None:
        if not isinstance(reason, EXPECTED):        # OTP reports no child either that ended as it should
            log = self.context.log
            log.event("child_ended", supervisor=self.context.self_ref.name, child=child_id, reason=str(reason))
        actions = self._core.ended(child_id, reason, self.context.clock.now())
        self._answer(child_id, ChildAnswer() if by_order else ChildAnswer(failure=reason))
        self._carry_out(actions)

    def _due(self, child_id: str) -> None:
        self._carry_out(self._core.due(child_id))

    def _give_up(self, action: GiveUp) -> None:
        name = self.context.self_ref.name
        self.context.log.event("supervisor_gave_up", supervisor=name, reason=str(action.reason))
        if not self._ready.done():
            self._ready.set_exception(StartFailed(str(action.reason)))
        else:
            self.context.stop(SHUTDOWN)

    def _keep_order(self) -> None:
        """Children end in the reverse of the specification, also those that were started again since."""
        order = [self._cells[child_id] for child_id in self._core.children if child_id in self._cells]
        self.context.order_children(order)

    def _order(self, child_id: str, decide: Callable[[], Refusal | list[Action]]) -> None:
        reply = self.context.defer()
        result = decide()
        if isinstance(result, Refusal):
            reply.answer(ChildAnswer(ref=self._ref(child_id), refusal=result))
        elif not result:
            reply.answer(ChildAnswer())
        else:
            before = self._orders.pop(child_id, None)
            if before is not None:    # a start that a stop overtook
                before.answer(ChildAnswer(failure=SHUTDOWN))
            self._orders[child_id] = reply
            self._carry_out(result)

    def _answer(self, child_id: str, answer: ChildAnswer) -> None:
        reply = self._orders.pop(child_id, None)
        if reply is not None:
            reply.answer(answer)

    def _ref(self, child_id: str) -> Ref[Any] | None:
        cell = self._cells.get(child_id)
        return None if cell is None else cell.ref

    def _id_of(self, cell: "Cell") -> str | None:
        return self._ids.get(cell)
