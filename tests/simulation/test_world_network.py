"""Links between simulated processes: order, delay, loss, partitions, and what each end gets to know."""

from collections.abc import Callable

import pytest

from actors.errors import AddressInUse
from actors.runtime.ports import MILLISECOND, SECOND, Dialer, Listener, Ports, Sent
from actors.simulation import NetworkLimits, Process, World

CALM = NetworkLimits(hiccup_ppm=0)


class Hub:
    """Listens, and keeps what it hears."""

    def __init__(self, ports: Ports, address: str = "hub") -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.garbage: list[str] = []
        self.listener: Listener = ports.network.listen(
            address,
            on_message=lambda peer, data: self.heard.append((peer, data)),
            on_garbage=self.garbage.append,
        )

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.heard]


class Spoke:
    """Dials the hub, and keeps what it hears and what becomes of its link."""

    def __init__(self, ports: Ports, identity: bytes = b"s" * 16, address: str = "hub") -> None:
        self.ports = ports
        self.events: list[object] = []
        self.link: Dialer = ports.network.dial(
            address,
            identity,
            on_message=self.events.append,
            on_up=lambda: self.events.append("up"),
            on_down=lambda: self.events.append("down"),
        )

    def send_every(self, interval: int, count: int) -> None:
        def send(number: int = 0) -> None:
            self.link.send(b"%d" % number)
            if number + 1 < count:
                self.ports.clock.call_at(self.ports.clock.now() + interval, lambda: send(number + 1))

        send()


def pair(world: World, spoke: Callable[[Ports], Spoke] = Spoke) -> tuple[Process, Process]:
    """A hub and a spoke on machines of their own, connected."""
    hub, dialler = world.process("hub", Hub), world.process("spoke", spoke)
    assert world.run_until(lambda: dialler.value is not None and "up" in dialler.value.events, 5 * SECOND)
    return hub, dialler


def test_messages_go_both_ways_and_the_listener_knows_the_dialler_by_its_identity():
    world = World(1)
    hub, spoke = pair(world)
    assert spoke.value.link.send(b"hello")
    world.run_for(SECOND)
    assert hub.value.heard == [(b"s" * 16, b"hello")]
    assert hub.value.listener.send(b"s" * 16, b"welcome")
    assert not hub.value.listener.send(b"x" * 16, b"to nobody")
    world.run_for(SECOND)
    assert spoke.value.events == ["up", b"welcome"]


