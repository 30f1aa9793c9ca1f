"""An endpoint over real sockets and a dialler that does not read: the ROUTER fills up, is bounded, and lets go."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import uvloop
import zmq

from actors import MILLISECOND, Endpoint, EndpointLimits, Log, Peer, real_ports
from actors.runtime.ports import Sent
from actors.transport.frame import FRAME_BYTES_MAX, Flags, build_frame
from actors.transport.zmq_link import PIPE_MESSAGES_MAX

LIMIT_SECONDS = 20
DEAF = b"D" * 16
BLOCK = bytes(1024 * 1024)
# What libzmq and the kernel hold beyond the high-water marks of both ends, in messages of a MiB.
BUFFERS_MESSAGES_MAX = 64
LIMITS = EndpointLimits(stall_ns=200 * MILLISECOND)


class Hello(msgspec.Struct, array_like=True, tag=1):
    name: str


class Block(msgspec.Struct, array_like=True, tag=2):
    body: bytes


HELLOS = msgspec.msgpack.Decoder(list[Hello])
BLOCKS = msgspec.msgpack.Decoder(list[Block])


class Kept(Log):
    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.names.append(name)


class Scene:
    """An endpoint that listens, and a bare DEALER that says a good hello and then nothing."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.log = Kept()
        self.ports = replace(real_ports(loop), log=self.log)
        self.accepted: asyncio.Future[Peer] = loop.create_future()
        self.closed: asyncio.Future[Peer] = loop.create_future()
        self.endpoint = Endpoint(self.ports, b"S" * 16, LIMITS)
        self.listener = self.endpoint.listen(
            "127.0.0.1:0", HELLOS, self._on_hello, lambda peer, messages: None, self.closed.set_result
        )
        self.context = zmq.Context()

    def _on_hello(self, peer: Peer, hello: Hello) -> "msgspec.msgpack.Decoder[list[Block]]":
        if not self.accepted.done():
            self.accepted.set_result(peer)
        return BLOCKS

    async def dealer(self) -> "tuple[zmq.Socket[bytes], Peer]":
        dealer = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, DEAF)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.connect(f"tcp://{self.listener.address}")
        dealer.send(build_frame(Flags.HELLO, 5, 0, [msgspec.msgpack.encode(Hello("deaf"))]))
        return dealer, await self.accepted

    def close(self) -> None:
        self.endpoint.close()
        self.ports.network.close()
        self.context.destroy(linger=0)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request) -> Callable[[Callable[[Scene], Awaitable[Any]]], Any]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Callable[[Scene], Awaitable[Any]]) -> Any:
        async def start() -> Any:
            scene = Scene()
            try:
                return await asyncio.wait_for(main(scene), LIMIT_SECONDS)
            finally:
                scene.close()

        with asyncio.Runner(loop_factory=factory) as loop_runner:
            return loop_runner.run(start())

    return runner


def fill(peer: Peer) -> int:
    """Sends until the outbox takes no more; the number of messages that were taken."""
    count = 0
    while peer.send(Block(BLOCK)):
        peer.flush()
        count += 1
        assert count <= PIPE_MESSAGES_MAX + BUFFERS_MESSAGES_MAX + FRAME_BYTES_MAX // len(BLOCK), "it is bounded"
    return count


def test_a_dialler_that_does_not_read_fills_its_pipe_and_is_let_go(run):
    async def main(scene: Scene) -> None:
        dealer, peer = await scene.dealer()
        assert fill(peer) >= PIPE_MESSAGES_MAX
        assert scene.endpoint.counters.send_full == 1
        assert not scene.closed.done()
        # The io thread may empty the pipe into the kernel's buffers once more: the outbox is kept full.
        while not scene.closed.done():
            fill(peer)
            await asyncio.wait([scene.closed], timeout=0.02)
        assert scene.closed.result() is peer
        assert not peer.is_up
        assert scene.log.names == ["peer_stalled"]
        assert (scene.endpoint.counters.stalled, scene.endpoint.counters.gone) == (1, 0)
        assert not scene.listener.peers

        dealer.send(build_frame(Flags.HELLO, 6, 0, [msgspec.msgpack.encode(Hello("back"))]))
        while scene.endpoint.counters.sessions < 2:
            await asyncio.to_thread(os.sched_yield)
        assert scene.listener.peers[DEAF].is_up, "nobody is locked out"

    run(main)


def test_a_dialler_that_left_is_let_go_without_a_line(run):
    async def main(scene: Scene) -> None:
        dealer, peer = await scene.dealer()
        dealer.close(linger=0)
        while not scene.closed.done():
            peer.send(Block(b""))
            await asyncio.wait([scene.closed], timeout=0.02)
        assert scene.log.names == []
        assert (scene.endpoint.counters.stalled, scene.endpoint.counters.gone) == (0, 1)
        assert peer.send(Block(b"")) is False

    run(main)


def test_what_send_says_is_true_exactly_when_it_was_taken():
    assert [bool(sent) for sent in (Sent.TAKEN, Sent.FULL, Sent.GONE)] == [True, False, False]
