"""What the parts of one endpoint share: limits, counters, and how a frame is opened.

Nothing here raises for what a stranger sent: it is counted, logged once per peer and minute, and dropped.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_origin

import msgspec
from msgspec.msgpack import Decoder

from actors.runtime.ports import MILLISECOND, SECOND, Cancel, Nanos, Ports, Sent
from actors.telemetry.log import PeerLog
from actors.transport.frame import (
    FRAME_BYTES_MAX,
    FRAME_VERSION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    Shape,
    check_shape,
)
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.transport.peer import Peer

_ARRAY_BYTES_MAX = 3    # of the array's own header, for at most FRAME_MESSAGES_MAX messages
OUTBOX_RETRY_NS = 10 * MILLISECOND
OUTBOX_STALL_NS = 5 * SECOND    # an accepted peer that takes nothing for so long is let go
OUTBOX_GONE_NS = SECOND         # one that is not connected: time to read what it sent before it left
assert OUTBOX_RETRY_NS < OUTBOX_GONE_NS < OUTBOX_STALL_NS


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Bounds of one endpoint; per peer where it says so."""

    frame_bytes: int = FRAME_BYTES_MAX
    flush_bytes: int = 1024 * 1024          # per peer: a longer queue does not wait for the turn's end
    outbox_bytes: int = FRAME_BYTES_MAX     # per peer: queued, or not taken by the network
    outbox_messages: int = 4_096            # per peer
    peers: int = 4_096                      # accepted by one listener
    restart_pause_ns: Nanos = 100 * MILLISECOND    # before the next session, after one shorter than 1 s
    stall_ns: Nanos = OUTBOX_STALL_NS       # per accepted peer that is connected and takes nothing

    def __post_init__(self) -> None:
        assert self.frame_bytes > HEADER_BYTES + _ARRAY_BYTES_MAX
        assert self.outbox_bytes >= self.frame_bytes, "the largest message must fit into an empty outbox"
        assert self.outbox_messages >= 1
        assert self.peers >= 1

    @property
    def message_bytes(self) -> int:
        """Of the largest message that fits into a frame."""
        return self.frame_bytes - HEADER_BYTES - _ARRAY_BYTES_MAX


@dataclass(slots=True)
class EndpointCounters:
    """What one endpoint has seen. Only grows."""

    frames_in: int = 0
    frames_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    sessions: int = 0        # opened, on either side
    garbage: int = 0         # connections that did not speak ZeroMQ, or not as a dialler does
    malformed: int = 0       # frames without our header, or with one that makes no sense
    oversized: int = 0
    too_deep: int = 0
    undecodable: int = 0     # not msgpack, or nothing that this peer may say
    duplicates: int = 0
    replays: int = 0         # hellos of a session that is or was here
    gaps: int = 0
    stalled: int = 0         # accepted peers that were connected and took nothing for too long
    gone: int = 0            # accepted peers whose connection was found to be lost
    unknown: int = 0         # frames of a session that is not here
    refused: int = 0         # frames and hellos of peers that the owner does not want
    resets_in: int = 0
    resets_out: int = 0
    send_down: int = 0       # messages for a peer whose link is down
    send_full: int = 0       # messages beyond the limits of an outbox
    send_too_big: int = 0
    retries: int = 0         # rounds in which frames were offered again


Messages = list[Any]


class Core:
    """The shared middle of one endpoint."""

    __slots__ = (
        "_retry",
        "blocked",
        "clock",
        "counters",
        "encode",
        "identity",
        "limits",
        "peer_log",
        "ports",
        "turn",
    )

    def __init__(self, ports: Ports, identity: bytes, limits: EndpointLimits, turn: Turn) -> None:
        self.ports = ports
        self.clock = ports.clock
        self.identity = identity
        self.limits = limits
        self.turn = turn
        self.peer_log = PeerLog(ports.log, ports.clock)
        self.counters = EndpointCounters()
        self.encode = msgspec.msgpack.Encoder().encode
        self.blocked: dict[Peer, Nanos] = {}   # with frames that the network does not take; when it took one last
        self._retry: Cancel | None = None

    def open_header(self, data: bytes, sender: str, known: bool) -> tuple[int, int, int] | None:
        """(flags, session, seq) of a frame, or None if it was dropped. `known`: the sender said a good hello, or we
        dialled it.
        """
        counters = self.counters
        counters.frames_in += 1
        counters.bytes_in += len(data)
        if len(data) > self.limits.frame_bytes:
            counters.oversized += 1
            limit = self.limits.frame_bytes
            self.peer_log.event("frame_oversized", sender, known=known, bytes=len(data), bytes_max=limit)
            return None
        if len(data) >= HEADER_BYTES:
            magic, version, flags, session, seq = HEADER.unpack_from(data)
            if magic == MAGIC and version == FRAME_VERSION:
                return flags, session, seq
        self.drop_malformed(sender, known)
        return None

    def open_body(self, data: bytes, decoder: Decoder[Any], sender: str, known: bool) -> Messages | None:
        """The messages of a frame, or None if it was dropped."""
        shape = check_shape(data)
        if shape is Shape.TOO_DEEP:
            self.counters.too_deep += 1
            self.peer_log.event("frame_too_deep", sender, known=known, bytes=len(data))
            return None
        why = ""
        if shape is Shape.GOOD:
            try:
                messages: Messages = decoder.decode(memoryview(data)[HEADER_BYTES:])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                why = str(error)
            else:
                self.counters.messages_in += len(messages)
                return messages
        self.counters.undecodable += 1
        why = why or shape.name.lower()
        self.peer_log.event("frame_undecodable", sender, known=known, bytes=len(data), why=why)
        return None

    def drop_malformed(self, sender: str, known: bool) -> None:
        """This frame is not one of ours."""
        self.counters.malformed += 1
        self.peer_log.event("frame_malformed", sender, known=known)

    def block(self, peer: "Peer", *, moved: bool) -> None:
        """The network does not take the next frame of this peer (`moved`: but took others just now): it is offered
        again in a while.
        """
        now = self.clock.now()
        if moved or peer not in self.blocked:
            self.blocked[peer] = now
        if self._retry is None:
            self._retry = self.clock.call_at(now + OUTBOX_RETRY_NS, self._offer_again)

    def close(self) -> None:
        """Nothing is offered again, and nothing is left unsaid."""
        self.peer_log.flush()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _offer_again(self) -> None:
        self._retry = None
        self.counters.retries += 1
        now = self.clock.now()
        for peer in tuple(self.blocked):
            sent = peer.offer()    # blocks again if it must
            if sent is Sent.TAKEN:
                continue
            patience = self.limits.stall_ns if sent is Sent.FULL else OUTBOX_GONE_NS
            if now - self.blocked[peer] > patience:
                peer.let_go(sent)


def assert_list(decoder: Decoder[Any]) -> None:
    """A frame holds a list, so the decoder for its body must be of `list[...]`."""
    assert get_origin(decoder.type) is list, f"the decoder must be of list[...], not of {decoder.type}"
