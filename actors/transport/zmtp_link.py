"""The network port over TCP, in the words of ZeroMQ (`zmtp`): a ROUTER for each listener, a DEALER for each dialler.

Whatever speaks ZeroMQ can be at the other end. But what goes over the wire is written and read here, on the loop, and
not by a thread of libzmq. A message that is handed to such a thread wakes it, and it wakes the thread at the other end,
which wakes the loop there: three switches instead of one, on each of the ten ways that a single task goes. With more
processes than cores these were a large part of what a small message costs.

Rules, each paid for by someone: (1) a send is tried at once; what the kernel does not take waits here, in order, up to
BUFFER_BYTES_MAX; above that it is `FULL`, and never a wait; (2) reads are bounded, then others have their turn; (3) a
dialler that comes back under its identity takes over, a half-open old connection cannot lock it out; (4) who says
nothing in a handshake, or nothing at all for some looks in a row, is left: a machine that died has not ended its
connections; (5) what breaks the protocol costs its connection, and is garbage if it never kept to it; (6) who closes
waits for what was handed over before, but not for long.

Liveness. Now and then each side looks at its connections. One that was silent since the last look is sent a PING, which
it answers. One that was silent for SILENT_LOOKS_MAX looks is left. Since looks are counted and not time, a process that
was stopped itself takes nobody's silence for it. PONG comes from the loop of the other side: a loop that hangs for as
long as LOOK_S * SILENT_LOOKS_MAX loses its connections, as a machine would that is gone.
"""

import asyncio
import contextlib
import errno
import select
import socket as sockets
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from actors.errors import AddressInUse, BadAddress
from actors.runtime.ports import Dialer, Listener, Log, Sent
from actors.transport import zmtp
from actors.transport.zmtp import COMMAND, GREETING, GREETING_BYTES, MORE, PING, Inbox, NotZmtp

READ_BYTES = 256 * 1024        # of one connection in a turn
BUFFER_BYTES_MAX = 16 * 1024 * 1024     # of one connection; a first message is taken whatever its size
JOIN_BYTES_MAX = 64 * 1024     # up to here a copy costs less than a second piece
BACKLOG = 1_024
ACCEPTS_MAX = 64               # in a turn
ACCEPT_AGAIN_S = 0.1           # when there are no descriptors left
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0          # a broker that comes back is reached within a second
CONNECT_TIMEOUT_S = 2.0
HANDSHAKE_TIMEOUT_S = 5.0      # a connection that says nothing holds a descriptor for so long
LOOK_S = 2.0
SILENT_LOOKS_MAX = 4
DRAIN_ON_CLOSE_MS = 100        # what was handed over before `close` may still leave
IDENTITY_BYTES_MAX = 255
UNKNOWN_REMOTE = "unknown"
UNNAMED = b"\0"                # begins the identities of those that have none, which theirs must not

_TAKEN, _FULL, _GONE = Sent.TAKEN, Sent.FULL, Sent.GONE
_DEALER, _ROUTER = b"DEALER", b"ROUTER"


class Stage(Enum):
    GREETING = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    LEAVING = auto()        # closed on this side; the rest still leaves
    CLOSED = auto()