def test_messages_of_one_connection_arrive_in_order_whatever_their_delays():
    for seed in range(10):
        world = World(seed, network=NetworkLimits(jitter_ns=20 * MILLISECOND, hiccup_ppm=300_000))
        hub, spoke = pair(world)
        spoke.value.send_every(MILLISECOND // 2, 300)
        world.run_for(20 * SECOND)
        assert hub.value.data == [b"%d" % number for number in range(300)]


def test_messages_of_different_connections_may_overtake_each_other():
    """Delivery is not transitive: what A tells C may come after what B tells C because A told B."""
    overtaken = 0
    for seed in range(30):
        world = World(seed, network=NetworkLimits(jitter_ns=5 * MILLISECOND))

        def relay(ports: Ports) -> None:
            link = ports.network.dial("hub", b"b" * 16, on_message=drop, on_up=drop, on_down=drop)
            ports.network.listen("relay", on_message=lambda *_: link.send(b"relayed"), on_garbage=drop)

        hub, spoke = pair(world)
        world.process("relay", relay)
        far = world.process("far", lambda ports: Spoke(ports, b"f" * 16, "relay"))
        world.run_for(5 * SECOND)
        assert far.value.link.send(b"go")
        assert spoke.value.link.send(b"direct")
        world.run_for(SECOND)
        overtaken += hub.value.data == [b"relayed", b"direct"]
    assert 0 < overtaken < 30


def test_a_second_listener_on_an_address_is_refused_until_the_first_is_gone():
    world = World(1)
    hub, _ = pair(world)
    other = world.process("other", lambda ports: None)
    world.run_for(SECOND)
    assert other.ports is not None
    with pytest.raises(AddressInUse):
        Hub(other.ports)
    hub.value.listener.close()
    Hub(other.ports)


def test_a_crash_of_the_listener_is_on_down_and_its_next_incarnation_is_dialled_again():
    world = World(1)
    hub, spoke = pair(world)
    world.crash(hub)
    world.run_for(50 * MILLISECOND)
    assert spoke.value.events == ["up", "down"]
    assert not spoke.value.link.send(b"into the void")
    world.run_for(5 * SECOND)
    assert spoke.value.events == ["up", "down"]
    world.restart(hub)
    world.run_for(3 * SECOND)
    assert spoke.value.events == ["up", "down", "up"]
    assert spoke.value.link.send(b"again")
    world.run_for(SECOND)
    assert hub.value.data == [b"again"]


def test_the_last_messages_of_a_crashed_process_arrive_in_part_but_in_order():
    arrived = set()
    for seed in range(40):
        world = World(seed, network=CALM)
        hub, spoke = pair(world)
        for number in range(5):
            spoke.value.link.send(b"%d" % number)
        world.crash(spoke)
        world.run_for(SECOND)
        assert hub.value.data == [b"%d" % number for number in range(len(hub.value.data))]
        arrived.add(len(hub.value.data))
        assert not hub.value.listener.send(b"s" * 16, b"to the dead")
    assert {0, 5} <= arrived
    assert len(arrived) > 3


def test_a_machine_without_power_is_noticed_by_silence_only():
    world = World(1)
    hub, spoke = pair(world)
    world.power_off(hub.machine)
    spoke.value.send_every(100 * MILLISECOND, 100)
    world.run_for(2 * SECOND)
    assert spoke.value.events == ["up"]
    world.run_for(5 * SECOND)
    assert spoke.value.events == ["up", "down"]


def test_a_machine_that_is_back_resets_the_connections_of_its_former_life():
    world = World(1)
    hub, spoke = pair(world)
    world.power_off(hub.machine)
    world.run_for(SECOND)
    world.power_on(hub.machine)
    world.restart(hub)
    world.run_for(SECOND // 2)
    assert spoke.value.events == ["up"], "it has not sent anything yet"
    spoke.value.link.send(b"are you there?")
    world.run_for(2 * SECOND)
    assert spoke.value.events == ["up", "down", "up"]
    assert hub.value.data == []


def test_a_short_partition_delays_and_loses_nothing():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    cuts = world.network.partition([["hub"], ["spoke"]])
    spoke.value.send_every(10 * MILLISECOND, 50)
    hub.value.listener.send(b"s" * 16, b"hello")
    world.run_for(2 * SECOND)
    assert hub.value.heard == []
    world.network.mend(cuts)
    world.run_for(SECOND)
    assert hub.value.data == [b"%d" % number for number in range(50)]
    assert spoke.value.events == ["up", b"hello"]


def test_a_long_partition_breaks_the_connection_at_both_ends_and_is_redialled_when_mended():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    cuts = world.network.partition([["hub"], ["spoke"]])
    spoke.value.send_every(50 * MILLISECOND, 400)
    world.run_for(10 * SECOND)
    assert spoke.value.events == ["up", "down"]
    assert not hub.value.listener.send(b"s" * 16, b"gone")
    world.network.mend(cuts)
    world.run_for(5 * SECOND)
    assert spoke.value.events == ["up", "down", "up"]
    assert b"0" not in hub.value.data
    assert hub.value.data[-1] > b"200"


def test_a_one_way_cut_lets_the_other_direction_through():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    world.network.cut(["spoke"], ["hub"], both_ways=False)
    spoke.value.link.send(b"unheard")
    hub.value.listener.send(b"s" * 16, b"heard")
    world.run_for(SECOND)
    assert hub.value.data == []
    assert spoke.value.events == ["up", b"heard"]


def test_overlapping_partitions_are_mended_one_by_one():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    first = world.network.partition([["hub"], ["spoke"]])
    second = world.network.cut(["hub"], ["spoke", "nobody"])
    spoke.value.link.send(b"late")
    world.network.mend(first)
    world.run_for(SECOND)
    assert hub.value.data == []
    world.network.mend(second)
    world.run_for(SECOND)
    assert hub.value.data == [b"late"]


def test_processes_of_one_machine_are_never_partitioned():
    world = World(1)
    hub = world.process("hub", Hub, machine="m")
    spoke = world.process("spoke", Spoke, machine="m")
    world.run_for(SECOND)
    world.network.cut(["m"], ["m", "other"])
    assert spoke.value.link.send(b"next door")
    world.run_for(SECOND)
    assert hub.value.data == [b"next door"]


def test_a_lossy_link_makes_holes_and_a_duplicating_one_repeats_but_neither_reorders():
    world = World(1)
    hub, spoke = pair(world)
    world.network.lose("spoke", "hub", 300_000)
    spoke.value.send_every(MILLISECOND, 400)
    world.run_for(2 * SECOND)
    numbers = [int(data) for data in hub.value.data]
    assert numbers == sorted(set(numbers))
    assert 200 < len(numbers) < 360
    world = World(1, network=NetworkLimits(duplicate_ppm=300_000))
    hub, spoke = pair(world)
    spoke.value.send_every(MILLISECOND, 400)
    world.run_for(2 * SECOND)
    numbers = [int(data) for data in hub.value.data]
    assert numbers == sorted(numbers)
    assert len(numbers) > 450


def test_a_slow_link_delays_one_direction():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    world.network.slow("spoke", "hub", 500 * MILLISECOND)
    spoke.value.link.send(b"slow")
    world.run_for(400 * MILLISECOND)
    assert hub.value.data == []
    world.run_for(200 * MILLISECOND)
    assert hub.value.data == [b"slow"]


def test_a_broken_link_is_on_down_then_on_up_after_the_backoff():
    world = World(1, network=CALM)
    _, spoke = pair(world)
    assert world.network.break_links("hub", "spoke") == 1
    assert not spoke.value.link.send(b"down")
    world.run_for(90 * MILLISECOND)
    assert spoke.value.events == ["up", "down"]
    world.run_for(100 * MILLISECOND)
    assert spoke.value.events == ["up", "down", "up"]


def test_a_full_pipe_says_false_and_takes_more_once_the_receiver_has_read():
    world = World(1, network=NetworkLimits(pipe_messages_max=10))
    hub, spoke = pair(world)
    world.pause(hub)
    assert [bool(spoke.value.link.send(b"%d" % number)) for number in range(12)] == [True] * 10 + [False] * 2
    world.run_for(SECOND)
    assert not spoke.value.link.send(b"still full")
    world.resume(hub)
    world.run_for(SECOND)
    assert len(hub.value.data) == 10
    assert spoke.value.link.send(b"room again")


def test_one_message_larger_than_the_pipe_is_taken_when_the_pipe_is_empty():
    world = World(1, network=NetworkLimits(pipe_bytes_max=100))
    _, spoke = pair(world)
    assert spoke.value.link.send(bytes(1_000))
    assert not spoke.value.link.send(b"x")


def test_at_most_256_messages_are_drained_in_one_turn():
    world = World(1, network=NetworkLimits(pipe_messages_max=2_000))
    turns: list[int] = []

    def counting(ports: Ports) -> None:
        def message(peer: bytes, data: bytes) -> None:
            if not turns or turns[-1] == 0:
                ports.clock.call_soon(lambda: turns.append(0))
                turns.append(0)
            turns[-1] += 1

        ports.network.listen("hub", on_message=message, on_garbage=drop)

    hub, spoke = world.process("hub", counting), world.process("spoke", Spoke)
    world.run_for(SECOND)
    world.pause(hub)
    for _ in range(600):
        assert spoke.value.link.send(b"x")
    world.run_for(SECOND)
    world.resume(hub)
    world.run_for(SECOND)
    assert [count for count in turns if count] == [256, 256, 88]


def test_a_new_connection_under_the_same_identity_takes_it_over():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    again = world.process("again", lambda ports: Spoke(ports))
    world.run_for(50 * MILLISECOND)
    assert "down" in spoke.value.events
    assert hub.value.listener.send(b"s" * 16, b"to the newer")
    world.run_for(10 * MILLISECOND)
    assert again.value.events == ["up", b"to the newer"]


def test_a_closed_dialler_calls_back_no_more_and_a_closed_listener_is_dialled_in_vain():
    world = World(1)
    hub, spoke = pair(world)
    hub.value.listener.send(b"s" * 16, b"under way")
    spoke.value.link.close()
    world.run_for(SECOND)
    assert spoke.value.events == ["up"]
    assert not hub.value.listener.send(b"s" * 16, b"gone")
    other = world.process("other", lambda ports: Spoke(ports, b"o" * 16))
    world.run_for(SECOND)
    hub.value.listener.close()
    world.run_for(5 * SECOND)
    assert other.value.events == ["up", "down"]


def test_garbage_is_reported_to_the_listener():
    world = World(1)
    hub, _ = pair(world)
    world.network.garbage("hub", "10.0.0.9:5555")
    world.run_for(SECOND)
    assert hub.value.garbage == ["10.0.0.9:5555"]


def test_a_dialler_may_be_there_before_the_listener():
    world = World(1)
    spoke = world.process("spoke", Spoke)
    world.run_for(3 * SECOND)
    assert spoke.value.events == []
    world.process("hub", Hub)
    world.run_for(2 * SECOND)
    assert spoke.value.events == ["up"]


def test_what_a_dialler_sent_before_it_hung_up_arrives_whole_and_in_order():
    for seed in range(30):
        world = World(seed)
        hub, spoke = pair(world)
        for number in range(5):
            spoke.value.link.send(b"%d" % number)
        spoke.value.link.close()
        world.run_for(SECOND)
        assert hub.value.data == [b"0", b"1", b"2", b"3", b"4"]
        assert not hub.value.listener.send(b"s" * 16, b"gone")


def test_what_a_listener_sent_before_it_hung_up_arrives_before_the_news_of_it():
    for seed in range(30):
        world = World(seed)
        hub, spoke = pair(world)
        for number in range(5):
            hub.value.listener.send(b"s" * 16, b"%d" % number)
        hub.value.listener.close()
        world.run_for(SECOND)
        assert spoke.value.events == ["up", b"0", b"1", b"2", b"3", b"4", "down"]


def test_a_reset_by_what_comes_to_an_end_that_hung_up_does_not_overtake_what_that_end_sent():
    for seed in range(30):
        world = World(seed, network=NetworkLimits(jitter_ns=10 * MILLISECOND))
        hub, spoke = pair(world)
        for number in range(5):
            spoke.value.link.send(b"%d" % number)
            hub.value.listener.send(b"s" * 16, b"to one that has left")
        spoke.value.link.close()
        world.run_for(SECOND)
        assert hub.value.data == [b"0", b"1", b"2", b"3", b"4"]


def test_what_waits_behind_a_cut_when_its_sender_hangs_up_arrives_once_it_is_mended():
    world = World(1, network=CALM)
    hub, spoke = pair(world)
    cuts = world.network.partition([["hub"], ["spoke"]])
    spoke.value.link.send(b"goodbye")
    hub.value.listener.send(b"s" * 16, b"stay")
    spoke.value.link.close()
    world.run_for(SECOND)
    world.network.mend(cuts)
    world.run_for(SECOND)
    assert hub.value.data == [b"goodbye"]


def test_a_process_that_ends_by_itself_loses_nothing_of_what_it_sent():
    def saying_goodbye(ports: Ports) -> Spoke:
        spoke = Spoke(ports)

        def leave() -> None:
            for number in range(5):
                spoke.link.send(b"%d" % number)
            raise SystemExit(0)

        ports.clock.call_at(ports.clock.now() + SECOND, leave)
        return spoke

    for seed in range(30):
        world = World(seed)
        hub = world.process("hub", Hub)
        world.process("spoke", saying_goodbye)
        world.run_for(2 * SECOND)
        assert hub.value.data == [b"0", b"1", b"2", b"3", b"4"]


def test_a_network_that_is_closed_hangs_up_all_its_links_and_calls_back_no_more():
    world = World(1)
    hub, spoke = pair(world)
    ports = spoke.ports
    assert ports is not None
    other = Hub(ports, "other")
    far = world.process("far", lambda ports: Spoke(ports, b"f" * 16, "other"))
    world.run_for(SECOND)
    assert spoke.value.link.send(b"goodbye")
    assert other.listener.send(b"f" * 16, b"farewell")
    ports.network.close()
    ports.network.close()
    assert spoke.value.link.send(b"too late") is Sent.GONE
    assert other.listener.send(b"f" * 16, b"too late") is Sent.GONE
    world.run_for(SECOND)
    assert hub.value.data == [b"goodbye"]
    assert far.value.events == ["up", b"farewell", "down"]
    assert spoke.value.events == ["up"]
    Hub(hub.ports, "other")


def test_a_listener_tells_a_dialler_that_is_gone_from_one_that_does_not_read():
    world = World(1, network=NetworkLimits(pipe_messages_max=10))
    hub, spoke = pair(world)
    send = hub.value.listener.send
    assert send(b"x" * 16, b"never here") is Sent.GONE
    world.pause(spoke)
    assert [send(b"s" * 16, b"") for _ in range(11)] == [Sent.TAKEN] * 10 + [Sent.FULL]
    world.crash(spoke)
    world.run_for(SECOND)
    assert send(b"s" * 16, b"") is Sent.GONE


def drop(*_: object) -> None:
    pass
