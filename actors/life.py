"""How far an actor is, and the signals that move it on; they come in the system lane of its mailbox."""

import traceback
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from actors.messages import ExitReason, Failed

if TYPE_CHECKING:
    from actors.cell import Cell

TRACEBACK_CHARACTERS_MAX = 8_192


class Life(IntEnum):
    """It only goes on."""

    NEW = 0         # `started` has not returned yet
    RUNNING = 1
    STOPPING = 2    # takes nothing any more; waits for its children
    DEAD = 3


class Start(NamedTuple):
    """First entry of each actor."""


class Stop(NamedTuple):
    """Goes before all messages, but lets the handler that runs end."""

    reason: ExitReason


class Observer(Protocol):
    """A supervisor, as the cells of its children see it."""

    def child_started(self, cell: "Cell") -> None: ...

    def child_ended(self, cell: "Cell", reason: ExitReason) -> None: ...


def failure(error: BaseException) -> Failed:
    """The reason for the end of an actor that raised; the end of a long traceback says most."""
    lines = "".join(traceback.format_exception(error))
    return Failed(type(error).__qualname__, str(error), lines[-TRACEBACK_CHARACTERS_MAX:])
