"""What a node's process tells `launch`, which started it: that it is ready, or why it may not run.

A refusal goes to `launch` in words instead of into the log: it is the one line that an operator needs.
"""

from typing import Protocol

import msgspec
from msgspec import Struct

# Exit statuses of a node's process, besides 0.
EXIT_OPERATOR = 2           # an operator must put something right; a restart would not help
EXIT_FAULT = 70             # a restart goes through recovery and may mend it
EXIT_UNUSABLE = 73          # no room, no right to write: a first start is refused, but one that has run may wait for it
EXIT_NO_ROOM = 75           # a broker with a log has no room to go on: it is tried again until there is
EXIT_AGAIN = 80             # it ended in order, as an operator asked: it is to be started again at once
EXIT_DRAINED = 81           # a worker that did so, and stays out until it is asked back
REFUSED = (EXIT_OPERATOR, EXIT_UNUSABLE)
ASKED = (EXIT_AGAIN, EXIT_DRAINED)


class Parent(Protocol):
    """The way to `launch`, as the entry of a child process gets it."""

    def send(self, frame: bytes) -> None: ...


class Ready(Struct, array_like=True, tag=0, frozen=True):
    """Node -> launch, once: it holds its data directory, and a broker listens on its addresses."""


class Refused(Struct, array_like=True, tag=1, frozen=True):
    """Node -> launch, before it exits with one of REFUSED: what is wrong and what to do."""

    reason: str


class Drained(Struct, array_like=True, tag=2, frozen=True):
    """Worker -> launch, before it exits with EXIT_DRAINED: so many tasks still ran when the limit of its drain was
    over; they were ended, and went back."""

    cut_off: int


encode = msgspec.msgpack.Encoder().encode
decoder: msgspec.msgpack.Decoder[Ready | Refused | Drained] = msgspec.msgpack.Decoder(Ready | Refused | Drained)
