"""The nodes of one machine under `launch`: in which order they start, and what a refusal ends, in virtual time."""

from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from actors import SECOND, ActorSystem, Endpoint, Peer, Ports
from actors.simulation import ChildPort, World
from cluster.node_report import (
    EXIT_AGAIN,
    EXIT_DRAINED,
    EXIT_NO_ROOM,
    EXIT_OPERATOR,
    EXIT_UNUSABLE,
    Drained,
    Ready,
    Refused,
    encode,
)
from cluster.node_tree import Launch, NodeSpec, Stop
from cluster.stand_in import StandInConfig
from cluster.wire import CUT_OFF_UNKNOWN, End, FromWorker, Hello, StandingBy, Welcome

ENTRY = "node:main"
LIMIT = 60 * SECOND
LEADER = "leader:1"


class Machine:
    """`launch` with three brokers and two workers. `lives[name]` says how each process of a node goes: "ready" and
    then it runs, "silent", an exit status, or both as "ready 73", with "drained" before it of a worker that has ended
    three tasks; the last one is repeated.
    """

    def __init__(self, **lives: list[str]) -> None:
        self.lives = lives
        self.log: list[tuple[str, dict[str, object]]] = []
        self.started: list[str] = []
        self.ended = False
        names = ("b1", "b2", "b3", "w1", "w2")
        stand_ins = {"w": StandInConfig("tests", (("leader", LEADER),))}
        specs = [
            NodeSpec(name, ENTRY, name.encode(), is_broker=name[0] == "b", stand_in=stand_ins.get(name[0]))
            for name in names
        ]
        self.launch = Launch(specs)
        self.world = World(1)
        self.world.register_entry(ENTRY, self._node)
        self.world.on_log.append(lambda process, name, fields: self.log.append((name, fields)))
        self.world.process("launch", self._start)

    async def _start(self, ports: Ports) -> None:
        system = ActorSystem(ports)
        self.ref = system.spawn(self.launch, name="launch")
        await system.wait_stopped()
        self.ended = True

    def _node(self, port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        name = argument.decode()
        self.started.append(name)
        lives = self.lives.get(name, ["ready"])
        life = lives.pop(0) if len(lives) > 1 else lives[0]
        return self._live(port, life.split())

    async def _live(self, port: ChildPort, life: list[str]) -> None:
        for step in life:
            if step == "ready":
                port.send(encode(Ready()))
            elif step == "drained":
                port.send(encode(Drained(3)))
            elif step.isdigit():
                port.send(encode(Refused(f"reason {step}")))
                raise SystemExit(int(step))
        await port.receive()

    def lead(self) -> "Leader":
        """A broker that stand-ins follow."""
        leader = Leader()
        self.world.process("leader", leader.start)
        return leader

    def run(self, seconds: int = 1) -> None:
        self.world.run_for(seconds * SECOND)


class Leader:
    """Hears what stand-ins say, and may ask them back."""

    def __init__(self) -> None:
        self.standing: dict[str, bool] = {}
        self.cut_off: dict[str, int] = {}
        self.peers: dict[str, Peer] = {}

    def start(self, ports: Ports) -> None:
        Endpoint(ports, b"L" * 16).listen(
            LEADER,
            hello_decoder=msgspec.msgpack.Decoder(list[Hello]),
            on_hello=self.on_hello,
            on_messages=self.on_messages,
            on_closed=lambda peer: None,
        )

    def on_hello(self, peer: Peer, hello: Hello) -> Any:
        self.peers[hello.node] = peer
        peer.send(Welcome("leader", 1, 1, "leader"))
        return msgspec.msgpack.Decoder(list[FromWorker])

    def on_messages(self, peer: Peer, messages: list[Any]) -> None:
        (node,) = (name for name, known in self.peers.items() if known is peer)
        for message in messages:
            if isinstance(message, StandingBy):
                self.standing[node] = message.stands
                self.cut_off[node] = message.cut_off


def test_workers_start_when_all_brokers_are_ready():
    machine = Machine()
    machine.run()
    assert set(machine.started[:3]) == {"b1", "b2", "b3"}
    assert set(machine.started[3:]) == {"w1", "w2"}
    machine = Machine(b2=["silent"])
    machine.run(600)
    assert sorted(machine.started) == ["b1", "b2", "b3"]


def test_a_launch_says_once_when_all_its_nodes_are_ready():
    machine = Machine(b2=["ready 70"])
    machine.run(60)
    assert [fields for name, fields in machine.log if name == "ready"] == [{"brokers": 3, "workers": 2}]
    machine = Machine(w1=["silent"])
    machine.run(60)
    assert "ready" not in [name for name, _ in machine.log]


def test_a_broker_that_crashes_does_not_keep_the_workers_waiting():
    machine = Machine(b2=["70", "silent"])
    machine.run()
    assert sorted(machine.started) == ["b1", "b2", "b2", "b3", "w1", "w2"]


def test_workers_start_once_however_often_a_broker_is_started_again():
    machine = Machine(b2=["ready 70"])
    machine.run(60)
    assert machine.started.count("b2") > 5
    assert machine.started.count("w1") == 1


def test_a_launch_that_is_refused_has_started_no_worker_and_logs_nothing():
    machine = Machine(b3=[str(EXIT_OPERATOR)], b2=["silent"])
    assert machine.world.run_until(lambda: machine.ended, LIMIT)
    assert machine.launch.refusal is not None
    assert (machine.launch.refusal.node, machine.launch.refusal.reason) == ("b3", "reason 2")
    assert set(machine.started) <= {"b1", "b2", "b3"}
    assert machine.log == []


def test_a_disk_without_room_is_a_refusal_at_the_start():
    machine = Machine(b3=[str(EXIT_UNUSABLE)])
    assert machine.world.run_until(lambda: machine.ended, LIMIT)
    assert machine.launch.refusal is not None and machine.launch.refusal.node == "b3"


def test_a_node_that_ran_waits_for_room_with_its_reason_in_the_log_and_the_others_go_on():
    machine = Machine(b3=["ready 70", str(EXIT_UNUSABLE), str(EXIT_UNUSABLE), "ready"])
    machine.run(10)
    assert machine.launch.refusal is None and not machine.ended
    assert machine.started.count("b3") == 4
    exits = [fields for name, fields in machine.log if name == "node_exited"]
    assert [(fields["node"], fields["code"]) for fields in exits] == [("b3", 70), ("b3", 73), ("b3", 73)]
    assert exits[-1]["reason"] == "reason 73"


def test_a_node_that_ran_and_is_refused_for_another_reason_ends_the_launch():
    machine = Machine(b3=["ready 70", str(EXIT_OPERATOR)])
    assert machine.world.run_until(lambda: machine.ended, LIMIT)
    assert machine.launch.refusal is not None


def test_a_stop_before_the_brokers_are_ready_starts_no_worker():
    machine = Machine(b2=["silent"])
    machine.run()
    machine.ref.tell(Stop())
    assert machine.world.run_until(lambda: machine.ended, LIMIT)
    assert "w1" not in machine.started


def test_a_broker_with_a_log_waits_for_room_even_before_it_ran_and_the_others_go_on():
    machine = Machine(b3=[str(EXIT_NO_ROOM), str(EXIT_NO_ROOM), "ready"])
    machine.run(10)
    assert machine.launch.refusal is None and not machine.ended
    assert machine.started.count("b3") == 3
    assert {"w1", "w2"} <= set(machine.started)
    exits = [fields for name, fields in machine.log if name == "node_exited"]
    assert [(fields["code"], fields["reason"]) for fields in exits] == [(75, "reason 75")] * 2


@pytest.mark.parametrize("name", ["b1", "w1"])
def test_a_node_that_an_operator_ended_is_started_again_at_once_and_is_no_crash(name):
    machine = Machine(**{name: [f"ready {EXIT_AGAIN}", f"ready {EXIT_AGAIN}", f"ready {EXIT_AGAIN}", "ready"]})
    machine.run()
    assert machine.started.count(name) == 4, "without a pause, however often"
    assert machine.launch.refusal is None and not machine.ended
    again = [fields["node"] for event, fields in machine.log if event == "node_again"]
    assert again == [name] * 3 and "node_exited" not in [event for event, _ in machine.log]


def test_an_end_that_was_asked_for_starts_the_pauses_after_crashes_over():
    machine = Machine(w1=["ready 70", "ready 70", "ready 70", f"ready {EXIT_AGAIN}", "ready 70", "ready"])
    machine.run(2)
    assert machine.started.count("w1") == 6


def test_a_drained_worker_stays_out_and_its_stand_in_says_so():
    machine = Machine(w1=[f"ready {EXIT_DRAINED}", "ready"])
    leader = machine.lead()
    machine.run(120)
    assert machine.started.count("w1") == 1 and machine.started.count("w2") == 1
    assert leader.standing == {"w1": True}
    assert [event for event, _ in machine.log if event.startswith("node")] == ["node_out"]


def test_a_stand_in_says_how_many_tasks_the_drain_has_ended_and_forgets_it_with_the_worker():
    machine = Machine(w1=[f"ready drained {EXIT_DRAINED}", f"ready {EXIT_DRAINED}"], w2=[f"ready {EXIT_DRAINED}"])
    leader = machine.lead()
    machine.run()
    assert leader.cut_off == {"w1": 3, "w2": CUT_OFF_UNKNOWN}
    machine.world.run_for(60 * SECOND)
    assert leader.cut_off["w1"] == 3, "it is said again and again"
    leader.peers["w1"].send(End(again=True))
    machine.run(10)
    assert leader.standing["w1"] and leader.cut_off["w1"] == CUT_OFF_UNKNOWN


def test_a_drained_worker_comes_back_when_it_is_asked_for_and_only_then():
    machine = Machine(w1=[f"ready {EXIT_DRAINED}", "ready"])
    leader = machine.lead()
    machine.run()
    leader.peers["w1"].send(End(again=False))
    machine.run(10)
    assert machine.started.count("w1") == 1
    leader.peers["w1"].send(End(again=True))
    machine.run(10)
    assert machine.started.count("w1") == 2
    assert leader.standing == {"w1": False}


def test_a_worker_may_be_drained_again_and_again():
    machine = Machine(w1=[f"ready {EXIT_DRAINED}", f"ready {EXIT_DRAINED}", f"ready {EXIT_DRAINED}", "ready"])
    leader = machine.lead()
    for lives in range(1, 4):
        machine.run()
        assert machine.started.count("w1") == lives
        leader.peers["w1"].send(End(again=True))
    machine.run()
    assert machine.started.count("w1") == 4


def test_a_launch_stops_while_a_worker_is_out():
    machine = Machine(w1=[f"ready {EXIT_DRAINED}"])
    leader = machine.lead()
    machine.run()
    machine.ref.tell(Stop())
    assert machine.world.run_until(lambda: machine.ended, LIMIT)
    assert leader.standing == {"w1": False}
    assert machine.launch.refusal is None


@pytest.mark.parametrize("name", ["b1", "w1"])
def test_a_node_that_is_refused_after_an_operator_restarted_it_is_tried_again_and_the_others_go_on(name):
    """New code that cannot be imported, for example: whoever deploys it should not lose the neighbours as well."""
    machine = Machine(**{name: [f"ready {EXIT_AGAIN}", f"ready {EXIT_OPERATOR}", f"ready {EXIT_OPERATOR}", "ready"]})
    machine.run(10)
    assert machine.launch.refusal is None and not machine.ended
    assert machine.started.count(name) == 4
    exits = [fields for event, fields in machine.log if event == "node_exited"]
    assert [(fields["code"], fields["reason"]) for fields in exits] == [(EXIT_OPERATOR, "reason 2")] * 2