class ZmtpNetwork:
    """The Network port of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self.loop = loop
        self.log = log
        self._closed = False
        self._links: dict[_Link, None] = {}
        self._connections: dict[Connection, None] = {}
        self._look: asyncio.TimerHandle | None = None

    def listen(
        self,
        address: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_garbage: Callable[[str], None],
    ) -> Listener:
        assert not self._closed, "the network of this process was closed"
        return ZmtpListener(self, address, on_message, on_garbage)

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
        return ZmtpDialer(self, address, identity, on_message, on_up, on_down)

    def close(self) -> None:
        """Closes what is still open; waits until it has left, `DRAIN_ON_CLOSE_MS` at most."""
        self._closed = True
        for link in tuple(self._links):
            link.close()
        limit = time.monotonic() + DRAIN_ON_CLOSE_MS / 1_000
        while leaving := {connection.fileno: connection for connection in self._connections}:
            left = limit - time.monotonic()
            if left <= 0:
                break
            _, writable, _ = select.select([], leaving, [], left)
            for descriptor in writable:
                leaving[descriptor].flush()
        for connection in tuple(self._connections):
            connection.close()

    # -- for links ----------------------------------------------------------------------------------------------------

    def add(self, link: "_Link") -> None:
        self._links[link] = None

    def remove(self, link: "_Link") -> None:
        self._links.pop(link, None)

    def opened(self, connection: "Connection") -> None:
        self._connections[connection] = None
        if self._look is None:
            self._look = self.loop.call_later(LOOK_S, self._look_at_all)

    def closed(self, connection: "Connection") -> None:
        self._connections.pop(connection, None)
        if not self._connections and self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_at_all(self) -> None:
        self._look = self.loop.call_later(LOOK_S, self._look_at_all)
        for connection in tuple(self._connections):
            connection.look()


class _Link:
    """What a listener and a dialler have in common: connections tell them what happens to them."""

    def opened(self, connection: "Connection", identity: bytes) -> None:
        """Its handshake has succeeded."""
        raise NotImplementedError

    def received(self, connection: "Connection", data: bytes) -> None:
        raise NotImplementedError

    def received_parts(self, connection: "Connection") -> None:
        """A message of several parts, which none of ours sends."""
        raise NotImplementedError

    def lost(self, connection: "Connection", stage: Stage) -> None:
        """It has ended, not by this side's `close`, in this stage."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Connection:
    """One TCP connection that stands, with its handshake before it and its end behind it."""

    def __init__(
        self, network: ZmtpNetwork, link: _Link, socket: sockets.socket, kind: bytes, identity: bytes, remote: str
    ) -> None:
        self.fileno = socket.fileno()
        self.stage = Stage.GREETING
        self.remote = remote
        self.identity = b""             # of the other side
        self._network = network
        self._loop = loop = network.loop
        self._link = link
        self._socket = socket
        self._kind = kind
        self._own_identity = identity
        self._greeting = b""
        self._inbox = Inbox()
        self._frames: deque[zmtp.Frame] = deque()       # that were received, while they are handed on
        self._in_parts = False          # of the message that is being received
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0
        self._heard = True              # since the last look
        self._silent_looks = 0
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self._timer = loop.call_later(HANDSHAKE_TIMEOUT_S, self._lose)
        loop.add_reader(self.fileno, self._read)
        network.opened(self)
        self._write(GREETING)

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> Sent:
        if self.stage is not Stage.OPEN:
            return _GONE
        size = len(data)
        if self._out_bytes and self._out_bytes + size > BUFFER_BYTES_MAX:
            return _FULL
        head = zmtp.header(size)
        if size <= JOIN_BYTES_MAX:
            self._write(head + data)
        else:
            self._write(head)
            self._write(data)
        return _TAKEN

    def _write(self, data: bytes) -> None:
        """What the kernel does not take, waits. An error is found by who reads."""
        sent = 0
        if not self._out:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._loop.call_soon(self._read)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self.fileno, self.flush)
        self._out.append(memoryview(data)[sent:])
        self._out_bytes += len(data) - sent

    def flush(self) -> None:
        """Writes what waits, as far as the kernel takes it."""
        out = self._out
        try:
            while out:
                sent = self._socket.send(out[0])
                self._out_bytes -= sent
                if sent < len(out[0]):
                    out[0] = out[0][sent:]
                    return
                out.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            out.clear()
            self._out_bytes = 0
            self._loop.call_soon(self._read)
        if self.stage is Stage.LEAVING:
            self.close()
        else:
            self._loop.remove_writer(self.fileno)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self.stage is Stage.CLOSED:
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        self._heard = True
        if self.stage is Stage.LEAVING:
            return
        try:
            if self.stage is Stage.GREETING:
                data = self._greet(data)
            if data:
                self._frames += self._inbox.feed(data)
        except NotZmtp:
            self._lose()
            return
        self._deliver()
        if self._inbox.broken:
            self._lose()

    def _greet(self, data: bytes) -> bytes:
        """What is left of `data` behind the greeting."""
        greeting = self._greeting + data
        zmtp.check_greeting(greeting[:GREETING_BYTES])
        if len(greeting) < GREETING_BYTES:
            self._greeting = greeting
            return b""
        self.stage = Stage.HANDSHAKE
        self._write(zmtp.ready(self._kind, self._own_identity))
        return greeting[GREETING_BYTES:]

    def _deliver(self) -> None:
        """Hands on what was received. If whoever gets it raises, the rest follows in the next turn."""
        frames = self._frames
        try:
            while frames and self.stage is not Stage.CLOSED and self.stage is not Stage.LEAVING:
                flags, body = frames.popleft()
                if self.stage is Stage.OPEN and not flags & COMMAND and not flags & MORE and not self._in_parts:
                    self._link.received(self, body)
                else:
                    self._on_other(flags, body)
        except NotZmtp:
            self._lose()
        finally:
            if frames:
                self._loop.call_soon(self._deliver)

    def _on_other(self, flags: int, body: bytes) -> None:
        if self.stage is Stage.HANDSHAKE:
            self._on_handshake(flags, body)
        elif flags & COMMAND:
            pong = zmtp.pong_for(body)
            if pong is not None and self._out_bytes < BUFFER_BYTES_MAX:
                self._write(pong)
        else:
            self._in_parts = bool(flags & MORE)
            if not self._in_parts:
                self._link.received_parts(self)

    def _on_handshake(self, flags: int, body: bytes) -> None:
        if not flags & COMMAND:
            raise NotZmtp("a message before READY")
        properties = zmtp.parse_ready(body)
        wanted = _DEALER if self._kind == _ROUTER else _ROUTER
        self.identity = properties.get(b"identity", b"")
        if properties.get(b"socket-type") != wanted or len(self.identity) > IDENTITY_BYTES_MAX:
            raise NotZmtp("it is a socket of another kind")
        self._timer.cancel()
        self.stage = Stage.OPEN
        self._link.opened(self, self.identity)

    # -- silence and the end ------------------------------------------------------------------------------------------

    def look(self) -> None:
        if self._heard:
            self._heard = False
            self._silent_looks = 0
            return
        self._silent_looks += 1
        if self._silent_looks >= SILENT_LOOKS_MAX:
            self._lose()
        elif self.stage is Stage.OPEN and not self._out:
            self._write(PING)

    def leave(self) -> None:
        """Closes it, once what waits has left, or it was given some time for that."""
        if self.stage is Stage.CLOSED:
            return
        self._timer.cancel()
        if not self._out:
            self.close()
        elif self.stage is not Stage.LEAVING:
            self.stage = Stage.LEAVING
            self._timer = self._loop.call_later(DRAIN_ON_CLOSE_MS / 1_000, self.close)

    def close(self) -> None:
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        self._timer.cancel()
        self._loop.remove_reader(self.fileno)
        self._loop.remove_writer(self.fileno)
        self._out.clear()
        with contextlib.suppress(OSError):
            self._socket.shutdown(sockets.SHUT_WR)
        with contextlib.suppress(OSError):
            self._socket.recv(READ_BYTES)       # closed with something unread, it would take back what was sent last
        self._socket.close()
        self._network.closed(self)

    def _lose(self) -> None:
        """It has ended, and not because this side wanted that."""
        stage = self.stage
        if stage is not Stage.CLOSED:
            self.close()
            if stage is not Stage.LEAVING:
                self._link.lost(self, stage)


