"""The network port over ZeroMQ: a ROUTER for each listener, a DEALER for each dialler.

Rules that this file keeps, each paid for by someone: (1) never `zmq.asyncio`, a Future per message costs more
than the message; (2) the descriptor is edge-triggered and any receive, send or look at EVENTS may eat the
edge: drain until there is no more, look again after sends, once a turn; a slow tick looks as well and counts
what it finds, which is a bug; (3) a drain is capped, then the loop gets its turn; (4) ROUTER drops silently
what it cannot route unless MANDATORY says otherwise, and a blocking send to a full peer may hang for ever:
always DONTWAIT; (5) a dialler that comes back under its identity takes over (HANDOVER), a half-open old
connection cannot lock it out; (6) IMMEDIATE: nothing queues up for a connection that is not there; (7)
high-water marks are finite, they are only the fuse behind the outboxes of the endpoints; (8) what happens to
connections is known from monitor sockets only; (9) who ends a context closes each of its sockets first, with
a bounded linger, monitors too: one that was forgotten lets `term` wait for ever.

Parts: libzmq takes a message out of a pipe and puts one into it whole or not at all, and says "readable" only
when the first part of the data is there. So after a look that says yes, a ROUTER's identity and its data are
both there, whatever becomes of the peer; a peer that disappears between the two parts of a send costs that
message, silently, and the next send begins a new one. What has more parts than ours is dropped part by part,
each counting as a message of the drain.

A connection that breaks off before its handshake, or speaks something else, is garbage. The monitor of a
listener says which descriptor was accepted and which was closed, but of a handshake only that one succeeded,
or that one failed (and then the next closed descriptor is its). Old versions of the protocol have no
handshake at all, and random bytes may pass for one. So a success is put down to the connection that has
waited longest, and one that is closed without is garbage: with strangers and diallers at the same time it may
be blamed on the wrong remote, but the count is right.
"""

import asyncio
import contextlib
import socket as sockets
import struct
from collections.abc import Callable
from typing import Any

import zmq

from actors.errors import AddressInUse, BadAddress
from actors.runtime.ports import Dialer, Listener, Log, Sent
from actors.transport.frame import FRAME_BYTES_MAX

DRAIN_MESSAGES_MAX = 256       # one drain; more would starve the other sockets
PIPE_MESSAGES_MAX = 256        # the high-water mark, in frames, of each direction of each connection
SAFETY_TICK_SECONDS = 0.25
RECONNECT_MIN_MS = 50
RECONNECT_MAX_MS = 1_000       # a broker that comes back is reached within a second
CONNECT_TIMEOUT_MS = 2_000
HANDSHAKE_TIMEOUT_MS = 5_000   # a connection that says nothing holds a descriptor for so long
HEARTBEAT_INTERVAL_MS = 2_000  # of the io thread: finds dead machines, not hung loops
HEARTBEAT_TIMEOUT_MS = 6_000
DRAIN_ON_CLOSE_MS = 100        # what was handed over before `close` may still leave
REMOTES_MAX = 4_096            # accepted descriptors whose remote address is remembered
UNKNOWN_REMOTE = "unknown"

# Plain integers: an enum costs more than the call that it is an argument of.
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_RCVMORE = int(zmq.RCVMORE)
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_SNDMORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_TAKEN, _FULL, _GONE = Sent.TAKEN, Sent.FULL, Sent.GONE

