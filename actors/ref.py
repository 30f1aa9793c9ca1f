"""References: how one actor names another.

A reference made by `spawn` or `lookup` names one incarnation: when that ends, it stays behind, tells become
dead letters and asks end with AskDied. A reference made by `system.ref(node, name)` names whoever has the
name now. Both are addressed alike, wherever the actor lives.
"""

from collections.abc import Awaitable
from typing import Any, Generic, Protocol, TypeVar

from actors.runtime.ports import Nanos

M = TypeVar("M", contravariant=True)

ANY_INCARNATION = 0


class Target(Protocol):
    """What stands behind a reference."""

    def tell(self, message: Any) -> bool: ...

    def send(self, message: Any) -> Awaitable[bool]: ...

    def ask(self, message: Any, timeout: Nanos) -> Awaitable[Any]: ...


class Ref(Generic[M]):
    """The address of an actor that takes messages of type M."""

    __slots__ = ("incarnation", "name", "node", "target")

    def __init__(self, target: Target, node: str, name: str, incarnation: int) -> None:
        self.target = target
        self.node = node
        self.name = name
        self.incarnation = incarnation    # ANY_INCARNATION: of a name

    def tell(self, message: M) -> bool:
        """Sends at most once, in order for each pair of sender and receiver. False: it was certainly not
        taken.
        """
        return self.target.tell(message)

    def send(self, message: M) -> Awaitable[bool]:
        """Like `tell`, but waits for room if the mailbox is full and its policy is BLOCK."""
        return self.target.send(message)

    def ask(self, message: M, timeout: Nanos) -> Awaitable[Any]:
        """Sends, and awaits the answer. Ends exactly once: with the answer, or by raising AskTimeout,
        AskDied, AskOverloaded or AskNotFound. `timeout` is in nanoseconds from now.
        """
        return self.target.ask(message, timeout)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ref)
            and self.name == other.name
            and self.incarnation == other.incarnation
            and self.node == other.node
        )

    def __hash__(self) -> int:
        return hash((self.node, self.name, self.incarnation))

    def __repr__(self) -> str:
        which = f"#{self.incarnation}" if self.incarnation else ""
        return f"<Ref {self.node}/{self.name}{which}>"
