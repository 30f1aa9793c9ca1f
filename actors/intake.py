"""The incoming side of a cell: whatever is sent to an actor ends here, in its mailbox or as a dead letter."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from actors.asks import Reply, WaitingReply, WantedReply
from actors.errors import AskDied, AskOverloaded
from actors.life import Life
from actors.mailbox import Mailbox, MailboxSpec, Put
from actors.messages import Down, ExitReason
from actors.runtime.ports import Nanos

if TYPE_CHECKING:
    from actors.system import ActorSystem

Entry = tuple[Any, Reply | None]


class Intake:
    """Takes messages until the actor is STOPPING; its subclass handles them.

    Invariants: `queued` while the turn holds this cell; `reason` is set from STOPPING on.
    """

    __slots__ = ("life", "mailbox", "name", "queued", "reason", "system", "task")

    def __init__(self, system: "ActorSystem", name: str, mailbox: MailboxSpec) -> None:
        self.system = system
        self.name = name
        self.life = Life.NEW
        self.reason: ExitReason | None = None
        self.mailbox: Mailbox[Entry] = Mailbox(mailbox)
        self.task: asyncio.Task[None] | None = None    # set while a coroutine of the actor runs
        self.queued = False

    def run(self, entries_max: int) -> int:
        """See `actors.turn.Runnable`."""
        raise NotImplementedError

    def tell(self, message: Any) -> bool:
        """See `Ref.tell`."""
        return self._post((message, None))

    def send(self, message: Any) -> Awaitable[bool]:
        """See `Ref.send`."""
        future = asyncio.get_running_loop().create_future()

        def admit() -> bool:
            if future.done():
                return False
            future.set_result(True)
            return True

        def give_up() -> None:
            if not future.done():
                future.set_result(False)

        if self._post((message, None)):
            future.set_result(True)
        elif not self._wait((message, WaitingReply(give_up)), admit):
            future.set_result(False)
        return future

    def ask(self, message: Any, timeout: Nanos) -> Awaitable[Any]:
        """See `Ref.ask`."""
        reply, future = self.system.open_ask(timeout)
        self.deliver(message, reply)
        return future

    def deliver(self, message: Any, reply: WantedReply) -> None:
        """Takes a message that is to be answered, or answers it with an error."""
        entry = message, reply
        if not self._post(entry) and not self._wait(entry, lambda: reply.wanted):
            reply.fail(AskOverloaded("the mailbox is full"))

    def put_down(self, down: Down) -> None:
        """Takes a Down, behind what has come before."""
        if self.life < Life.STOPPING:
            self.mailbox.put_signal((down, None))
            self.wake()

    def put_system(self, signal: object) -> None:
        """Takes a signal that goes before all messages."""
        self.mailbox.put_system((signal, None))
        self.wake()

    def put_first(self, signal: object) -> None:
        """Takes a signal that goes before everything that waits."""
        self.mailbox.put_first((signal, None))
        self.wake()

    def wake(self) -> None:
        """Lets the turn run this cell, unless a coroutine runs that it waits for."""
        if not self.queued and self.task is None and self.life < Life.STOPPING:
            self.queued = True
            self.system.turn.ready(self)

    def bury_all(self) -> None:
        """The actor takes nothing any more: all that waits becomes dead letters, and asks end."""
        assert self.life >= Life.STOPPING
        for entry in self.mailbox.clear():
            self._bury(entry)

    def _post(self, entry: Entry) -> bool:
        if self.life >= Life.STOPPING:
            self._bury(entry)
            return False
        put = self.mailbox.put(entry)
        if put is Put.REJECTED:
            return False
        if put is Put.DROPPED:
            victim = self.mailbox.victim
            assert victim is not None
            self.mailbox.victim = None
            self.system.dead_letter(self.name, victim[0], "overflow")
            if victim[1] is not None:
                victim[1].fail(AskOverloaded("the mailbox is full"))
        self.wake()
        return True

    def _wait(self, entry: Entry, admit: Callable[[], bool]) -> bool:
        return self.life < Life.STOPPING and self.mailbox.wait(entry, admit)

    def _bury(self, entry: Entry) -> None:
        message, reply = entry
        assert self.reason is not None
        if reply is not None:
            reply.fail(AskDied(self.reason))
        self.system.dead_letter(self.name, message, "dead")