class ZmtpListener(_Link):
    """A ROUTER that is bound."""

    def __init__(
        self,
        network: ZmtpNetwork,
        address: str,
        on_message: Callable[[bytes, bytes], None],
        on_garbage: Callable[[str], None],
    ) -> None:
        self._network = network
        self._loop = network.loop
        self._on_message = on_message
        self._on_garbage = on_garbage
        self._unnamed = 0
        self._early: dict[Connection, None] = {}            # without a handshake
        self._peers: dict[bytes, Connection] = {}
        self._socket: sockets.socket | None = _bound(address)
        host, port = self._socket.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._loop.add_reader(self._socket.fileno(), self._accept)
        network.add(self)

    def send(self, peer: bytes, data: bytes) -> Sent:
        assert isinstance(data, bytes)
        connection = self._peers.get(peer)
        return _GONE if connection is None else connection.send(data)

    def close(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._network.remove(self)
        for connection in (*self._early, *self._peers.values()):
            connection.leave()
        self._early.clear()
        self._peers.clear()

    def opened(self, connection: Connection, identity: bytes) -> None:
        self._early.pop(connection, None)
        if not identity or identity.startswith(UNNAMED):
            self._unnamed += 1
            connection.identity = identity = UNNAMED + self._unnamed.to_bytes(4)
        before = self._peers.get(identity)
        if before is not None:
            before.close()
        self._peers[identity] = connection

    def received(self, connection: Connection, data: bytes) -> None:
        self._on_message(connection.identity, data)

    def received_parts(self, connection: Connection) -> None:
        self._on_garbage(connection.identity.hex())    # ZeroMQ, but no dialler of ours sends this

    def lost(self, connection: Connection, stage: Stage) -> None:
        self._early.pop(connection, None)
        if stage is not Stage.OPEN:
            self._on_garbage(connection.remote)
        elif self._peers.get(connection.identity) is connection:
            del self._peers[connection.identity]

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            if self._socket is None:
                return
            try:
                socket, remote = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors, or no memory: it would be found readable again and again.
                self._network.log.event("accept_failed", address=self.address, error=error.strerror)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again)
                return
            socket.setblocking(False)
            host = str(remote[0]) if remote else UNKNOWN_REMOTE
            try:
                self._early[Connection(self._network, self, socket, _ROUTER, b"", host)] = None
            except OSError:
                socket.close()      # it is gone already

    def _accept_again(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)
            self._accept()


