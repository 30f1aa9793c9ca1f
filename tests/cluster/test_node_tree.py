"""The nodes of one machine under `launch`: in which order they start, and what a refusal ends, in virtual time."""

from collections.abc import Coroutine
from typing import Any

from actors import SECOND, ActorSystem, Ports
from actors.simulation import ChildPort, World
from cluster.node_report import EXIT_NO_ROOM, EXIT_OPERATOR, EXIT_UNUSABLE, Ready, Refused, encode
from cluster.node_tree import Launch, NodeSpec, Stop

ENTRY = "node:main"
LIMIT = 60 * SECOND


class Machine:
    """`launch` with three brokers and two workers. `lives[name]` says how each process of a node goes: "ready" and
    then it runs, "silent", an exit status, or both as "ready 73"; the last one is repeated.
    """

    def __init__(self, **lives: list[str]) -> None:
        self.lives = lives
        self.log: list[tuple[str, dict[str, object]]] = []
        self.started: list[str] = []
        self.ended = False
        names = ("b1", "b2", "b3", "w1", "w2")
        specs = [NodeSpec(name, ENTRY, name.encode(), is_broker=name.startswith("b")) for name in names]
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
            elif step.isdigit():
                port.send(encode(Refused(f"reason {step}")))
                raise SystemExit(int(step))
        await port.receive()

    def run(self, seconds: int = 1) -> None:
        self.world.run_for(seconds * SECOND)


def test_workers_start_when_all_brokers_are_ready():
    machine = Machine()
    machine.run()
    assert set(machine.started[:3]) == {"b1", "b2", "b3"}
    assert set(machine.started[3:]) == {"w1", "w2"}
    machine = Machine(b2=["silent"])
    machine.run(600)
    assert sorted(machine.started) == ["b1", "b2", "b3"]


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
