"""Frames between a worker and its executor children; one frame is one message.

Assignments travel as the structs that the leader made. Outcomes travel through the ring of the claim page
(`cluster.worker.page`); frames announce them, and carry those that do not fit.
"""

from signal import SIGRTMIN

import msgspec
from msgspec import Struct

from cluster.state.commands import Outcome, ScheduleSpec
from cluster.state.effects import Assignment

WARNING_SIGNAL = SIGRTMIN + 9    # the running task has come to its soft time limit; of those that nobody else uses
FLUSH_ESTIMATE_US = 4_000       # outcomes are announced before a task that is expected to take longer,
FLUSH_INTERVAL_NS = 20_000_000  # ... and otherwise at the latest after this
BEAT_INTERVAL_NS = 100_000_000  # a loop with tasks says so often that it turns
ASK_WARN, ASK_LIMIT, ASK_CANCEL, ASK_WITHDRAW = range(4)    # soft time limit, time limit, cancelled, given up
RING_OUTCOME_BYTES_MAX = 64 * 1024     # larger outcomes travel as frames of their own


class Setup(Struct, array_like=True, frozen=True):
    """Worker -> child, as its argument: import these modules, then say Ready or StartFailed."""

    modules: tuple[str, ...]


class Batch(Struct, array_like=True, gc=False, frozen=True):
    """Worker -> child: run these, in order; their numbers are `first`, `first` + 1, ..."""

    first: int
    items: list[Assignment]


class Places(Struct, array_like=True, tag=0, gc=False, frozen=True):
    """Worker -> loop child: run these, all at once, each at its place."""

    places: list[int]
    items: list[Assignment]


class Asks(Struct, array_like=True, tag=1, gc=False, frozen=True):
    """Worker -> loop child: throws the tasks at these places out of their `await`; why, is in `asks` (ASK_*)."""

    places: list[int]
    asks: list[int]


class Ready(Struct, array_like=True, tag=0, frozen=True):
    """Child -> worker, first: the modules are imported, these are the tasks they define; `async_names` are those of
    them that are `async`. With `has_actors` some are methods of TaskActors. `schedules` are those of the modules."""

    names: tuple[str, ...]
    async_names: tuple[str, ...] = ()
    has_actors: bool = False
    schedules: tuple[ScheduleSpec, ...] = ()


class StartFailed(Struct, array_like=True, tag=1, frozen=True):
    """Child -> worker instead of Ready, then it ends: this module could not be imported. Without a
    module something else is wrong, and `traceback` says what. The worker makes one itself for a child that is of no
    use."""

    module: str
    traceback: str


class Finished(Struct, array_like=True, tag=2, gc=False, frozen=True):
    """Child -> worker: there are outcomes in the ring."""


class Oversize(Struct, array_like=True, tag=3, gc=False, frozen=True):
    """Child -> worker: an outcome that does not fit into the ring."""

    outcome: Outcome


ToLoop = Places | Asks
FromChild = Ready | StartFailed | Finished | Oversize

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
FINISHED = encode(Finished())

setup_decoder = msgspec.msgpack.Decoder(Setup)
batch_decoder = msgspec.msgpack.Decoder(Batch)
to_loop_decoder: msgspec.msgpack.Decoder[ToLoop] = msgspec.msgpack.Decoder(ToLoop)
from_child_decoder: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)
_outcomes_decoder = msgspec.msgpack.Decoder(list[Outcome])


def encode_oversize(outcome: bytes) -> bytes:
    """Oversize, around an outcome that is encoded already."""
    return b"\x92\x03" + outcome          # an array of two: the tag, the outcome


def decode_outcomes(count: int, encoded: bytes) -> list[Outcome]:
    """The outcomes of a ring: `count` msgpack values, one after another."""
    return _outcomes_decoder.decode(b"\xdd" + count.to_bytes(4, "big") + encoded)