_MONITOR_EVENT = struct.Struct("=HI")
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ZmqNetwork:
    """The Network port of one process. `missed_edges` above 0 is a bug of this file."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self.loop = loop
        self.log = log
        self.context = zmq.Context(io_threads=1)
        self.missed_edges = 0
        self._closed = False
        self._links: list[_Link] = []
        self._tick: asyncio.TimerHandle | None = None

    def listen(
        self,
        address: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_garbage: Callable[[str], None],
    ) -> Listener:
        assert not self._closed, "the network of this process was closed"
        return ZmqListener(self, address, on_message, on_garbage)

    def dial(
        self,
        address: str,
        identity: bytes,
        *,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> Dialer:
        assert not self._closed, "the network of this process was closed"
        return ZmqDialer(self, address, identity, on_message, on_up, on_down)

    def close(self) -> None:
        """Closes what is still open; waits for the io thread, `DRAIN_ON_CLOSE_MS` at most."""
        self._closed = True
        for link in tuple(self._links):
            link.close()
        # Not `term`: should a socket ever have escaped us, it is closed here and nobody waits for it for ever.
        self.context.destroy(linger=DRAIN_ON_CLOSE_MS)

    def add(self, link: "_Link") -> None:
        """For links: the safety tick looks after this one."""
        self._links.append(link)
        if self._tick is None:
            self._tick = self.loop.call_later(SAFETY_TICK_SECONDS, self._look_at_all)

    def remove(self, link: "_Link") -> None:
        """For links: this one is closed."""
        self._links.remove(link)
        if not self._links and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _look_at_all(self) -> None:
        self._tick = self.loop.call_later(SAFETY_TICK_SECONDS, self._look_at_all)
        for link in tuple(self._links):
            # One that was drained since the last tick is alive, and what it finds now has just come.
            idle, link.drained = not link.drained, False
            if idle and not link.drain_asked and link.readable():
                self.missed_edges += 1
                self.log.event("zmq_edge_missed", address=link.address)
                link.drain()


class _Link:
    """One socket and its monitor in the loop: drains the one, follows the other."""

    def __init__(self, network: ZmqNetwork, kind: int, address: str) -> None:
        self.address = address
        self.drain_asked = False
        self.drained = False    # since the last safety tick
        self._network = network
        self._loop = network.loop
        self._closed = False
        self._more = False      # the message that is being received has parts that are to be dropped
        self._socket: zmq.Socket[bytes] = network.context.socket(kind)
        options = (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
            (zmq.SNDHWM, PIPE_MESSAGES_MAX),
            (zmq.RCVHWM, PIPE_MESSAGES_MAX),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
            (zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS),
            (zmq.IPV6, int("[" in address)),
        )
        for option, value in options:
            self._socket.setsockopt(option, value)
        self._monitor: zmq.Socket[bytes] | None = None

    def start(self, events: int) -> None:
        """Before the socket is bound or connected: nothing that happens to it is missed."""
        self._monitor = self._socket.get_monitor_socket(events)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._loop.add_reader(self._monitor.FD, self._drain_monitor)
        self._loop.add_reader(self._socket.FD, self.drain)
        self._network.add(self)
        self._ask_for_drain()    # what came before the reader was there has no edge
        self._loop.call_soon(self._drain_monitor)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._monitor is not None:
            self._network.remove(self)
            self._loop.remove_reader(self._socket.FD)
            self._loop.remove_reader(self._monitor.FD)
            self._socket.disable_monitor()
            self._monitor.close()    # it may be in use further up the stack, so it does not end by itself
            self._monitor = None
        self._socket.close(linger=DRAIN_ON_CLOSE_MS)

    def readable(self) -> bool:
        """Whether something waits in the socket. Looking also carries out what the io thread asked for."""
        events: int = self._socket.get(_EVENTS)  # type: ignore[assignment]
        return bool(events & _POLLIN)

    def drain(self) -> None:
        """Takes messages until there are no more, or it is somebody else's turn."""
        self.drain_asked = False
        self.drained = True
        again = True    # also when a callback raises: the edge was eaten, the rest must not wait for another
        try:
            for _ in range(DRAIN_MESSAGES_MAX):
                # To look before each costs less than the exception that would end the last look.
                if self._closed or not self.readable():
                    again = False
                    return
                if self._more:
                    self._drop_part()
                else:
                    self._receive()
        finally:
            if again:
                self._ask_for_drain()

    def _receive(self) -> None:
        """Takes one message, which is there, and hands it on."""
        raise NotImplementedError

    def _is_whole(self) -> bool:
        """Whether that was the last part; if not, the rest is dropped before the next message is received."""
        self._more = bool(self._socket.get(_RCVMORE))
        return not self._more

    def _drop_part(self) -> None:
        self._socket.recv(_DONTWAIT)
        self._is_whole()

    def _on_event(self, event: int, value: int) -> None:
        """One event of the monitor."""
        raise NotImplementedError

    def _ask_for_drain(self) -> None:
        """Looks at the socket soon, once a turn: after a send that may have eaten the edge, too."""
        if not self.drain_asked and not self._closed:
            self.drain_asked = True
            self._loop.call_soon(self.drain)

    def _drain_monitor(self) -> None:
        for _ in range(DRAIN_MESSAGES_MAX):
            monitor = self._monitor
            if monitor is None:
                return
            try:
                head, _endpoint = monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._on_event(*_MONITOR_EVENT.unpack(head))
        self._loop.call_soon(self._drain_monitor)


