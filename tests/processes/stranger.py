"""Somebody on the network who speaks ZeroMQ, and even the product's frames, but means no good."""

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from actors.transport.frame import Flags, build_frame
from cluster.state.commands import ROLE_CLIENT as REGISTER_CLIENT
from cluster.state.commands import ROLE_WORKER as REGISTER_WORKER
from cluster.state.commands import Cancel, Register, WorkerSpec
from cluster.state.effects import ANSWER_GAP
from cluster.wire import ROLE_CLIENT, ROLE_WORKER, Answers, Hello, RegisterAnswer, ToClient, ToWorker

ANSWER_TIMEOUT_MS = 5_000
HEADER_BYTES = 24
SEQ_FAR_ABOVE = 1 << 40

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ToClient | ToWorker]).decode


def random_identity() -> bytes:
    return b"\x01" + os.urandom(15)


class Stranger:
    """A raw DEALER; use it as a context manager."""

    def __init__(self, address: str, identity: bytes | None = None) -> None:
        self.name = f"stranger-{os.urandom(4).hex()}"
        self.incarnation = int.from_bytes(os.urandom(7), "big")
        self.session = int.from_bytes(os.urandom(8), "big")
        self.seq = 0
        self._heard: deque[object] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity or random_identity())
        self._socket.setsockopt(zmq.LINGER, 1_000)
        self._socket.setsockopt(zmq.RCVTIMEO, ANSWER_TIMEOUT_MS)
        self._socket.setsockopt(zmq.SNDTIMEO, ANSWER_TIMEOUT_MS)
        self._socket.connect(f"tcp://{address}")

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    def raw(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def frame(self, messages: Sequence[object], flags: int = Flags.DATA) -> bytes:
        """The next frame of the session."""
        frame = build_frame(flags, self.session, self.seq, [_encode(message) for message in messages])
        self.seq += 1
        return frame

    def say(self, *messages: object) -> None:
        self.raw(self.frame(messages))

    def hello(self, cluster: str = "tests", role: int = ROLE_CLIENT, **fields: Any) -> bytes:
        """Says hello, under a new session number if there was one; returns the frame."""
        if self.seq:
            self.session += 1
            self.seq = 0
        message = Hello(cluster, self.name, self.incarnation, role, **fields)
        frame = self.frame([message], Flags.HELLO)
        self.raw(frame)
        return frame

    def hear(self, kind: type) -> Any:
        """The next message of that kind; others are skipped. zmq.Again if none comes in time."""
        while True:
            while self._heard:
                message = self._heard.popleft()
                if isinstance(message, kind):
                    return message
            frame = self._socket.recv()
            if len(frame) > HEADER_BYTES:
                self._heard.extend(_decode(frame[HEADER_BYTES:]))

    def hear_reset(self) -> None:
        while len(self._socket.recv()) > HEADER_BYTES:
            continue
        self._heard.clear()

    def register(self, worker: WorkerSpec | None = None) -> int:
        """The session of a client or worker in good order, to do mischief with."""
        if worker is None:
            self.hello()
            self.say(Register(self.name, self.incarnation, REGISTER_CLIENT))
        else:
            self.hello(role=ROLE_WORKER, worker=worker)
            self.say(Register(self.name, self.incarnation, REGISTER_WORKER, worker))
        answer = self.hear(RegisterAnswer).answer
        assert answer.code == 0
        return int(answer.session)

    def next_seq(self, session: int) -> int:
        """The number that the session's next command must have: the answer to one far above it."""
        self.say(Cancel(session, SEQ_FAR_ABOVE, 1, []))
        while True:
            for answer in self.hear(Answers).items:
                if (answer.seq, answer.code) == (SEQ_FAR_ABOVE, ANSWER_GAP):
                    return int(answer.value)


def send_bytes(address: str, data: bytes) -> None:
    """Over plain TCP, to the last byte or until the other side hangs up."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                continue
        except OSError:
            return
