"""What lies between two simulated processes: paths between machines, connections between processes, pipes of
messages.

A *path* is one direction between two machines; faults act on it (cut, slow, lossy). A *connection* is what a
dialler and a listener share; it consists of two *pipes*, one per direction, each in order and of finite size.

What is modelled is TCP under ZeroMQ, seen from outside:

- A message arrives after a delay with jitter, never before its predecessor in the same pipe.
- Behind a cut path nothing is lost at first: the kernel retransmits. Messages wait (*stall*) until the
  path is mended and then arrive late and all at once; if it stays cut past the silence timeout, each end
  gives the connection up by itself, and what stalled is lost.
- Who hangs up, or ends by itself, sends the end of the stream behind everything it sent before; the other
  side sees it as `on_down`.
- A process that is killed leaves sockets to its kernel: some of what it sent last still goes out (how much
  is drawn by lot), then the end of the stream follows. A machine without power sends no end of stream; the
  other side learns by silence, or by a reset once the machine is back.
- An end that still sends to one that has given up gets a reset.
- A lossy path drops single messages without a sign, which TCP never does: it stands for whatever in the
  layers above may drop (a full ROUTER pipe, a handover), and it makes gaps in sequence numbers, which the
  session layer must see.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from actors.runtime.ports import MICROSECOND, MILLISECOND, SECOND, Nanos, Sent
from actors.simulation.events import DELIVER, DROP, SEND, EventQueue
from actors.simulation.loop import Loop

if TYPE_CHECKING:
    from actors.simulation.connection import Connection

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """How the network behaves while nothing is broken, and how long it takes to notice that something is."""

    delay_local_ns: Nanos = 30 * MICROSECOND        # smallest delay between processes of one machine
    delay_remote_ns: Nanos = 150 * MICROSECOND      # smallest delay between machines
    jitter_ns: Nanos = 100 * MICROSECOND            # mean of an exponential that is added
    hiccup_ppm: int = 2_000                         # of messages that meet a busy switch ...
    hiccup_ns_max: Nanos = 30 * MILLISECOND         # ... and what that adds at most; uniform
    byte_ns: Nanos = 8                              # per byte: 1 Gbit/s
    retransmit_ns_max: Nanos = 400 * MILLISECOND    # from a mended path to the next retransmission; uniform
    silence_ns_min: Nanos = 3 * SECOND              # an end gives up a stalled connection after this; uniform
    silence_ns_max: Nanos = 6 * SECOND
    reconnect_ns_min: Nanos = 100 * MILLISECOND     # first pause before redialling, plus jitter; doubles
    reconnect_ns_max: Nanos = 1 * SECOND
    connect_ns_max: Nanos = 1 * SECOND              # a dial ends after this if not even a refusal comes
    duplicate_ppm: int = 0                          # of messages that arrive twice; on every path
    pipe_messages_max: int = 1_000                  # as ZMQ_SNDHWM; the sum of both ends
    pipe_bytes_max: int = 16 * 1024 * 1024


class Path:
    """One direction between two machines."""

    __slots__ = ("cuts", "extra_ns", "local", "loss_ppm", "source", "stalled", "target")

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.local = source == target
        self.cuts = 0               # faults that cut this path now; it carries nothing while this is > 0
        self.extra_ns: Nanos = 0    # added to each delay
        self.loss_ppm = 0           # of messages that vanish
        self.stalled: dict[Pipe, None] = {}     # pipes that wait for this path, longest first


class Fabric:
    """The paths of all machines and what the links draw their luck from."""

    def __init__(self, queue: EventQueue, random: Random, limits: NetworkLimits) -> None:
        self.queue = queue
        self.random = random
        self.limits = limits
        self._paths: dict[tuple[str, str], Path] = {}

    def path(self, source: str, target: str) -> Path:
        found = self._paths.get((source, target))
        if found is None:
            found = self._paths[source, target] = Path(source, target)
        return found

    def delay(self, path: Path, size: int) -> Nanos:
        limits = self.limits
        random = self.random
        delay = limits.delay_local_ns if path.local else limits.delay_remote_ns
        delay += int(random.expovariate(1.0) * limits.jitter_ns) + size * limits.byte_ns + path.extra_ns
        if not path.local and random.random() * MILLION < limits.hiccup_ppm:
            delay += int(random.random() * limits.hiccup_ns_max)
        return delay

    def between(self, low: Nanos, high: Nanos) -> Nanos:
        return low + int(self.random.random() * (high - low))

    def cut(self, path: Path) -> None:
        path.cuts += 1

    def mend(self, path: Path) -> None:
        assert path.cuts > 0, "mending a path that is not cut"
        path.cuts -= 1
        if path.cuts == 0:
            stalled, path.stalled = path.stalled, {}
            for pipe in stalled:
                wait = self.between(0, self.limits.retransmit_ns_max)
                self.queue.push(self.queue.now + wait, pipe.retransmit, None)


class Pipe:
    """One direction of a connection."""

    __slots__ = (
        "_arrive_event", "bytes", "connection", "fabric", "flying", "last_arrival", "messages", "path",
        "receive", "source", "stalled", "stalled_at", "target",
    )

    def __init__(
        self, fabric: Fabric, connection: "Connection", source: Loop, target: Loop, path: Path,
        receive: Callable[[bytes], object],
    ) -> None:
        self.fabric = fabric
        self.connection = connection
        self.source = source
        self.target = target
        self.path = path
        self.receive = receive          # what the receiver does with a message, in a turn of its own
        self.messages = 0               # sent and not yet taken by the receiver
        self.bytes = 0                  # of those
        # (arrival, message), ascending; None is the end of the stream.
        self.flying: deque[tuple[Nanos, bytes | None]] = deque()
        self.stalled = False            # the first of `flying` came to a cut path; nothing overtakes it
        self.stalled_at: Nanos = 0
        self.last_arrival: Nanos = 0    # of all that was sent
        self._arrive_event = self._arrive

    @property
    def ends(self) -> bool:
        """Whether the end of the stream is under way."""
        return bool(self.flying) and self.flying[-1][1] is None

    def send(self, data: bytes) -> Sent:
        limits = self.fabric.limits
        size = len(data)
        if self.messages >= limits.pipe_messages_max or (
            self.messages and self.bytes + size > limits.pipe_bytes_max
        ):
            return Sent.FULL
        source = self.source
        path = self.path
        source.trace.add(source.world_now(), source.number, SEND, crc32(data))
        if path.loss_ppm and self.fabric.random.random() * MILLION < path.loss_ppm:
            source.trace.add(source.world_now(), source.number, DROP, size)
            return Sent.TAKEN
        self._fly(data, size)
        if limits.duplicate_ppm and self.fabric.random.random() * MILLION < limits.duplicate_ppm:
            self._fly(data, size)
        return Sent.TAKEN

    def end(self) -> None:
        """The sender has hung up or is gone: the end of the stream follows what it sent."""
        assert not self.ends
        self._fly(None, 0)

    def lose_the_last(self) -> None:
        """The sender was killed. Some of what it sent last does not leave."""
        now = self.fabric.queue.now
        departing = sum(1 for arrival, _ in self.flying if arrival > now)
        for _ in range(self.fabric.random.randrange(departing + 1) if departing else 0):
            self.flying.pop()

    def vanish(self) -> None:
        """The sender's machine lost its power: what was on the wire arrives now or never, and no end
        follows."""
        arriving = 0 if self.stalled else len(self.flying)
        for _ in range(self.fabric.random.randrange(arriving + 1)):
            self._take(self.target.deliver)
        self.flying.clear()

    def discard(self) -> None:
        """The connection is over on both sides."""
        self.flying.clear()
        self.path.stalled.pop(self, None)

    def _fly(self, data: bytes | None, size: int) -> None:
        fabric = self.fabric
        self.messages += 1
        self.bytes += size
        # A message leaves when its sender has done the work it was charged for so far in this turn.
        arrival = self.source.world_now() + fabric.delay(self.path, size)
        if arrival < self.last_arrival:
            arrival = self.last_arrival
        self.last_arrival = arrival
        self.flying.append((arrival, data))
        fabric.queue.push(arrival, self._arrive_event, None)

    def _arrive(self, _: object) -> None:
        # Messages may have been taken away since this event was queued: look, do not trust.
        if self.stalled or not self.flying or self.flying[0][0] > self.fabric.queue.now:
            return
        if self.path.cuts:
            self._stall()
        else:
            self._take(self.target.arrive)

    def _stall(self) -> None:
        self.stalled = True
        self.stalled_at = self.fabric.queue.now
        self.path.stalled[self] = None
        self.connection.stalled()

    def retransmit(self, _: object) -> None:
        """The path was mended some time ago: all that waits arrives, unless it was cut again."""
        self.stalled = False
        now = self.fabric.queue.now
        while self.flying and self.flying[0][0] <= now:
            if self.path.cuts:
                self._stall()
                return
            self._take(self.target.deliver)

    def _take(self, deliver: Callable[[Callable[[Any], object], Any], None]) -> None:
        """The first message has come to the other end."""
        _, data = self.flying.popleft()
        if data is None:
            self.messages -= 1
            self.connection.end_arrived(self)
        elif self.connection.is_open_at_the_end_of(self):
            target = self.target
            target.trace.add(self.fabric.queue.now, target.number, DELIVER, len(data))
            deliver(self._consume, data)
        else:
            self.messages -= 1
            self.bytes -= len(data)
            self.connection.refused(self)

    def _consume(self, data: bytes) -> None:
        self.messages -= 1
        self.bytes -= len(data)
        self.receive(data)
