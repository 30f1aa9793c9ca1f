"""The heart of the simulated world: one queue of events in virtual time, and the digest of all that happened.

Everything that will ever happen is one entry of one heap: `(when, sequence, run, argument)`. The sequence
number breaks ties, so equal times run in the order in which they were asked for; nothing else decides, no
hash, no address, no thread. An entry is a plain tuple and costs about a microsecond from push to pop: idle
clusters do little else than fire ticks, so that is what 50 seeds of a simulated minute are made of.

The digest is a running crc over (time, process, kind, crc of bytes). Two runs took the same course exactly
when their digests are equal; the ring of the last events says where they parted.
"""

from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappush
from struct import Struct
from zlib import crc32

from actors.runtime.ports import Nanos

CANCELLED_KEPT_MAX = 1_024      # cancelled timers that may lie in the heap before it is swept
TRACE_RING_EVENTS = 4_096

# Kinds of events in the trace.
TURN = 1            # a process runs one turn; value = callbacks run
START = 2
CRASH = 3
PAUSE = 4
RESUME = 5
EXIT = 6
SEND = 7            # value = crc of the message
DELIVER = 8
DROP = 9
LINK_UP = 10
LINK_DOWN = 11
FILE = 12           # a write, sync, rename or removal; value = crc of what it says
LOG = 13
FRAME = 14          # a frame between parent and child
SIGNAL = 15
FAULT = 16

KINDS = (
    "", "turn", "start", "crash", "pause", "resume", "exit", "send", "deliver", "drop",
    "link up", "link down", "file", "log", "frame", "signal", "fault",
)
_RECORD = Struct("<QIII")


class Handle:
    """A callback of a process that waits for its turn or its time."""

    __slots__ = ("args", "callback", "context", "due", "queue")

    def __init__(
        self, callback: Callable[..., object], args: tuple[object, ...], context: Context | None, due: Nanos
    ) -> None:
        self.callback: Callable[..., object] | None = callback      # None once cancelled
        self.args = args
        self.context = context      # None: the context of the process
        self.due = due              # local time of the process
        self.queue: EventQueue | None = None    # set while this lies in the heap

    def cancel(self) -> None:
        if self.callback is None:
            return
        self.callback = None
        self.args = ()
        if self.queue is not None:
            self.queue.forget_one()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due / 1e9


class EventQueue:
    """Virtual time and what is to come. `now` is the world's time; it moves only when an event is taken."""

    __slots__ = ("_cancelled", "_sequence", "heap", "now")

    def __init__(self) -> None:
        self.now: Nanos = 0
        self.heap: list[tuple[Nanos, int, Callable[..., object], object]] = []
        self._sequence = 0          # of the last event pushed
        self._cancelled = 0         # handles cancelled since the last sweep: at least those in the heap

    def push(self, when: Nanos, run: Callable[..., object], argument: object) -> None:
        """Calls `run(argument)` at world time `when`."""
        assert when >= self.now, "an event lies in the past"
        self._sequence += 1
        heappush(self.heap, (when, self._sequence, run, argument))

    def postpone(self, until: Nanos) -> None:
        """Goes on to `until`; what lies before that comes then, in the order in which it would have come."""
        assert until >= self.now, "time does not go back"
        # Numbers begin anew: there are fewer entries than have ever been pushed. Sorted, they are a heap.
        self.heap[:] = [
            (max(when, until), number, run, argument)
            for number, (when, _, run, argument) in enumerate(sorted(self.heap), start=1)
        ]
        assert len(self.heap) <= self._sequence
        self.now = until

    def forget_one(self) -> None:
        """A handle in the heap was cancelled; sweeps when such handles are more than half of it."""
        self._cancelled += 1
        if self._cancelled > CANCELLED_KEPT_MAX and self._cancelled * 2 > len(self.heap):
            # In place, because the world's loop holds on to the list.
            self.heap[:] = [entry for entry in self.heap if not _is_cancelled(entry[3])]
            heapify(self.heap)
            self._cancelled = 0


def _is_cancelled(argument: object) -> bool:
    return type(argument) is Handle and argument.callback is None


class Trace:
    """The rolling digest of a run, and its last events for whoever looks for the place where two runs
    parted."""

    __slots__ = ("digest", "events", "ring")

    def __init__(self) -> None:
        self.digest = 0
        self.events = 0
        self.ring: deque[tuple[Nanos, int, int, int]] = deque(maxlen=TRACE_RING_EVENTS)

    def add(self, now: Nanos, process: int, kind: int, value: int) -> None:
        self.digest = crc32(_RECORD.pack(now, process, kind, value), self.digest)
        self.events += 1
        self.ring.append((now, process, kind, value))

    def tail(self, count: int = 50) -> list[str]:
        """The last events as readable lines."""
        return [
            f"{now / 1e9:14.9f} #{process:<4} {KINDS[kind]:<9} {value:08x}"
            for now, process, kind, value in list(self.ring)[-count:]
        ]
