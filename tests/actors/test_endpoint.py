"""Endpoints between simulated processes, and against strangers who send whatever they like."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from actor_world import log_of
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct

from actors import MILLISECOND, SECOND, Endpoint, EndpointLimits, Peer, Ports
from actors.runtime.ports import Dialer, Listener, Sent
from actors.simulation import NetworkLimits, World
from actors.transport.frame import FRAME_VERSION, HEADER, MAGIC, Flags, build_frame, reset_frame

ADDRESS = "server:7101"
SERVER, CLIENT, STRANGER = b"S" * 16, b"C" * 16, b"X" * 16
encode = msgspec.msgpack.encode


class Hello(Struct, array_like=True, tag=1):
    name: str


class Item(Struct, array_like=True, tag=2):
    number: int
    body: bytes = b""


class Wrapped(Struct, array_like=True, tag=3):
    raw: Raw


HELLOS = msgspec.msgpack.Decoder(list[Hello])
ITEMS = msgspec.msgpack.Decoder(list[Item | Wrapped])


@dataclass
class Side:
    """One endpoint and what happened to it."""

    endpoint: Endpoint
    events: list[Any] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    accept: Callable[[Peer, Hello], Any] = lambda peer, hello: ITEMS

    @property
    def numbers(self) -> list[int]:
        return [number for kind, number in self.events if kind == "item"]

    def on_hello(self, peer: Peer, hello: Hello) -> Any:
        self.events.append(("hello", hello.name))
        self.peers.append(peer)
        return self.accept(peer, hello)

    def on_messages(self, peer: Peer, messages: list[Any]) -> None:
        self.events += [("item", getattr(message, "number", -1)) for message in messages]

    def on_closed(self, peer: Peer) -> None:
        assert not peer.is_up
        self.events.append(("closed", peer.hello.name))    # type: ignore[attr-defined]

    def on_up(self, peer: Peer) -> None:
        assert peer.is_up
        self.events.append(("up", 0))

    def on_down(self, peer: Peer) -> None:
        assert not peer.is_up
        self.events.append(("down", 0))


class Scene:
    """A server with an endpoint, a client with another, and strangers with bare sockets."""

    def __init__(self, world: World, limits: EndpointLimits | None = None) -> None:
        self.world = world
        self.limits = limits
        self.ports = self._ports("server")
        self.server = Side(Endpoint(self.ports, SERVER, limits))
        self.server.endpoint.listen(
            ADDRESS, HELLOS, self.server.on_hello, self.server.on_messages, self.server.on_closed
        )

    def client(self, name: str = "client", identity: bytes = CLIENT) -> tuple[Side, Peer]:
        side = Side(Endpoint(self._ports(name), identity, self.limits))
        peer = side.endpoint.dial(
            ADDRESS, lambda: Hello(name), ITEMS, side.on_up, side.on_messages, side.on_down
        )
        self.world.run_for(SECOND)
        return side, peer

    def stranger(self, identity: bytes = STRANGER) -> "Stranger":
        stranger = Stranger(self._ports("stranger"), identity)
        self.world.run_for(SECOND)
        return stranger

    def run(self, nanos: int = SECOND) -> None:
        self.world.run_for(nanos)

    def _ports(self, name: str) -> Ports:
        process = self.world.process(name, lambda ports: None)
        assert self.world.run_until(lambda: process.ports, SECOND)
        assert process.ports is not None
        return process.ports


class Stranger:
    """A dialler that sends bytes of its own choosing."""

    def __init__(self, ports: Ports, identity: bytes) -> None:
        self.received: list[bytes] = []
        nothing = lambda: None  # noqa: E731
        self.dialer: Dialer = ports.network.dial(
            ADDRESS, identity, on_message=self.received.append, on_up=nothing, on_down=nothing
        )

    def say(self, flags: int, session: int, seq: int, *messages: object) -> None:
        assert self.dialer.send(build_frame(flags, session, seq, [encode(message) for message in messages]))

    def hello(self, session: int) -> None:
        self.say(Flags.HELLO, session, 0, Hello("stranger"))


@pytest.fixture
def scene():
    with World(1, network=NetworkLimits()) as world:
        yield Scene(world)


def test_the_hello_comes_first_and_messages_follow_in_order(scene):
    client, peer = scene.client()
    for number in range(5):
        assert peer.send(Item(number))
    scene.run()
    assert client.events == [("up", 0)]
    assert scene.server.events == [("hello", "client"), *(("item", number) for number in range(5))]
    assert scene.server.peers[0].identity == CLIENT


def test_all_messages_of_a_turn_leave_as_one_frame(scene):
    _, peer = scene.client()
    frames = scene.server.endpoint.counters.frames_in
    for number in range(1_000):
        peer.send(Item(number))
    peer.send_raw(encode(Item(1_000)))
    scene.run()
    assert scene.server.numbers == list(range(1_001))
    assert scene.server.endpoint.counters.frames_in == frames + 1


def test_flush_sends_at_once_what_is_queued(scene):
    _, peer = scene.client()
    peer.send(Item(1))
    peer.flush()
    peer.send(Item(2))
    scene.run()
    assert scene.server.endpoint.counters.frames_in == 3
    assert scene.server.numbers == [1, 2]


def test_the_listener_answers_on_the_same_link(scene):
    client, _ = scene.client()
    accepted = scene.server.peers[0]
    assert accepted.send(Item(7))
    scene.run()
    assert client.numbers == [7]


def test_a_link_that_breaks_goes_down_and_comes_up_with_a_new_session(scene):
    client, peer = scene.client()
    scene.world.network.break_links("client")
    assert scene.world.run_until(lambda: not peer.is_up, SECOND)
    assert not peer.send(Item(1))
    scene.run(5 * SECOND)
    assert client.events == [("up", 0), ("down", 0), ("up", 0)]
    assert scene.server.events == [("hello", "client"), ("closed", "client"), ("hello", "client")]
    assert peer.send(Item(2))
    scene.run()
    assert scene.server.numbers == [2]


def test_a_refused_peer_hears_why_and_is_not_read(scene):
    def refuse(peer: Peer, hello: Hello) -> None:
        peer.send(Item(99))

    scene.server.accept = refuse
    client, peer = scene.client()
    peer.send(Item(1))
    scene.run(3 * SECOND)
    assert client.events == [("up", 0), ("item", 99)]
    assert scene.server.numbers == []
    assert scene.server.endpoint.counters.refused == 2
    assert scene.server.endpoint.counters.resets_out == 0


def test_a_listener_that_closes_a_peer_resets_it_and_it_says_hello_again(scene):
    client, _ = scene.client()
    scene.server.peers[0].close()
    scene.run(3 * SECOND)
    assert client.events == [("up", 0), ("down", 0), ("up", 0)]
    assert scene.server.events == [("hello", "client"), ("hello", "client")]
    assert client.endpoint.counters.resets_in == 1


def test_a_dialler_that_closes_sends_what_was_queued_before(scene):
    _, peer = scene.client()
    peer.send(Item(1))
    peer.close()
    scene.run()
    assert scene.server.numbers == [1]
    assert not peer.is_up
    assert not peer.send(Item(2))


def test_nothing_comes_after_an_endpoint_was_closed(scene):
    client, _ = scene.client()
    client.endpoint.close()
    scene.server.peers[0].send(Item(1))
    scene.run(5 * SECOND)
    assert client.events == [("up", 0)]


def test_a_listener_that_comes_back_empty_resets_the_sessions_it_does_not_know():
    """A broker that was killed and restarted so fast that the link held; here the frame comes from a
    stranger.
    """
    with World(2) as world:
        scene = Scene(world)
        stranger = scene.stranger()
        stranger.say(Flags.DATA, 5, 3, Item(1))
        scene.run()
        assert [HEADER.unpack(frame)[2:] for frame in stranger.received] == [(Flags.RESET, 5, 0)]
        assert scene.server.endpoint.counters.unknown == 1


def test_resets_are_not_answered_to_each_frame_of_a_flood(scene):
    stranger = scene.stranger()
    for seq in range(100):
        stranger.say(Flags.DATA, 5, seq, Item(1))
    scene.run()
    assert len(stranger.received) == 1
    assert scene.server.endpoint.counters.unknown == 100


def test_a_gap_ends_the_session_on_both_sides(scene):
    stranger = scene.stranger()
    stranger.hello(5)
    stranger.say(Flags.DATA, 5, 1, Item(1))
    stranger.say(Flags.DATA, 5, 3, Item(3))
    stranger.say(Flags.DATA, 5, 4, Item(4))
    scene.run()
    assert scene.server.events == [("hello", "stranger"), ("item", 1), ("closed", "stranger")]
    assert scene.server.endpoint.counters.gaps == 1
    assert HEADER.unpack(stranger.received[0])[2:4] == (Flags.RESET, 5)


def test_repeated_frames_are_dropped_and_counted(scene):
    stranger = scene.stranger()
    stranger.hello(5)
    for seq in (1, 1, 2, 1, 2, 3):
        stranger.say(Flags.DATA, 5, seq, Item(seq))
    scene.run()
    assert scene.server.numbers == [1, 2, 3]
    assert scene.server.endpoint.counters.duplicates == 3


def test_a_hello_that_is_played_again_ends_nothing(scene):
    stranger = scene.stranger()
    stranger.hello(5)
    stranger.hello(6)
    stranger.hello(5)
    stranger.hello(6)
    stranger.say(Flags.DATA, 6, 1, Item(1))
    scene.run()
    assert [kind for kind, _ in scene.server.events] == ["hello", "closed", "hello", "item"]
    assert scene.server.endpoint.counters.replays == 2


def test_a_new_session_under_an_identity_closes_the_one_before(scene):
    stranger = scene.stranger(CLIENT)
    stranger.hello(5)
    stranger.hello(6)
    scene.run()
    assert scene.server.events == [("hello", "stranger"), ("closed", "stranger"), ("hello", "stranger")]


def header(flags: int = Flags.DATA, seq: int = 1, magic: int = MAGIC, version: int = FRAME_VERSION) -> bytes:
    return HEADER.pack(magic, version, flags, 5, seq)


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (b"", "malformed"),
        (b"\x00" * 23, "malformed"),
        (header(magic=1) + b"\x90", "malformed"),
        (header(version=2) + b"\x90", "malformed"),
        (header(flags=7) + b"\x90", "malformed"),
        (header(flags=Flags.RESET) + b"\x90", "malformed"),
        (header(flags=Flags.HELLO, seq=4) + b"\x90", "malformed"),
        (header(), "undecodable"),
        (header() + b"\xc1", "undecodable"),
        (header() + b"\x91\x92\x02", "undecodable"),
        (header() + encode(["not a struct"]), "undecodable"),
        (header() + encode([Hello("not now")]), "undecodable"),
        (header() + encode([[2, "not a number"]]), "undecodable"),
        (header() + encode([[77, 1]]), "undecodable"),
        (header() + b"\x91\x92\x02\xdd\xff\xff\xff\xff", "undecodable"),
        (header() + b"\x91\x92\x03" + b"\x91" * 5_000 + b"\x90", "too_deep"),
        (header() + b"\x91\x92\x03" + b"\x91" * 31 + b"\x90", "too_deep"),
        (header() + encode([Item(1, bytes(70_000))]), "oversized"),
    ],
)
def test_a_bad_frame_is_counted_logged_and_dropped_and_the_others_are_served(frame, counter):
    with World(3) as world:
        scene = Scene(world, EndpointLimits(frame_bytes=65_536))
        _, peer = scene.client()
        stranger = scene.stranger()
        stranger.hello(5)
        for _ in range(10):
            stranger.dialer.send(frame)
        peer.send(Item(1))
        scene.run()
        counters = scene.server.endpoint.counters
        first_only = counter in ("undecodable", "too_deep")    # its number is taken; repeats are duplicates
        assert getattr(counters, counter) == (1 if first_only else 10)
        assert scene.server.numbers == [1]
        assert len(log_of(world, f"frame_{counter}")) == 1


def test_depth_within_the_limit_passes_to_a_raw_field(scene):
    stranger = scene.stranger()
    stranger.hello(5)
    stranger.dialer.send(header() + b"\x91\x92\x03" + b"\x91" * 29 + b"\x90")
    scene.run()
    assert scene.server.numbers == [-1]


@pytest.mark.parametrize(
    "body", [b"\xc1", encode([Item(1)]), encode([Hello("a"), Hello("b")]), b"\x90", b"\x91" * 50 + b"\x90"]
)
def test_a_bad_hello_is_refused_and_what_follows_is_dropped_in_silence(scene, body):
    stranger = scene.stranger()
    stranger.dialer.send(HEADER.pack(MAGIC, FRAME_VERSION, Flags.HELLO, 5, 0) + body)
    for seq in range(1, 10):
        stranger.say(Flags.DATA, 5, seq, Item(seq))
    scene.run()
    assert scene.server.events == []
    assert stranger.received == []
    assert scene.server.endpoint.counters.refused == 10
    stranger.hello(6)
    scene.run()
    assert scene.server.events == [("hello", "stranger")]


def test_bad_input_is_logged_once_per_peer_and_minute_with_the_number_left_out(scene):
    stranger = scene.stranger()
    for _ in range(61):
        stranger.dialer.send(b"nonsense")
        scene.run(SECOND)
    first, second = log_of(scene.world, "frame_malformed")
    assert first["peer"] == STRANGER.hex()
    assert 50 <= second["suppressed"] <= 60
    assert scene.server.endpoint.counters.malformed == 61


def test_raw_garbage_is_counted(scene):
    for _ in range(5):
        scene.world.network.garbage(ADDRESS, "10.0.0.9")
    scene.run()
    assert scene.server.endpoint.counters.garbage == 5
    assert log_of(scene.world, "garbage") == [{"peer": "10.0.0.9", "address": ADDRESS}]


ANYTHING = st.binary(max_size=200)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANYTHING | ANYTHING.map(lambda tail: header() + tail), max_size=20))
def test_no_bytes_whatever_raise_or_stop_the_endpoint(frames):
    with World(4) as world:
        scene = Scene(world)
        stranger = scene.stranger()
        stranger.hello(5)
        for frame in frames:
            stranger.dialer.send(frame)
        scene.run()
        _, peer = scene.client()
        peer.send(Item(41))
        scene.run()
        assert scene.server.numbers[-1:] == [41]


def test_more_peers_than_the_limit_are_refused():
    with World(5) as world:
        scene = Scene(world, EndpointLimits(peers=1))
        scene.client()
        scene.client("other", b"O" * 16)
        assert scene.server.events == [("hello", "client")]
        assert scene.server.endpoint.counters.refused == 1


class Impostor:
    """A bare listener that answers a dialler with frames of its own choosing."""

    def __init__(self, world: World) -> None:
        self.world = world
        process = world.process("impostor", lambda ports: None)
        assert world.run_until(lambda: process.ports, SECOND)
        assert process.ports is not None
        self.sessions: list[int] = []
        self.listener = process.ports.network.listen(
            ADDRESS, on_message=self._heard, on_garbage=lambda remote: None
        )
        process = world.process("client", lambda ports: None)
        assert world.run_until(lambda: process.ports, SECOND)
        assert process.ports is not None
        self.side = side = Side(Endpoint(process.ports, CLIENT))
        self.peer = side.endpoint.dial(
            ADDRESS, lambda: Hello("c"), ITEMS, side.on_up, side.on_messages, side.on_down
        )
        world.run_for(SECOND)

    def _heard(self, identity: bytes, frame: bytes) -> None:
        assert identity == CLIENT
        if HEADER.unpack_from(frame)[2] == Flags.HELLO:
            self.sessions.append(HEADER.unpack_from(frame)[3])

    def say(self, flags: int, session: int, seq: int) -> None:
        if flags == Flags.RESET:
            assert self.listener.send(CLIENT, reset_frame(session))
        else:
            assert self.listener.send(CLIENT, build_frame(flags, session, seq, [encode(Item(seq))]))


@pytest.fixture
def impostor():
    with World(7) as world:
        yield Impostor(world)


def test_a_gap_in_what_the_listener_says_starts_a_new_session(impostor):
    impostor.say(Flags.DATA, impostor.sessions[0], 0)
    impostor.say(Flags.DATA, impostor.sessions[0], 2)
    impostor.world.run_for(SECOND)
    assert impostor.side.events == [("up", 0), ("item", 0), ("down", 0), ("up", 0)]
    assert len(set(impostor.sessions)) == 2


def test_what_is_left_over_from_an_earlier_session_is_dropped(impostor):
    impostor.say(Flags.RESET, impostor.sessions[0], 0)
    impostor.world.run_for(SECOND)
    impostor.say(Flags.DATA, impostor.sessions[0], 0)
    impostor.say(Flags.RESET, impostor.sessions[0], 0)
    impostor.say(Flags.DATA, impostor.sessions[1], 0)
    impostor.world.run_for(SECOND)
    assert impostor.side.events == [("up", 0), ("down", 0), ("up", 0), ("item", 0)]
    assert impostor.side.endpoint.counters.unknown == 2


def test_a_listener_that_resets_all_the_time_is_not_greeted_in_a_tight_loop(impostor):
    for _ in range(100):
        impostor.say(Flags.RESET, impostor.sessions[-1], 0)
        impostor.world.run_for(10 * MILLISECOND)
    assert 8 <= len(impostor.sessions) <= 12    # one in 100 ms


def test_a_listener_that_says_hello_is_malformed(impostor):
    impostor.say(Flags.HELLO, impostor.sessions[0], 0)
    impostor.world.run_for(SECOND)
    assert impostor.side.endpoint.counters.malformed == 1
    assert impostor.peer.is_up


class FullNetwork:
    """A listener whose pipes are full when told so."""

    def __init__(self) -> None:
        self.room = 1_000_000
        self.why = Sent.FULL    # when there is no room
        self.frames: list[bytes] = []
        self.address = ADDRESS

    def listen(self, address: str, **callbacks: Any) -> Listener:
        self.on_message = callbacks["on_message"]
        return self

    def send(self, peer: bytes, data: bytes) -> Sent:
        if self.room == 0:
            return self.why
        self.room -= 1
        self.frames.append(data)
        return Sent.TAKEN

    def close(self) -> None: ...


def test_frames_that_the_network_does_not_take_wait_in_order_within_the_limits():
    with World(6) as world:
        process = world.process("server", lambda ports: None)
        assert world.run_until(lambda: process.ports, SECOND)
        assert process.ports is not None
        network = FullNetwork()
        limits = EndpointLimits(frame_bytes=1_000, outbox_bytes=1_000, outbox_messages=50)
        side = Side(Endpoint(replace(process.ports, network=network), SERVER, limits))
        side.endpoint.listen(ADDRESS, HELLOS, side.on_hello, side.on_messages, side.on_closed)
        network.on_message(CLIENT, build_frame(Flags.HELLO, 5, 0, [encode(Hello("c"))]))
        peer = side.peers[0]
        network.room = 0
        sent = []
        for number in range(100):
            if peer.send(Item(number)):
                sent.append(number)
            if number % 7 == 0:
                peer.flush()
        assert len(sent) == 50
        assert side.endpoint.counters.send_full == 50
        network.room = 1_000_000
        world.run_for(11 * MILLISECOND)
        items = [item.number for frame in network.frames for item in ITEMS.decode(frame[24:])]
        assert items == sent
        seqs = [struct.unpack_from("<Q", frame, 16)[0] for frame in network.frames]
        assert seqs == list(range(len(seqs)))
        assert peer.send(Item(1))
        peer.flush()
        assert not peer.send(Item(1, bytes(990)))
        assert side.endpoint.counters.send_too_big == 1


def test_an_identity_has_16_bytes_and_does_not_begin_with_zero(scene):
    for identity in (b"", b"x" * 15, b"\x00" + b"x" * 15):
        with pytest.raises(ValueError, match="16 bytes"):
            Endpoint(scene.ports, identity)
