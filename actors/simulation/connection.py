"""One connection between a dialler and a listener, and what each of its two ends knows of the other.

An end closes by itself: because its owner hung up or died, because the end of the stream or a reset arrived,
or because nothing got through for too long. Between the two closings each side lives in a world of its own,
which is where sessions break.

Who hangs up politely loses nothing of what it sent before: the end of the stream comes after it.
"""

from enum import Enum, auto
from typing import TYPE_CHECKING

from actors.runtime.ports import Nanos
from actors.simulation.links import Fabric, Path, Pipe
from actors.simulation.loop import Loop

if TYPE_CHECKING:
    from actors.simulation.network import SimDialer, SimListener


class End(Enum):
    """How a process ended, as far as its connections are concerned."""

    EXIT = auto()     # by itself: its sockets were closed in order, as `actors.run` does it
    CRASH = auto()    # its kernel closes them, and some of what it sent last does not leave
    POWER = auto()    # its kernel is gone as well


class Connection:
    """What one successful dial made: two pipes, and an end on each side that closes by itself."""

    __slots__ = (
        "_dialer_watches", "_listener_watches", "dialer", "dialer_open", "dialer_up", "fabric", "listener",
        "listener_open", "machines", "standing", "to_dialer", "to_listener",
    )

    def __init__(
        self, fabric: Fabric, standing: "dict[Connection, None]", dialer: "SimDialer",
        listener: "SimListener", there: Path, back: Path,
    ) -> None:
        self.fabric = fabric
        self.standing = standing        # of the network: this is in it until both ends are closed
        self.dialer = dialer
        self.listener = listener
        self.machines = frozenset((dialer.machine, listener.machine))   # compared, never walked
        self.dialer_open = True
        self.dialer_up = False          # the handshake's answer has arrived
        self.listener_open = True
        self._dialer_watches = False    # a silence timeout of this end is in the queue
        self._listener_watches = False
        identity = dialer.identity

        def take(data: bytes) -> None:
            if not listener.closed:
                listener.on_message(identity, data)

        self.to_listener = Pipe(fabric, self, dialer.loop, listener.loop, there, take)
        self.to_dialer = Pipe(fabric, self, listener.loop, dialer.loop, back, dialer.receive)
        standing[self] = None
        former = listener.peers.get(identity)
        listener.peers[identity] = self
        if former is not None:
            former.hang_up_listener()

    def is_open_at_the_end_of(self, pipe: Pipe) -> bool:
        return self.dialer_open if pipe is self.to_dialer else self.listener_open

    def dialer_learns(self, _: object) -> None:
        if self.dialer_open:
            self.dialer_up = True
            self.dialer.came_up()

    def end_arrived(self, pipe: Pipe) -> None:
        """The end of the stream, or a reset, reached the end of `pipe`."""
        if pipe is self.to_dialer:
            self._close_dialer(None)
        else:
            self._close_listener(None)

    def refused(self, pipe: Pipe) -> None:
        """A message came to a closed end, which answers with a reset (unless that way is cut)."""
        fabric = self.fabric
        back, close = (
            (self.to_listener, self._close_listener)
            if pipe is self.to_dialer
            else (self.to_dialer, self._close_dialer)
        )
        # An end of the stream that is under way closes that end as well, and does not overtake what was sent.
        if back.path.cuts == 0 and not back.ends:
            fabric.queue.push(fabric.queue.now + fabric.delay(back.path, 0), close, None)

    def stalled(self) -> None:
        """A message waits behind a cut path. Each end loses patience at a time of its own."""
        fabric, limits = self.fabric, self.fabric.limits
        if not self._dialer_watches:
            self._dialer_watches = True
            patience = fabric.between(limits.silence_ns_min, limits.silence_ns_max)
            fabric.queue.push(fabric.queue.now + patience, self._silent_dialer, patience)
        if not self._listener_watches:
            self._listener_watches = True
            patience = fabric.between(limits.silence_ns_min, limits.silence_ns_max)
            fabric.queue.push(fabric.queue.now + patience, self._silent_listener, patience)

    def reset(self) -> None:
        """Both ends close; what was under way is lost, but for what has just arrived."""
        self.to_dialer.vanish()
        self.to_listener.vanish()
        self._close_dialer(None)
        self._close_listener(None)

    def hang_up_dialer(self) -> None:
        if self.dialer_open:
            self.to_listener.end()
            self._close_dialer(None)

    def hang_up_listener(self) -> None:
        if self.listener_open:
            self.to_dialer.end()
            self._close_listener(None)

    def side_ended(self, loop: Loop, end: End) -> None:
        if self.dialer.loop is loop and self.dialer_open:
            _finish(self.to_listener, end)
            self._close_dialer(None)
        if self.listener.loop is loop and self.listener_open:
            _finish(self.to_dialer, end)
            self._close_listener(None)

    def _silent_dialer(self, patience: Nanos) -> None:
        self._dialer_watches = False
        if self._stalled_for() >= patience:
            self._close_dialer(None)
        elif self._stalled_for() > 0:
            self.stalled()      # it moved meanwhile and stalled again

    def _silent_listener(self, patience: Nanos) -> None:
        self._listener_watches = False
        if self._stalled_for() >= patience:
            self._close_listener(None)
        elif self._stalled_for() > 0:
            self.stalled()

    def _stalled_for(self) -> Nanos:
        """How long the older of the two stalls has lasted; 0 without one."""
        now = self.fabric.queue.now
        return max(
            now - pipe.stalled_at if pipe.stalled and pipe.path.cuts else 0
            for pipe in (self.to_dialer, self.to_listener)
        )

    def _close_dialer(self, _: object) -> None:
        if self.dialer_open:
            self.dialer_open = False
            was_up, self.dialer_up = self.dialer_up, False
            self.dialer.went_down(was_up=was_up)
            self._forget_if_over()

    def _close_listener(self, _: object) -> None:
        if self.listener_open:
            self.listener_open = False
            if self.listener.peers.get(self.dialer.identity) is self:
                del self.listener.peers[self.dialer.identity]
            self._forget_if_over()

    def _forget_if_over(self) -> None:
        if not self.dialer_open and not self.listener_open:
            self.to_dialer.discard()
            self.to_listener.discard()
            del self.standing[self]


def _finish(pipe: Pipe, end: End) -> None:
    """The process that sends into `pipe` has ended."""
    if end is End.POWER:
        pipe.vanish()
        return
    if end is End.CRASH:
        pipe.lose_the_last()
    pipe.end()
