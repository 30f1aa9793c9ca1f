"""The network port over real sockets on loopback, with strangers of libzmq: nothing is waited for but events."""

import asyncio
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
import zmq

from actors import AddressInUse, BadAddress
from actors.runtime.ports import Log, Sent
from actors.transport.frame import FRAME_BYTES_MAX
from actors.transport import zmtp, zmtp_link
from actors.transport.zmtp_link import BUFFER_BYTES_MAX, SILENT_LOOKS_MAX, ZmtpNetwork

LIMIT_SECONDS = 20
KERNEL_BYTES_MAX = 32 * 1024 * 1024     # what the kernel and libzmq hold of a connection, rather too much
MANY = 1_024
ONE, TWO = b"1" * 16, b"2" * 16


class Silence(Log):
    def event(self, name: str, /, **fields: object) -> None: ...


async def until(condition: Callable[[], object]) -> None:
    """For what tells nobody that it happened: looks again and again, and lets the others work."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():
            await asyncio.to_thread(os.sched_yield)


def raw_dealer(context: "zmq.Context[zmq.Socket[bytes]]", address: str, identity: bytes) -> "zmq.Socket[bytes]":
    """A stranger that speaks ZeroMQ."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    if identity:
        dealer.setsockopt(zmq.IDENTITY, identity)
    dealer.connect(f"tcp://{address}")
    return dealer


