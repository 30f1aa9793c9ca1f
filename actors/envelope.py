"""What the systems of two nodes say to each other, so that an actor is addressed alike wherever it lives.

A payload is the msgpack of the message itself. The receiver decodes it as the union of the types that the
named actor handles, so an actor can be sent nothing but what it is written for, and nothing is imported or
looked up.
"""

from msgspec import Raw, Struct

from actors.messages import ExitReason

SYSTEM_VERSION = 1

# Why an ask failed, apart from the time limit, which the asker keeps itself.
ASK_DIED = 0
ASK_OVERLOADED = 1
ASK_NOT_FOUND = 2


class Envelope(Struct, array_like=True, frozen=True, gc=False):
    """Base of all of them."""


class NodeHello(Envelope, tag=0, frozen=True):
    """Dialler -> listener, first; listener -> dialler, in return: this is my name. Owes: nothing."""

    node: str
    version: int = SYSTEM_VERSION


class Alive(Envelope, tag=1, frozen=True):
    """Both ways, every half second. Owes: nothing."""


class Tell(Envelope, tag=2, frozen=True):
    """For an actor, by name. Owes: nothing."""

    name: str
    payload: Raw


class Ask(Envelope, tag=3, frozen=True):
    """For an actor, by name; `number` is the asker's. Owes: Answered or AskFailed."""

    number: int
    name: str
    payload: Raw


class Answered(Envelope, tag=4, frozen=True):
    """The answer to Ask. Owes: nothing."""

    number: int
    payload: Raw


class AskFailed(Envelope, tag=5, frozen=True):
    """No answer to Ask will come: `kind` is one of ASK_*, `reason` is set with ASK_DIED. Owes: nothing."""

    number: int
    kind: int
    text: str
    reason: ExitReason | None = None


class Watch(Envelope, tag=6, frozen=True):
    """Tell me when whoever has this name now ends; `reference` is the watcher's. Owes: Gone, once."""

    reference: int
    name: str


class Unwatch(Envelope, tag=7, frozen=True):
    """I no longer want to know. Owes: nothing."""

    reference: int


class Gone(Envelope, tag=8, frozen=True):
    """What Watch asked for. Owes: nothing."""

    reference: int
    reason: ExitReason


Said = NodeHello | Alive | Tell | Ask | Answered | AskFailed | Watch | Unwatch | Gone