class ZmtpDialer(_Link):
    """A DEALER that is connected, redialling until it is closed."""

    def __init__(
        self,
        network: ZmtpNetwork,
        address: str,
        identity: bytes,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self.address = address
        self._host, self._port = _parsed(address)
        self._network = network
        self._loop = network.loop
        self._identity = identity
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._pause_s = RECONNECT_MIN_S
        self._closed = False
        self._resolving: asyncio.Future[object] | None = None
        self._socket: sockets.socket | None = None      # while it connects
        self._connection: Connection | None = None      # from when it stands
        self._timer: asyncio.TimerHandle | None = None
        self._soon = self._loop.call_soon(self._dial)
        network.add(self)

    def send(self, data: bytes) -> Sent:
        connection = self._connection
        return _GONE if connection is None else connection.send(data)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._network.remove(self)
        self._soon.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._resolving is not None:
            self._resolving.cancel()
        self._give_up_socket()
        if self._connection is not None:
            self._connection.leave()
            self._connection = None

    def opened(self, connection: Connection, identity: bytes) -> None:
        self._pause_s = RECONNECT_MIN_S
        self._on_up()

    def received(self, connection: Connection, data: bytes) -> None:
        self._on_message(data)

    def received_parts(self, connection: Connection) -> None:
        pass        # no listener of ours sends this

    def lost(self, connection: Connection, stage: Stage) -> None:
        self._connection = None
        self._later()
        if stage is Stage.OPEN:
            self._on_down()

    def _dial(self) -> None:
        try:
            found = sockets.getaddrinfo(
                self._host, self._port, type=sockets.SOCK_STREAM, flags=sockets.AI_NUMERICHOST
            )
        except OSError:
            self._resolving = asyncio.ensure_future(
                self._loop.getaddrinfo(self._host, self._port, type=sockets.SOCK_STREAM)
            )
            self._resolving.add_done_callback(self._resolved)
        else:
            self._connect(found[0])

    def _resolved(self, future: "asyncio.Future[object]") -> None:
        self._resolving = None
        if future.cancelled() or self._closed:
            return
        if future.exception() is not None:
            self._later()
        else:
            self._connect(future.result()[0])  # type: ignore[index]

    def _connect(self, found: tuple[object, ...]) -> None:
        family, kind, protocol, _, where = found
        socket = sockets.socket(family, kind, protocol)  # type: ignore[arg-type]
        socket.setblocking(False)
        code = socket.connect_ex(where)  # type: ignore[arg-type]
        if code not in (0, errno.EINPROGRESS):
            socket.close()
            self._later()
            return
        self._socket = socket
        self._timer = self._loop.call_later(CONNECT_TIMEOUT_S, self._failed)
        self._loop.add_writer(socket.fileno(), self._connected)

    def _connected(self) -> None:
        socket = self._socket
        assert socket is not None and self._timer is not None
        self._timer.cancel()
        if socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR):
            self._failed()
            return
        self._loop.remove_writer(socket.fileno())
        self._socket = None
        try:
            self._connection = Connection(self._network, self, socket, _DEALER, self._identity, self._host)
        except OSError:
            socket.close()
            self._later()

    def _failed(self) -> None:
        self._give_up_socket()
        self._later()

    def _give_up_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _later(self) -> None:
        if not self._closed:
            self._timer = self._loop.call_later(self._pause_s, self._dial)
            self._pause_s = min(RECONNECT_MAX_S, self._pause_s * 2)


def _parsed(address: str) -> tuple[str, int]:
    """Host and port. Raises BadAddress."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise BadAddress(address, "expected host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _bound(address: str) -> sockets.socket:
    """A socket that listens there. Raises AddressInUse and BadAddress."""
    host, port = _parsed(address)
    try:
        ((family, kind, protocol, _, where), *_) = sockets.getaddrinfo(
            None if host == "*" else host, port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
        )
        socket = sockets.socket(family, kind, protocol)
    except OSError as error:
        raise BadAddress(address, str(error)) from error
    try:
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        socket.setblocking(False)
        socket.bind(where)
        socket.listen(BACKLOG)
    except OSError as error:
        socket.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(address) from error
        raise BadAddress(address, str(error)) from error
    return socket