class Events:
    """What happened, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    def add(self, *event: Any) -> None:
        self.all.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.all)

    async def until(self, kind: str, count: int = 1) -> None:
        while self.count(kind) < count:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._waiter, LIMIT_SECONDS)


class Bench:
    def __init__(self) -> None:
        self.network = ZmtpNetwork(asyncio.get_running_loop(), Silence())
        self.server = Events()
        self.client = Events()

    def listen(self, address: str = "127.0.0.1:0") -> Any:
        self.listener = self.network.listen(
            address,
            on_message=lambda peer, data: self.server.add("message", peer, data),
            on_garbage=lambda remote: self.server.add("garbage", remote),
        )
        return self.listener

    def dial(self, address: str | None = None, identity: bytes = ONE) -> Any:
        client = self.client
        return self.network.dial(
            address or self.listener.address,
            identity,
            on_message=lambda data: client.add("message", data),
            on_up=lambda: client.add("up"),
            on_down=lambda: client.add("down"),
        )


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request) -> Callable[[Callable[[Bench], Awaitable[Any]]], Any]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Callable[[Bench], Awaitable[Any]]) -> Any:
        async def start() -> Any:
            bench = Bench()
            try:
                return await main(bench)
            finally:
                bench.network.close()

        with asyncio.Runner(loop_factory=factory) as loop_runner:
            return loop_runner.run(start())

    return runner


def test_messages_go_both_ways_and_keep_their_order(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        for number in range(100):
            assert dialer.send(b"%d" % number)
        await bench.server.until("message", 100)
        assert bench.server.all == [("message", ONE, b"%d" % number) for number in range(100)]
        for number in range(100):
            assert bench.listener.send(ONE, b"%d" % number)
        await bench.client.until("message", 100)
        assert bench.client.all[1:] == [("message", b"%d" % number) for number in range(100)]

    run(main)


def test_nothing_is_sent_while_the_link_is_down_or_to_an_unknown_peer(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        assert not dialer.send(b"too early")
        assert not bench.listener.send(TWO, b"nobody")
        await bench.client.until("up")

    run(main)


def test_a_listener_that_goes_away_and_comes_back_is_seen_as_down_and_up(run):
    async def main(bench: Bench) -> None:
        address = bench.listen().address
        dialer = bench.dial()
        await bench.client.until("up")
        bench.listener.close()
        await bench.client.until("down")
        assert not dialer.send(b"lost")
        for _ in range(1_000):
            try:
                bench.listen(address)
                break
            except AddressInUse:    # the io thread closes the old socket when it gets there
                await asyncio.to_thread(os.sched_yield)
        await bench.client.until("up", 2)
        assert dialer.send(b"again")
        await bench.server.until("message")
        assert bench.client.all == [("up",), ("down",), ("up",)]
        assert bench.server.all == [("message", ONE, b"again")]

    run(main)


def test_a_dialler_may_come_before_its_listener(run):
    async def main(bench: Bench) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        dialer = bench.dial(address)
        bench.listen(address)
        await bench.client.until("up")
        assert dialer.send(b"hello")
        await bench.server.until("message")

    run(main)


def test_an_identity_that_connects_again_takes_over(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        first = bench.dial()
        await bench.client.until("up")
        assert first.send(b"first")
        await bench.server.until("message")
        second = bench.dial()
        await bench.client.until("up", 2)
        assert second.send(b"second")
        await bench.server.until("message", 2)
        assert bench.listener.send(ONE, b"to the second")
        await bench.client.until("message")

    run(main)


def test_the_largest_message_passes_and_a_larger_one_costs_its_sender_the_link_only(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        assert dialer.send(bytes(FRAME_BYTES_MAX))
        await bench.server.until("message")
        assert len(bench.server.all[0][2]) == FRAME_BYTES_MAX
        assert dialer.send(bytes(FRAME_BYTES_MAX + 1))
        await bench.client.until("down")
        await bench.client.until("up", 2)
        assert dialer.send(b"after")
        await bench.server.until("message", 2)
        assert bench.server.all[1][2] == b"after"

    run(main)


def test_a_peer_that_does_not_read_makes_send_say_no(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        deaf = context.socket(zmq.DEALER)
        deaf.setsockopt(zmq.IDENTITY, TWO)
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.connect(f"tcp://{bench.listener.address}")
        deaf.send(b"here")
        await bench.server.until("message")
        block = bytes(1024 * 1024)
        sent = 0
        while bench.listener.send(TWO, block):
            sent += len(block)
            assert sent < BUFFER_BYTES_MAX + KERNEL_BYTES_MAX
        assert sent >= BUFFER_BYTES_MAX
        deaf.close()
        context.term()

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + b"x" * 100,
        bytes(range(256)) * 20,
        b"\xff" + b"\x00" * 8 + b"\x7f" + b"\x03" + b"\x55" * 60,    # a greeting, then nonsense
    ],
)
def test_garbage_on_the_port_is_reported_and_the_others_are_served(run, data):
    async def main(bench: Bench) -> None:
        host, port = bench.listen().address.rsplit(":", 1)
        dialer = bench.dial()
        await bench.client.until("up")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(data)
        await bench.server.until("garbage", 3)
        assert {event[1] for event in bench.server.all} <= {"127.0.0.1", "unknown"}
        assert dialer.send(b"still here")
        await bench.server.until("message")

    run(main)


def test_a_message_of_several_parts_is_garbage(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IDENTITY, TWO)
        dealer.connect(f"tcp://{bench.listener.address}")
        dealer.send_multipart([b"one", b"two"])
        await bench.server.until("garbage")
        assert bench.server.all == [("garbage", TWO.hex())]
        dealer.close()
        context.term()

    run(main)


def test_more_than_one_drain_of_messages_all_arrive(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        count = MANY
        for number in range(count):
            while not dialer.send(b"%d" % number):
                await bench.server.until("message", bench.server.count("message") + 1)
        await bench.server.until("message", count)
        assert [event[2] for event in bench.server.all] == [b"%d" % number for number in range(count)]

    run(main)


def test_an_error_in_a_callback_does_not_hold_back_what_comes_after_it(run):
    async def main(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        errors = Events()
        loop.set_exception_handler(lambda _, context: errors.add("error", context))
        heard = Events()

        def on_message(peer: bytes, data: bytes) -> None:
            heard.add("message")
            if heard.count("message") == 1:
                raise RuntimeError("a bug of the owner")

        listener = bench.network.listen(
            "127.0.0.1:0", on_message=on_message, on_garbage=lambda remote: None
        )
        dialer = bench.dial(listener.address)
        await bench.client.until("up")
        for _ in range(5):
            dialer.send(b"x")
        await heard.until("message", 5)
        assert errors.count("error") == 1

    run(main)


def test_an_address_that_is_taken_or_makes_no_sense_is_named(run):
    async def main(bench: Bench) -> None:
        address = bench.listen().address
        with pytest.raises(AddressInUse) as caught:
            bench.listen(address)
        assert caught.value.address == address
        for bad in ("nonsense", "127.0.0.1:x"):
            with pytest.raises(BadAddress):
                bench.network.listen(bad, on_message=print, on_garbage=print)
            with pytest.raises(BadAddress):
                bench.dial(bad)

    run(main)


def test_parts_that_no_dialler_sends_leave_the_socket_in_step(run):
    """One part is ours; none of these may be taken for the identity or the data of what comes next."""

    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        dealer = raw_dealer(context, bench.listener.address, TWO)
        for parts in ([b""], [b"", b"x"], [b"a", b"b", b"c"], [b"a", b"", b""], [b"x"] * 1_000, [b"last"]):
            dealer.send_multipart(parts)
        await bench.server.until("message", 2)
        garbage, message = ("garbage", TWO.hex()), ("message", TWO)
        assert bench.server.all == [(*message, b""), garbage, garbage, garbage, garbage, (*message, b"last")]
        dealer.close()
        context.term()

    run(main)


def test_a_message_of_very_many_parts_is_one_piece_of_garbage(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        dealer = raw_dealer(context, bench.listener.address, TWO)
        dealer.send_multipart([b"x"] * 5 * MANY + [b"end"])
        dealer.send(b"after")
        await bench.server.until("message")
        assert bench.server.all == [("garbage", TWO.hex()), ("message", TWO, b"after")]
        dealer.close()
        context.term()

    run(main)


def test_a_peer_that_sends_without_end_does_not_hold_up_the_loop(run):
    """What one read takes is bounded: the turns go on while more has come than is read in one."""

    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        block = bytes(zmtp_link.READ_BYTES)
        turns: list[int] = []

        def turn() -> None:
            turns.append(bench.server.count("message"))
            asyncio.get_running_loop().call_soon(turn)

        turn()
        for _ in range(32):
            assert dialer.send(block)
        await bench.server.until("message", 32)
        gained = [later - before for before, later in itertools.pairwise(turns)]
        assert max(gained, default=0) <= 2

    run(main)


def test_data_that_cannot_be_sent_is_refused_before_its_identity_has_left(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        assert dialer.send(b"here")
        await bench.server.until("message")
        with pytest.raises(AssertionError):
            bench.listener.send(ONE, "text")
        assert bench.listener.send(ONE, b"bytes") is Sent.TAKEN
        await bench.client.until("message")
        assert bench.client.all[1:] == [("message", b"bytes")]

    run(main)


def test_a_listener_tells_a_dialler_that_is_gone_from_one_that_does_not_read(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        assert bench.listener.send(TWO, b"nobody") is Sent.GONE
        context = zmq.Context()
        deaf = raw_dealer(context, bench.listener.address, TWO)
        deaf.send(b"here")
        await bench.server.until("message")
        block = bytes(1024 * 1024)
        while (sent := bench.listener.send(TWO, block)) is Sent.TAKEN:
            pass
        assert sent is Sent.FULL
        deaf.close()
        context.term()
        await until(lambda: bench.listener.send(TWO, b"") is Sent.GONE)

    run(main)


def test_a_link_that_was_closed_takes_nothing_and_says_so(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        dialer.close()
        bench.listener.close()
        assert dialer.send(b"late") is Sent.GONE
        assert bench.listener.send(ONE, b"late") is Sent.GONE

    run(main)


def test_a_network_may_be_closed_in_a_callback_of_its_links(run):

    async def main(bench: Bench) -> None:
        bench.listen()
        closed = asyncio.get_running_loop().create_future()

        def on_up() -> None:
            bench.network.close()
            closed.set_result(None)

        bench.network.dial(bench.listener.address, ONE, on_message=print, on_up=on_up, on_down=print)
        await asyncio.wait_for(closed, LIMIT_SECONDS)

    run(main)


@contextmanager
def raw_connection(address: str) -> Iterator[socket.socket]:
    """A stranger that speaks TCP."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        yield connection


