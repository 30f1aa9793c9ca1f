"""ZMTP 3.1, the wire protocol of ZeroMQ (rfc.zeromq.org/spec/37), as far as a ROUTER and a DEALER need it.

A connection begins with a greeting of 64 bytes and a READY command from either side, without security (mechanism NULL).
Then there are frames: a byte of flags, a length of one or eight bytes, a body. A message is one frame or more; all but
the last say so. PING and PONG are commands. What else an open connection commands is not for us, and is passed over.
"""

import struct

from actors.transport.frame import FRAME_BYTES_MAX

GREETING_BYTES = 64
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"        # libzmq writes a length into the middle, for peers of earlier versions
MAJOR_AT = len(SIGNATURE)
MAJOR = 3
MECHANISM = b"NULL".ljust(20, b"\0")
GREETING = SIGNATURE + bytes((MAJOR, 1)) + MECHANISM + bytes(32)
MECHANISM_AT = MAJOR_AT + 2

MORE, LONG, COMMAND = 1, 2, 4
KNOWN_FLAGS = MORE | LONG | COMMAND
SHORT_MAX = 255
CONTEXT_BYTES_MAX = 16          # of a PING: what its PONG has to repeat

_LENGTH = struct.Struct("!Q")
_VALUE = struct.Struct("!I")
_READY = b"\x05READY"
_PING = b"\x04PING"
_PONG = b"\x04PONG"
_TTL_BYTES = 2
_NOTHING: list[tuple[int, bytes]] = []

Frame = tuple[int, bytes]       # flags, body


class NotZmtp(Exception):
    """The other side does not keep to the protocol."""


def header(size: int, flags: int = 0) -> bytes:
    """What comes before a body of this size."""
    if size <= SHORT_MAX:
        return bytes((flags, size))
    return bytes((flags | LONG,)) + _LENGTH.pack(size)


def command(body: bytes) -> bytes:
    """A whole frame."""
    return header(len(body), COMMAND) + body


def check_greeting(greeting: bytes) -> None:
    """Of as many bytes as there are yet, up to GREETING_BYTES. Raises NotZmtp."""
    if greeting[:1] != SIGNATURE[:1] or (len(greeting) >= MAJOR_AT and greeting[MAJOR_AT - 1] != SIGNATURE[-1]):
        raise NotZmtp("it does not begin as ZMTP does")
    if len(greeting) > MAJOR_AT and greeting[MAJOR_AT] < MAJOR:
        raise NotZmtp(f"it speaks version {greeting[MAJOR_AT]}")
    mechanism = greeting[MECHANISM_AT : MECHANISM_AT + len(MECHANISM)]
    if len(mechanism) == len(MECHANISM) and mechanism != MECHANISM:
        raise NotZmtp("it wants to authenticate")


def ready(kind: bytes, identity: bytes) -> bytes:
    """The command that ends a handshake."""
    body = _READY
    for name, value in ((b"Socket-Type", kind), (b"Identity", identity)):
        body += bytes((len(name),)) + name + _VALUE.pack(len(value)) + value
    return command(body)


def parse_ready(body: bytes) -> dict[bytes, bytes]:
    """The properties in a READY, by their names in lower case. Raises NotZmtp."""
    if not body.startswith(_READY):
        raise NotZmtp("its handshake is not READY")
    found: dict[bytes, bytes] = {}
    at = len(_READY)
    while at < len(body):
        name_end = at + 1 + body[at]
        start = name_end + _VALUE.size
        if start > len(body):
            raise NotZmtp("READY is cut off")
        end = start + _VALUE.unpack_from(body, name_end)[0]
        if end > len(body):
            raise NotZmtp("READY is cut off")
        found[body[at + 1 : name_end].lower()] = body[start:end]
        at = end
    return found


def pong_for(body: bytes) -> bytes | None:
    """The answer to a command, if it asks for one."""
    if not body.startswith(_PING) or len(body) > len(_PING) + _TTL_BYTES + CONTEXT_BYTES_MAX:
        return None
    return command(_PONG + body[len(_PING) + _TTL_BYTES :])


PING = command(_PING + bytes(_TTL_BYTES))


class Inbox:
    """What came over one connection behind its greeting: bytes in, frames out.

    `broken` says what is wrong with it, once something is: then nothing comes behind the frames before.
    """

    __slots__ = ("_have", "_need", "_parts", "broken")

    def __init__(self) -> None:
        self.broken = ""
        self._parts: list[bytes] = []       # the beginning of a frame
        self._have = 0
        self._need = 0                      # to go on

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that are whole now."""
        if self.broken:
            return _NOTHING
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return _NOTHING
            data = b"".join(self._parts)
            self._parts.clear()
        found: list[Frame] = []
        at, size = 0, len(data)
        while True:
            left = size - at
            if left < 2:
                need = 2
                break
            flags = data[at]
            if flags & LONG:
                if left < 9:
                    need = 9
                    break
                body, length = at + 9, _LENGTH.unpack_from(data, at + 1)[0]
                if length > FRAME_BYTES_MAX:
                    self.broken = f"a frame has {length} bytes"
                    return found
            else:
                body, length = at + 2, data[at + 1]
            if flags & ~KNOWN_FLAGS:
                self.broken = f"a frame has the flags {flags}"
                return found
            end = body + length
            if end > size:
                need = end - at
                break
            found.append((flags, data[body:end]))
            at = end
        if at < size:
            self._parts.append(data[at:])
            self._have, self._need = size - at, need
        return found
