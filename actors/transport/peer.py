"""One peer of an endpoint: what waits to leave for it.

Messages are encoded when they are sent, so that sizes are known, an error shows where it was made, and a
message may change afterwards. All of a turn leave as one frame; a queue that reaches `flush_bytes` leaves at
once. Frames that the network does not take stay here, in order, within the limits, and are offered again:
with the next flush, and every 10 ms. Beyond the limits `send` says False and drops: the protocols above
recover, and memory does not grow with a peer that does not read.
"""

from collections import deque
from collections.abc import Callable

from actors.runtime.ports import Sent
from actors.transport.core import Core
from actors.transport.frame import FRAME_MESSAGES_MAX, Flags, build_frame
from actors.transport.session import Session

_TAKEN = Sent.TAKEN    # an enum's members are slow to look up, and this is done for each frame


class Peer:
    """The other end of a link. `hello` is what its dialler said last; `identity` is the dialler's."""

    __slots__ = (
        "_core",
        "_dirty",
        "_frames",
        "_held_bytes",
        "_held_messages",
        "_on_close",
        "_queue",
        "_queued_bytes",
        "_transmit",
        "address",
        "hello",
        "identity",
        "is_up",
        "label",
        "on_let_go",
        "session",
    )

    def __init__(
        self,
        core: Core,
        identity: bytes,
        address: str,
        label: str,
        transmit: Callable[[bytes], Sent],
        on_close: Callable[["Peer"], None],
    ) -> None:
        self._core = core
        self._transmit = transmit
        self._on_close = on_close
        self.on_let_go: Callable[[Peer, Sent], None] | None = None   # of an accepted peer: ends its session
        self.identity = identity
        self.address = address          # that was dialled; of an accepted peer the listener's
        self.label = label              # how logs name it
        self.hello: object = None
        self.is_up = False
        self.session: Session | None = None    # set exactly while `is_up`
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._frames: deque[tuple[bytes, int]] = deque()    # sealed, with the number of their messages
        self._held_bytes = 0            # in the queue and in sealed frames, headers not counted
        self._held_messages = 0
        self._dirty = False

    def __repr__(self) -> str:
        state = "up" if self.is_up else "down"
        return f"<Peer {self.identity.hex()} {self.address} {state}>"

    def send(self, message: object) -> bool:
        """Queues one message. False: the link is down or the outbox is full, and the message is dropped."""
        return self.send_raw(self._core.encode(message))

    def send_raw(self, encoded: bytes) -> bool:
        """Queues one message that is already msgpack, like `send`."""
        core = self._core
        limits = core.limits
        if not self.is_up:
            core.counters.send_down += 1
            return False
        size = len(encoded)
        if size > limits.message_bytes:
            core.counters.send_too_big += 1
            core.peer_log.event("message_too_big", self.label, known=True, bytes=size, bytes_max=limits.message_bytes)
            return False
        if self._held_bytes + size > limits.outbox_bytes or self._held_messages >= limits.outbox_messages:
            core.counters.send_full += 1
            return False
        queue = self._queue
        if queue and (self._queued_bytes + size > limits.message_bytes or len(queue) == FRAME_MESSAGES_MAX):
            self.flush()
        queue.append(encoded)
        self._queued_bytes += size
        self._held_bytes += size
        self._held_messages += 1
        if self._queued_bytes >= limits.flush_bytes:
            self.flush()
        elif not self._dirty:
            self._dirty = True
            core.turn.at_flush(self.flush)
        return True

    def flush(self) -> None:
        """Sends now what is queued, as one frame."""
        self._dirty = False
        if self._queue:
            self._seal(Flags.DATA)
        if self._frames:
            self.offer()

    def close(self) -> None:
        """Ends the link for good; the owner is not called back. A listener tells the dialler."""
        self._on_close(self)

    def open(self, session: Session) -> None:
        """Endpoint only: from now on frames of this session are sent and taken."""
        assert not self.is_up
        assert self._held_bytes == 0
        self.session = session
        self.is_up = True
        self._core.counters.sessions += 1

    def shut(self) -> None:
        """Endpoint only: the session is over; what waits for it is dropped."""
        assert self.is_up
        self.session = None
        self.is_up = False
        self._queue.clear()
        self._queued_bytes = 0
        self._frames.clear()
        self._held_bytes = 0
        self._held_messages = 0
        self._core.blocked.pop(self, None)

    def greet(self, hello: object) -> None:
        """Endpoint only, of a dialler: sends the first frame of the session."""
        assert self.session is not None
        assert self.session.sent == 0
        self.hello = hello
        encoded = self._core.encode(hello)
        assert len(encoded) <= self._core.limits.message_bytes, "a hello must fit into a frame"
        self._queue.append(encoded)
        self._queued_bytes = self._held_bytes = len(encoded)
        self._held_messages = 1
        self._seal(Flags.HELLO)
        self.offer()

    def let_go(self, why: Sent) -> None:
        """Endpoint only: nobody is connected (`GONE`), or who is has not read for too long (`FULL`)."""
        if self.on_let_go is not None:
            self.on_let_go(self, why)

    def offer(self) -> Sent:
        """Hands sealed frames to the network, in order, until it takes no more; says what became of the last."""
        frames = self._frames
        counters = self._core.counters
        moved = False
        while frames:
            frame, messages = frames[0]
            sent = self._transmit(frame)
            if sent is not _TAKEN:
                self._core.block(self, moved=moved)
                return sent
            moved = True
            frames.popleft()
            self._held_messages -= messages
            self._held_bytes -= len(frame)
            counters.frames_out += 1
            counters.messages_out += messages
            counters.bytes_out += len(frame)
        self._core.blocked.pop(self, None)
        return _TAKEN

    def _seal(self, flags: Flags) -> None:
        assert self.session is not None
        queue = self._queue
        frame = build_frame(flags, self.session.number, self.session.stamp(), queue)
        # From here on the frame counts with its header, which its messages did not.
        self._held_bytes += len(frame) - self._queued_bytes
        self._frames.append((frame, len(queue)))
        queue.clear()
        self._queued_bytes = 0
