"""`run` closes the network of its process: what was sent last leaves, and nothing holds the process up."""

import asyncio
import os
import time
from collections.abc import Callable

import pytest
import zmq

from actors import Ports, run
from actors.runtime.ports import Sent
from actors.transport.zmtp_link import DRAIN_ON_CLOSE_MS

END_SECONDS_MAX = 5     # of a process that lingers a tenth of a second, on a machine that is busy
LIMIT_MS = 20_000
ONE, TWO = b"1" * 16, b"2" * 16


@pytest.fixture
def router():
    """Somebody else's socket, which outlives the `run` of a test."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, LIMIT_MS)
    socket.setsockopt(zmq.RCVHWM, 10)
    socket.bind("tcp://127.0.0.1:0")
    yield socket
    context.destroy(linger=0)


def address_of(socket: "zmq.Socket[bytes]") -> str:
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")


def nothing(*_: object) -> None: ...


def threads() -> int:
    """Of this process, those of ZeroMQ too, which Python does not know."""
    return len(os.listdir("/proc/self/task"))


async def dialled(ports: Ports, address: str, identity: bytes = ONE) -> Callable[[bytes], Sent]:
    """The `send` of a link that stands."""
    up = asyncio.get_running_loop().create_future()
    dialer = ports.network.dial(
        address, identity, on_message=nothing, on_up=lambda: up.set_result(None), on_down=nothing
    )
    await up
    return dialer.send


def test_what_was_sent_just_before_the_end_still_leaves(router):
    block = bytes(100_000)

    async def main(ports: Ports) -> str:
        send = await dialled(ports, address_of(router))
        for _ in range(5):
            assert send(block)
        assert send(b"goodbye")
        return "done"

    assert run(main) == "done"
    assert [len(router.recv_multipart()[1]) for _ in range(6)] == [len(block)] * 5 + [len(b"goodbye")]


def test_the_last_answers_of_a_listener_still_leave(router):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, TWO)
    dealer.setsockopt(zmq.RCVTIMEO, LIMIT_MS)

    async def main(ports: Ports) -> None:
        heard = asyncio.get_running_loop().create_future()

        def on_message(peer: bytes, data: bytes) -> None:
            assert listener.send(peer, b"answer to " + data)
            heard.set_result(None)

        listener = ports.network.listen("127.0.0.1:0", on_message=on_message, on_garbage=nothing)
        dealer.connect(f"tcp://{listener.address}")
        dealer.send(b"question")
        await heard

    run(main)
    assert dealer.recv() == b"answer to question"
    context.destroy(linger=0)


@pytest.mark.parametrize("ending", ["returns", "raises", "exits", "is cancelled"])
def test_no_thread_and_no_socket_stays_behind_however_main_ends(router, ending):
    before = threads()

    async def main(ports: Ports) -> None:
        await dialled(ports, address_of(router))
        ports.network.listen("127.0.0.1:0", on_message=nothing, on_garbage=nothing)
        assert threads() > before
        if ending == "raises":
            raise ValueError(ending)
        if ending == "exits":
            raise SystemExit(3)
        if ending == "is cancelled":
            raise asyncio.CancelledError

    error = {"raises": ValueError, "exits": SystemExit, "is cancelled": asyncio.CancelledError}.get(ending)
    if error is None:
        run(main)
    else:
        with pytest.raises(error):
            run(main)
    limit = time.monotonic() + END_SECONDS_MAX
    while threads() != before:    # a thread that was joined is in /proc for a moment longer
        assert time.monotonic() < limit
        os.sched_yield()


def test_a_peer_that_does_not_read_holds_up_the_end_for_the_time_to_linger_only(router):
    closing_at = 0.0

    async def main(ports: Ports) -> None:
        nonlocal closing_at
        send = await dialled(ports, address_of(router))
        while send(bytes(1_000_000)):
            pass
        closing_at = time.monotonic()

    run(main)
    taken = time.monotonic() - closing_at
    assert DRAIN_ON_CLOSE_MS / 1_000 <= taken < END_SECONDS_MAX


def test_links_that_never_stood_hold_up_nothing(router):
    closing_at = 0.0

    async def main(ports: Ports) -> None:
        nonlocal closing_at
        address = address_of(router)
        router.unbind(f"tcp://{address}")
        for number in range(3):
            ports.network.dial(address, bytes([number + 1]) * 16, on_message=nothing, on_up=nothing, on_down=nothing)
        closing_at = time.monotonic()

    run(main)
    assert time.monotonic() - closing_at < END_SECONDS_MAX


def test_a_network_that_main_closed_itself_may_be_closed_again(router):
    async def main(ports: Ports) -> None:
        await dialled(ports, address_of(router))
        ports.network.close()
        with pytest.raises(AssertionError, match="closed"):
            ports.network.listen("127.0.0.1:0", on_message=nothing, on_garbage=nothing)

    run(main)


def test_a_task_that_outlives_main_sends_to_nobody_and_breaks_nothing(router):
    outcomes = []

    async def main(ports: Ports) -> None:
        send = await dialled(ports, address_of(router))

        async def late() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                outcomes.append(send(b"too late"))

        task = asyncio.ensure_future(late())
        await asyncio.wait([task], timeout=0)

    run(main)
    assert outcomes == [Sent.GONE]
