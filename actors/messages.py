"""Messages that the framework itself sends, and the reasons for which actors end.

Reasons travel between nodes (a monitor may watch an actor elsewhere), so they are tagged structs.
"""

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from actors.ref import Ref


class Reason(Struct, array_like=True, frozen=True, tag_field="reason"):
    """Base of the reasons for which an actor ends."""


class Normal(Reason, tag=0, frozen=True):
    """It was done."""

    def __str__(self) -> str:
        return "normal"


class Shutdown(Reason, tag=1, frozen=True):
    """It was asked to stop, by its supervisor, its parent or its system."""

    info: str = ""

    def __str__(self) -> str:
        return f"shutdown ({self.info})" if self.info else "shutdown"


class Failed(Reason, tag=2, frozen=True):
    """A handler raised."""

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class Killed(Reason, tag=3, frozen=True):
    """It was ended by force: it did not stop within its limit."""

    def __str__(self) -> str:
        return "killed"


class Crashed(Reason, tag=4, frozen=True):
    """Its process ended by itself: exactly one of `code` and `signal` is set."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal is not None else f"exit code {self.code}"


class Lost(Reason, tag=5, frozen=True):
    """Its node cannot be reached. It may still run there."""

    node: str

    def __str__(self) -> str:
        return f"node {self.node} is lost"


class NotFound(Reason, tag=6, frozen=True):
    """There was no such actor when the monitor was set."""

    def __str__(self) -> str:
        return "not found"


ExitReason = Normal | Shutdown | Failed | Killed | Crashed | Lost | NotFound

NORMAL = Normal()
SHUTDOWN = Shutdown()
KILLED = Killed()
NOT_FOUND = NotFound()

# A supervisor restarts a transient child unless it ended like this.
EXPECTED = (Normal, Shutdown)


class Down(Struct, frozen=True):
    """System -> watcher: the actor behind `ref` ended. Comes exactly once for each `monitor`, unless
    demonitored.
    """

    reference: int
    ref: "Ref[Any]"
    reason: ExitReason