def test_who_falls_silent_is_asked_and_who_does_not_answer_is_left(run, monkeypatch):
    """A machine that died ends no connections."""
    monkeypatch.setattr(zmtp_link, "LOOK_S", 0.02)

    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial()
        await bench.client.until("up")
        with raw_connection(bench.listener.address) as dead:
            dead.sendall(zmtp.GREETING + zmtp.ready(b"DEALER", TWO))
            await until(lambda: bench.listener.send(TWO, b"x") is Sent.TAKEN)
            await until(lambda: bench.listener.send(TWO, b"x") is Sent.GONE)
            heard = await asyncio.to_thread(dead.recv, 4_096)
        assert zmtp.PING in heard
        assert bench.client.all == [("up",)], "who answers stays"
        assert dialer.send(b"here")
        await bench.server.until("message")

    run(main)


def test_libzmq_answers_and_is_answered(run, monkeypatch):
    monkeypatch.setattr(zmtp_link, "LOOK_S", 0.02)

    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        other = context.socket(zmq.DEALER)
        other.setsockopt(zmq.LINGER, 0)
        other.setsockopt(zmq.IDENTITY, TWO)
        other.setsockopt(zmq.HEARTBEAT_IVL, 20)
        other.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60)
        monitor = other.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        other.connect(f"tcp://{bench.listener.address}")
        other.send(b"first")
        await bench.server.until("message")
        await asyncio.sleep(0.02 * SILENT_LOOKS_MAX * 3)
        assert bench.listener.send(TWO, b"still here") is Sent.TAKEN
        assert await asyncio.to_thread(other.recv) == b"still here"
        assert not monitor.poll(0)
        other.disable_monitor()
        monitor.close()
        other.close()
        context.term()

    run(main)