class ZmqListener(_Link):
    """A bound ROUTER."""

    def __init__(
        self,
        network: ZmqNetwork,
        address: str,
        on_message: Callable[[bytes, bytes], None],
        on_garbage: Callable[[str], None],
    ) -> None:
        super().__init__(network, zmq.ROUTER, address)
        self._on_message = on_message
        self._on_garbage = on_garbage
        self._waiting: dict[int, str] = {}     # remote hosts of accepted descriptors without a handshake
        self._greeted: dict[int, str] = {}     # those with one
        self._handshake_failed = False
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _HANDSHAKE_FAILED
        self.start(events | zmq.EVENT_DISCONNECTED)    # before the first connection can be accepted
        try:
            self._socket.bind(f"tcp://{address}")
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                raise AddressInUse(address) from error
            raise BadAddress(address, str(error)) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")

    def send(self, peer: bytes, data: bytes) -> Sent:
        assert isinstance(data, bytes)    # if this part failed after the other, the next message would be its body
        if self._closed:
            return _GONE
        try:
            self._socket.send(peer, _DONTWAIT_SNDMORE)
            self._socket.send(data, _DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return _GONE
            if error.errno == zmq.EAGAIN:
                return _FULL
            raise
        finally:
            self._ask_for_drain()
        return _TAKEN

    def _receive(self) -> None:
        receive = self._socket.recv
        identity = receive(_DONTWAIT)    # a ROUTER puts it in front: there is more
        data = receive(_DONTWAIT)
        if self._is_whole():
            self._on_message(identity, data)
        else:
            self._on_garbage(identity.hex())    # ZeroMQ, but no dialler of ours sends this

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._greeted.pop(value, None)
            self._waiting[value] = _remote_host(value)
            if len(self._waiting) > REMOTES_MAX:
                del self._waiting[next(iter(self._waiting))]
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._greet_oldest()
        elif event == zmq.EVENT_DISCONNECTED:
            self._on_disconnected(value)
        else:
            self._handshake_failed = True    # of the descriptor in the next DISCONNECTED

    def _on_disconnected(self, descriptor: int) -> None:
        greeted = self._greeted.pop(descriptor, None)
        remote = self._waiting.pop(descriptor, greeted or UNKNOWN_REMOTE)
        failed, self._handshake_failed = self._handshake_failed, False
        if failed and greeted is not None:
            self._greet_oldest()    # the success that was put down to this one was another's
        if failed or greeted is None:
            self._on_garbage(remote)

    def _greet_oldest(self) -> None:
        for descriptor, remote in self._waiting.items():
            del self._waiting[descriptor]
            self._greeted[descriptor] = remote
            return


class ZmqDialer(_Link):
    """A connected DEALER, redialling until it is closed."""

    def __init__(
        self,
        network: ZmqNetwork,
        address: str,
        identity: bytes,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        super().__init__(network, zmq.DEALER, address)
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._up = False
        options: tuple[tuple[int, Any], ...] = (
            (zmq.IDENTITY, identity),
            (zmq.IMMEDIATE, 1),
            (zmq.RECONNECT_IVL, RECONNECT_MIN_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
            (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
        )
        for option, value in options:
            self._socket.setsockopt(option, value)
        self.start(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            self._socket.connect(f"tcp://{address}")
        except zmq.ZMQError as error:
            self.close()
            raise BadAddress(address, str(error)) from error

    def send(self, data: bytes) -> Sent:
        if not self._up or self._closed:
            return _GONE
        try:
            self._socket.send(data, _DONTWAIT)
        except zmq.Again:
            return _FULL
        finally:
            self._ask_for_drain()
        return _TAKEN

    def _receive(self) -> None:
        data = self._socket.recv(_DONTWAIT)
        if self._is_whole():    # no listener of ours sends more than one part
            self._on_message(data)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not self._up:
            self._up = True
            self.readable()    # takes over the new pipe; a send before that would find none
            self._ask_for_drain()    # and may have eaten an edge
            self._on_up()
        elif event == zmq.EVENT_DISCONNECTED and self._up:
            self.drain()       # what came before the end is not lost to the session that ends now
            if self._up and not self._closed:
                self._up = False
                self._on_down()


def _remote_host(descriptor: int) -> str:
    """The host at the other end; the connection may be gone by now, and then nobody knows."""
    with (
        contextlib.suppress(OSError),
        sockets.fromfd(descriptor, sockets.AF_INET, sockets.SOCK_STREAM) as copy,
    ):
        return str(copy.getpeername()[0])
    return UNKNOWN_REMOTE
