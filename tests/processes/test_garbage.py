"""What strangers send to a broker's ports: it is dropped, logged at most once a minute, and the cluster goes on."""

import asyncio
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest
from cluster_rig import is_whole, run, status_when
from cluster_tasks import add
from stranger import HEADER_BYTES, Stranger, random_identity, send_bytes

from actors.transport.frame import FRAME_BYTES_MAX, Flags, build_frame
from cluster import Client
from cluster.local import LocalCluster
from cluster.state.commands import (
    NEEDS_MAX,
    Cancel,
    Close,
    Complete,
    Failure,
    Needs,
    Options,
    Outcome,
    Register,
    Seen,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.topology import parse
from cluster.wire import (
    ROLE_BROKER,
    ROLE_WORKER,
    Answers,
    BrokerState,
    ClockNews,
    Describe,
    Holding,
    Lease,
    LeaseAck,
    RaftMessage,
    Refused,
    Results,
    StatusReply,
    StatusRequest,
    Watch,
)

pytestmark = pytest.mark.timeout(90)

MEGABYTE = 1024 * 1024
EVENT = re.compile(r" event=(\S+) node=(\S+)(?: peer=(\S+))?")


@pytest.fixture
def addresses(cluster: LocalCluster) -> list[str]:
    """Of all brokers, control and bulk."""
    plan = parse(cluster.topology.read_text(), str(cluster.topology))
    return [address for node in plan.brokers for address in (node.address, node.bulk_address)]


@pytest.fixture
def leader(cluster: LocalCluster) -> str:
    """The control address of the broker that leads."""
    status = cluster.wait_for(lambda status: status["leader"] is not None)
    plan = parse(cluster.topology.read_text(), str(cluster.topology))
    return next(node.address for node in plan.brokers if node.name == status["leader"])


@pytest.fixture(autouse=True)
def unharmed(cluster: LocalCluster) -> Iterator[None]:
    """After each test: the same processes lead and follow in the same term, nothing crashed, the log is short."""
    assert cluster.log is not None
    before = cluster.wait_for(lambda status: is_whole(status, slots=2))
    start = cluster.log.stat().st_size
    yield
    after = cluster.wait_for(lambda status: is_whole(status, slots=2))
    with cluster.log.open() as log:
        log.seek(start)
        lines = log.read().splitlines()
    for event in ("actor_crashed", "broker_crash", "node_exited", "worker_session_lost", "leading"):
        assert not [line for line in lines if f" event={event} " in line]
    keys = ("node", "pid", "role", "term")
    assert [[row[key] for key in keys] for row in after["brokers"]] == [
        [row[key] for key in keys] for row in before["brokers"]
    ]
    said = Counter(EVENT.search(line).groups() for line in lines if " event=" in line)  # type: ignore[union-attr]
    often = {key: count for key, count in said.items() if count > 1}
    assert not often, "at most once per peer and minute"


def serves_during(cluster: LocalCluster, attack: Callable[[], None]) -> None:
    """A client gets its work done while the attack goes on, and after it."""

    async def main() -> None:
        async with Client.connect(cluster.topology, deadline=10) as client:
            attacking = asyncio.ensure_future(asyncio.to_thread(attack))
            rounds = 0
            while not attacking.done() or rounds < 2:
                batch = await client.map(add, range(50))
                assert await batch.results(timeout=20) == list(range(1, 51))
                rounds += 1
            await attacking
            await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))

    run(main())


# -- bytes -------------------------------------------------------------------------------------------------------