def test_a_router_of_libzmq_may_be_at_the_other_end(run):
    async def main(bench: Bench) -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dialer = bench.dial(f"127.0.0.1:{port}")
        await bench.client.until("up")
        for size in (0, 1, 255, 256, 70_000, FRAME_BYTES_MAX):
            assert dialer.send(bytes(size))
            identity, data = await asyncio.to_thread(router.recv_multipart)
            assert (identity, len(data)) == (ONE, size)
            router.send_multipart([ONE, data])
            await bench.client.until("message")
            assert bench.client.all.pop() == ("message", data)
        router.close()
        context.term()

    run(main)


def test_who_says_nothing_in_a_handshake_is_left(run, monkeypatch):
    monkeypatch.setattr(zmtp_link, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def main(bench: Bench) -> None:
        bench.listen()
        for said in (b"", zmtp.GREETING[:20], zmtp.GREETING):
            with raw_connection(bench.listener.address) as silent:
                silent.sendall(said)
                before = bench.server.count("garbage")
                await bench.server.until("garbage", before + 1)
                while await asyncio.to_thread(silent.recv, 4_096):
                    pass

    run(main)


@pytest.mark.parametrize(
    "said",
    [
        zmtp.GREETING.replace(b"NULL", b"PLAIN"[:4]),
        zmtp.GREETING[:10] + b"\x02" + zmtp.GREETING[11:],
        zmtp.GREETING + zmtp.ready(b"PUB", TWO),
        zmtp.GREETING + zmtp.header(5) + b"early",
        zmtp.GREETING + zmtp.command(b"\x05ERROR\x00"),
        zmtp.GREETING + zmtp.command(b"\x05READY\x0bSocket-Type\xff\xff\xff\xff"),
        zmtp.GREETING + b"\xf0\x00",
    ],
    ids=["another mechanism", "version 2", "another kind", "no handshake", "error", "cut off", "unknown flags"],
)
def test_who_does_not_keep_to_the_handshake_is_garbage(run, said):
    async def main(bench: Bench) -> None:
        bench.listen()
        with raw_connection(bench.listener.address) as stranger:
            stranger.sendall(said)
            await bench.server.until("garbage")
        assert bench.server.all == [("garbage", "127.0.0.1")]

    run(main)


def test_who_breaks_the_protocol_later_costs_its_connection_only(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        with raw_connection(bench.listener.address) as stranger:
            stranger.sendall(zmtp.GREETING + zmtp.ready(b"DEALER", TWO) + zmtp.header(2) + b"ok" + b"\xf0\x00")
            await bench.server.until("message")
            await until(lambda: bench.listener.send(TWO, b"") is Sent.GONE)
        assert bench.server.all == [("message", TWO, b"ok")]

    run(main)


def test_several_without_a_name_are_told_apart(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        context = zmq.Context()
        nameless = [raw_dealer(context, bench.listener.address, b"") for _ in range(2)]
        for dealer in nameless:
            dealer.send(b"who am I")
        await bench.server.until("message", 2)
        identities = {identity for _, identity, _ in bench.server.all}
        assert len(identities) == 2
        for dealer in nameless:
            dealer.close()
        context.term()

    run(main)


def test_a_host_may_have_a_name(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        dialer = bench.dial("localhost:" + bench.listener.address.rsplit(":", 1)[1])
        await bench.client.until("up")
        assert dialer.send(b"hello")
        await bench.server.until("message")
        bench.dial("no-such-host.invalid:1").close()

    run(main)


def test_who_is_given_up_while_connecting_or_looked_up_leaves_nothing(run):
    async def main(bench: Bench) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for address in ("127.0.0.1:1", "192.0.2.1:1", "no-such-host.invalid:1"):
            dialer = bench.dial(address)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            dialer.close()
        assert len(os.listdir("/proc/self/fd")) == before
        assert bench.client.all == []

    run(main)


def test_a_reader_that_is_slow_gets_all_and_in_order(run):
    async def main(bench: Bench) -> None:
        bench.listen()
        with raw_connection(bench.listener.address) as slow:
            slow.sendall(zmtp.GREETING + zmtp.ready(b"DEALER", TWO))
            await until(lambda: bench.listener.send(TWO, b"\0" * 4) is Sent.TAKEN)
            count = 1
            while bench.listener.send(TWO, count.to_bytes(4) + bytes(300_000)):
                count += 1

            def read_all() -> list[int]:
                inbox, numbers, rest = zmtp.Inbox(), [], zmtp.GREETING_BYTES
                while len(numbers) < count + 1:
                    data = slow.recv(1024 * 1024)
                    data, rest = data[rest:], max(0, rest - len(data))
                    numbers += [int.from_bytes(body[:4]) for flags, body in inbox.feed(data) if not flags & zmtp.COMMAND]
                return numbers

            reading = asyncio.create_task(asyncio.to_thread(read_all))
            while not bench.listener.send(TWO, count.to_bytes(4)):
                await asyncio.sleep(0)
            assert await reading == list(range(count + 1))

    run(main)