def test_random_bytes_and_http_on_every_port(cluster: LocalCluster, addresses: list[str]) -> None:
    chance = random.Random(7)

    def attack() -> None:
        for address in addresses:
            for size in (1, 9, 10, 64, 1_000, 100_000):
                send_bytes(address, chance.randbytes(size))
            send_bytes(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            send_bytes(address, b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + chance.randbytes(200))

    serves_during(cluster, attack)


def test_connections_that_say_nothing(cluster: LocalCluster, addresses: list[str]) -> None:
    def attack() -> None:
        with ExitStack() as stack:
            for address in addresses:
                host, _, port = address.rpartition(":")
                for _ in range(30):
                    stack.enter_context(socket.create_connection((host, int(port))))

    serves_during(cluster, attack)


# -- frames ------------------------------------------------------------------------------------------------------


def broken_frames(stranger: Stranger) -> list[bytes]:
    """Neither of them is a frame of the protocol."""
    chance = random.Random(11)
    good = build_frame(Flags.DATA, stranger.session, 0, [msgspec.msgpack.encode(Watch([1]))])
    deep = b"\x91" * 10_000 + b"\xc0"
    header = good[:HEADER_BYTES]
    return [
        b"",
        b"hello",
        chance.randbytes(HEADER_BYTES - 1),
        chance.randbytes(HEADER_BYTES),
        chance.randbytes(5_000),
        header,
        good[:-1],
        good + b"\x00",
        header + b"\xc1",
        header + b"\x91\xc1",
        header + deep,
        header + b"\xdd\xff\xff\xff\xff",                               # an array of 4 G messages
        header + b"\xdc\xff\xff" + b"\xc0" * 65_535,
        header + b"\x91\xdb\xff\xff\xff\xff" + b"x",                    # a string of 4 GB
        struct.pack("<IHHQQ", 0x31515251, 99, 0, stranger.session, 0) + good[HEADER_BYTES:],
        struct.pack("<IHHQQ", 0x31515251, 1, 0xFFFF, stranger.session, 0) + good[HEADER_BYTES:],
        struct.pack("<IHHQQ", 0x31515251, 1, Flags.RESET, stranger.session, 0),
        header + b"\x91" + msgspec.msgpack.encode([9_999, 1, 2]),       # a tag that nobody has
        header + b"\x91" + msgspec.msgpack.encode({"a": 1}),
        header + b"\x91" + msgspec.msgpack.encode(Refused("a broker says this")),
        good.ljust(FRAME_BYTES_MAX, b"\x00"),
    ]


def test_frames_that_are_none_before_and_after_a_hello(cluster: LocalCluster, addresses: list[str]) -> None:
    def attack() -> None:
        for address in addresses:
            with Stranger(address) as stranger:
                for frame in broken_frames(stranger):
                    stranger.raw(frame)
                stranger.raw(b"two", b"parts")
                stranger.hello()
                for frame in broken_frames(stranger):
                    stranger.raw(frame)
                stranger.hello()
                stranger.say(StatusRequest(7))
                assert stranger.hear(StatusReply).request == 7, "a good hello is answered all the same"

    serves_during(cluster, attack)


def test_messages_larger_than_the_limit_end_the_connection(cluster: LocalCluster, addresses: list[str]) -> None:
    def attack() -> None:
        for address in addresses:
            with Stranger(address) as stranger:
                stranger.raw(bytes(FRAME_BYTES_MAX + 1))

    serves_during(cluster, attack)


def test_identities_that_no_peer_has(cluster: LocalCluster, addresses: list[str]) -> None:
    def attack() -> None:
        for address in addresses:
            for identity in (b"\x01", b"\x01" * 15, b"\x01" * 255):
                with Stranger(address, identity) as stranger:
                    stranger.hello()
                    stranger.say(StatusRequest(1))

    serves_during(cluster, attack)


def test_replayed_hellos_and_frames_duplicates_and_gaps(cluster: LocalCluster, leader: str) -> None:
    def attack() -> None:
        with Stranger(leader) as stranger:
            hello = stranger.hello()
            question = stranger.frame([StatusRequest(1)])
            for _ in range(100):
                stranger.raw(question)
                stranger.raw(hello)
            assert stranger.hear(StatusReply).request == 1
            stranger.say(StatusRequest(2))
            assert stranger.hear(StatusReply).request == 2, "the session survived, and each frame counted once"
            stranger.seq += 5
            stranger.say(StatusRequest(3))
            stranger.hear_reset()
            stranger.say(StatusRequest(4))
            stranger.hear_reset()
            stranger.hello()
            stranger.say(StatusRequest(5))
            assert stranger.hear(StatusReply).request == 5

    serves_during(cluster, attack)


def test_an_old_session_cannot_be_played_again_under_its_identity(cluster: LocalCluster, leader: str) -> None:
    identity = random_identity()

    def attack() -> None:
        with Stranger(leader, identity) as stranger:
            recorded = [stranger.hello(), stranger.frame([StatusRequest(1)])]
            stranger.raw(recorded[1])
            assert stranger.hear(StatusReply).request == 1
        with Stranger(leader, identity) as stranger:
            stranger.hello()
            for frame in recorded * 20:
                stranger.raw(frame)
            stranger.say(StatusRequest(2))
            assert stranger.hear(StatusReply).request == 2, "the new session stands"

    serves_during(cluster, attack)


# -- hellos ------------------------------------------------------------------------------------------------------


def test_hellos_that_are_refused_are_answered_with_the_reason(cluster: LocalCluster, leader: str) -> None:
    def attack() -> None:
        for fields, reason in (
            ({"cluster": "others"}, "this is a broker of cluster 'tests', not of 'others'"),
            ({"wire_version": 9}, "wire version 9 is not spoken here"),
            ({"group": 3}, "group 3 does not live here"),
            ({"role": 77}, "does not serve role 77"),
            ({"role": ROLE_BROKER}, "is not a broker of this topology"),
        ):
            with Stranger(leader) as stranger:
                for _ in range(20):
                    stranger.hello(**fields)
                    assert reason in stranger.hear(Refused).reason
                    stranger.say(StatusRequest(1))

    serves_during(cluster, attack)


def test_a_role_may_say_only_what_its_union_contains(cluster: LocalCluster, leader: str) -> None:
    def attack() -> None:
        with Stranger(leader) as stranger:
            stranger.hello()
            stranger.say(Complete(1, 1, 1, []))
            stranger.hello()
            stranger.say(Holding(1, 1, [1, 1], more=False))
            stranger.hello(role=ROLE_WORKER)
            stranger.say(Submit(1, 1, 1, []))
            stranger.hello(role=ROLE_WORKER)
            stranger.say(StatusRequest(1))
            stranger.hello()
            stranger.say(StatusRequest(2))
            assert stranger.hear(StatusReply).request == 2

    serves_during(cluster, attack)


def test_random_messages_in_the_name_of_a_broker_do_no_lasting_harm(cluster: LocalCluster, leader: str) -> None:
    """Whoever knows the cluster's id can do that until there are keys: the true broker takes its place again."""
    assert cluster.log is not None
    found = re.search(r"cluster_id=([0-9a-f]{32})", cluster.log.read_text())
    assert found is not None
    cluster_id = bytes.fromhex(found.group(1))
    plan = parse(cluster.topology.read_text(), str(cluster.topology))
    chance = random.Random(13)

    def attack() -> None:
        with Stranger(leader) as stranger:
            stranger.name = next(node.name for node in plan.brokers if node.address != leader)
            stranger.hello(role=ROLE_BROKER, broker=BrokerState(cluster_id, 1, 3, 1, quarantined=False))
            for size in range(200):
                stranger.say(RaftMessage(chance.randbytes(size)))
            stranger.say(ClockNews(2**62), ClockNews(-(2**62), 256, 77))

    serves_during(cluster, attack)


# -- commands ----------------------------------------------------------------------------------------------------


HUGE = 2**63 - 1
GROUP = TaskGroup("cluster_tasks:add", 1, [b"\x92\x91\x01\x80"])


def hostile_submits(session: int, seq: int) -> list[Submit]:
    """By a client with a session; `seq` is the next number. None of them may be accepted."""

    def submit(*groups: TaskGroup, seq: int = seq, low: int = 1, owner: int = session) -> Submit:
        return Submit(owner, seq, low, list(groups))

    def with_options(options: Options) -> Submit:
        return submit(TaskGroup("a", 1, [b"x"], options))

    return [
        submit(),
        submit(TaskGroup("", 1, [b""])),
        submit(TaskGroup("x" * MEGABYTE, 1, [b""])),
        submit(TaskGroup("x" * 513, 1, [b""])),
        submit(TaskGroup("a", 0, [b""])),
        submit(TaskGroup("a", -5, [b""])),
        submit(TaskGroup("a", HUGE, [b""])),
        submit(TaskGroup("a", 2**24 - 1, [b"", b"", b""])),
        submit(TaskGroup("a", 1, [b""] * 5_000)),
        submit(TaskGroup("a", 1, [bytes(MEGABYTE + 1)])),
        submit(TaskGroup("a", 1, [bytes(MEGABYTE)] * 7)),
        submit(*[TaskGroup("a", number, [bytes(MEGABYTE)]) for number in range(1, 8)]),
        submit(TaskGroup("a", 1, [b"x"], None, [Needs([])])),
        submit(TaskGroup("a", 1, [b"x"], None, [Needs([-1])])),
        submit(TaskGroup("a", 1, [b"x"], None, [Needs([1], [0])])),
        submit(TaskGroup("a", 1, [b"x"], None, [Needs([1]), Needs([1])])),
        submit(TaskGroup("a", 1, [b"x"] * 2, None, [Needs([1])])),
        submit(TaskGroup("a", 1, [b"x"], None, [Needs([1] * (NEEDS_MAX + 1))])),
        submit(TaskGroup("a", 1, [b"x"] * 64, None, [Needs([1] * 2_000)] * 64)),
        submit(GROUP, seq=0),
        submit(GROUP, seq=-1),
        submit(GROUP, seq=HUGE),
        submit(GROUP, seq=5 + seq),
        submit(GROUP, owner=0),
        submit(GROUP, owner=1),
        submit(GROUP, owner=HUGE),
        submit(GROUP, owner=-1),
        submit(GROUP, GROUP, GROUP),
        with_options(Options(queue="")),
        with_options(Options(queue="q" * MEGABYTE)),
        with_options(Options(priority=99)),
        with_options(Options(priority=-1)),
        with_options(Options(timeout_ms=0)),
        with_options(Options(timeout_ms=HUGE)),
        with_options(Options(delay_ms=-1)),
        with_options(Options(delay_ms=HUGE)),
        with_options(Options(expires_ms=-1)),
        with_options(Options(expires_ms=HUGE)),
        with_options(Options(result_ttl_ms=HUGE)),
        with_options(Options(result_ttl_ms=-HUGE)),
        with_options(Options(labels=("x" * 1_000,) * 1_000)),
        with_options(Options(labels=("x" * MEGABYTE,) * 7)),
    ]


def hostile_messages(session: int, seq: int, name: str, incarnation: int) -> list[msgspec.Struct]:
    """What else a client may say, and means nothing."""
    return [
        Cancel(session, seq, -HUGE, [0, -1, HUGE] * 10_000),
        Cancel(session, seq, 1, [0, -1, HUGE] * 100_000),
        Cancel(1, 1, 1, [1]),
        Seen(session, [HUGE, -HUGE, 3]),
        Seen(session, [1] * 1_000_000),
        Seen(1, [1, 1]),
        Close(1, incarnation),
        Close(HUGE, incarnation),
        Watch([0, -1, HUGE] * 1_000),
        Watch(list(range(100_000))),
        Describe(1, list(range(50_000))),
        Describe(-HUGE, [-1, 0, HUGE]),
        Lease(1, HUGE),
        Lease(session, -HUGE, (HUGE,) * 1_000, (1,) * 1_000),
        Register(name, incarnation, 77),
        Register(name, incarnation + 1, 2),
        Register("another", incarnation, 2),
        Register(name, incarnation, 1),
        Register(name, incarnation, 1, WorkerSpec(1, ("default",), ("cluster_tasks:add",))),
        Register(name, incarnation, 1, WorkerSpec(HUGE, ("default",), ("a",))),
        Register(name, incarnation, 2, WorkerSpec(-1, ("default",), ("a",), -7)),
        Register(name, incarnation, 2, WorkerSpec(1, ("q" * MEGABYTE,) * 7, ())),
    ]


def went_through(stranger: Stranger, session: int) -> None:
    """Everything so far was looked at: the next question is answered."""
    stranger.say(Lease(session, 4_711))
    while stranger.hear(LeaseAck).sent != 4_711:
        continue


def test_a_client_that_sends_nonsense_harms_nobody_else(cluster: LocalCluster, leader: str) -> None:
    before = cluster.status()["queues"]

    def attack() -> None:
        with Stranger(leader) as stranger:
            session = stranger.register()
            for number in range(len(hostile_submits(session, 0))):
                seq = stranger.next_seq(session)
                stranger.say(hostile_submits(session, seq)[number])
            for message in hostile_messages(session, stranger.next_seq(session), stranger.name, stranger.incarnation):
                stranger.say(message)
            went_through(stranger, session)
            seq = stranger.next_seq(session)
            assert seq > 10, "some of the commands were answered, with a refusal"
            stranger.say(Submit(session, seq, seq, [GROUP]))
            (result,) = stranger.hear(Results).items
            assert result.body == b"\x02", "a good one is still run"

    serves_during(cluster, attack)
    after = cluster.status()["queues"]
    assert [row["name"] for row in after] == [row["name"] for row in before], "nothing was accepted"
    for key in ("ready", "delayed", "failed", "dead", "expired", "parked"):
        assert [row[key] for row in after] == [row[key] for row in before]


def hostile_completions(session: int, seq: int) -> list[msgspec.Struct]:
    failure = Failure("x" * MEGABYTE, "y" * MEGABYTE, "z" * 4 * MEGABYTE, HUGE, HUGE, "w" * MEGABYTE)
    strange = [Outcome(HUGE, HUGE, 99, HUGE, HUGE, b"", Failure("E", "m", "t", HUGE, -HUGE, "s"))]
    return [
        Complete(session, seq, 1, strange),
        Complete(session, seq, 1, [Outcome(1 << 24 | 1, 1, 0, 0, 0, b""), Outcome(-1, -1, -1, -HUGE, -HUGE, b"")]),
        Complete(session, seq, 1, [Outcome(1 << 24 | 1, 1, 1, 0, 0, b"", failure)]),
        Complete(session, seq, 1, [Outcome(1, 1, 0, 0, 0, bytes(MEGABYTE))] * 7),
        Complete(session, seq, 1, [Outcome(1 << 24 | 1, 1, 0, 0, 0, b"")] * 50_000),
        Complete(session, seq + 9, 1, strange),
        Complete(1, 1, 1, strange),
        Holding(session, HUGE, [1, 2, 3], more=False),
        Holding(session, 1, [HUGE, -HUGE] * 1_000, more=True),
        Holding(1, 1, [1], more=False),
        Lease(session, 0, (HUGE,) * 10, (HUGE,) * 10),
    ]


def test_a_worker_that_sends_nonsense_ends_nobody_elses_tasks(cluster: LocalCluster, leader: str) -> None:
    spec = WorkerSpec(1, ("strange queue",), ("strange task",))

    def attack() -> None:
        with Stranger(leader) as stranger:
            session = stranger.register(spec)
            seq = 1
            for number in range(len(hostile_completions(session, 0))):
                message = hostile_completions(session, seq)[number]
                stranger.say(message)
                went_through(stranger, session)
                # The state answers whatever it gets with OK, and counts what it refuses in there.
                stranger.say(Complete(session, seq, seq, []))
                while stranger.hear(Answers).items[-1].seq < seq:
                    continue
                seq += 1
            stranger.say(Close(session, stranger.incarnation))
            stranger.hear_reset()

    serves_during(cluster, attack)
