"""Actors on other nodes, addressed alike: two simulated machines, and a real child process."""

import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from actor_world import pause
from msgspec import Struct

from actors import (
    SECOND,
    Actor,
    ActorSystem,
    AskDied,
    AskNotFound,
    AskOverloaded,
    AskTimeout,
    Down,
    Failed,
    Lost,
    MailboxSpec,
    Normal,
    NotFound,
    Ports,
    handles,
    run,
)
from actors.simulation import World

ADDRESS = "b:7000"


class Point(Struct, tag=True):
    x: int


class Boom(Struct, tag=True):
    pass


class Stop(Struct, tag=True):
    pass


class Wait(Struct, tag=True):
    seconds: int


class Unencodable(Struct, tag=True):
    pass


class Echo(Actor):
    def __init__(self) -> None:
        self.seen: list[int] = []

    @handles
    def on_point(self, message: Point) -> Point:
        self.seen.append(message.x)
        return Point(message.x + 1)

    @handles
    def on_boom(self, message: Boom) -> None:
        raise RuntimeError("boom")

    @handles
    def on_stop(self, message: Stop) -> None:
        self.context.stop()

    @handles
    async def on_wait(self, message: Wait) -> int:
        await pause(self.context.system, message.seconds * SECOND)
        return message.seconds

    @handles
    def on_unencodable(self, message: Unencodable) -> object:
        return object()


class Watcher(Actor):
    def __init__(self) -> None:
        self.reasons: list[Any] = []

    @handles
    def on_down(self, message: Down) -> None:
        self.reasons.append(message.reason)


class Two:
    """Two nodes: b listens and runs an Echo, a has dialled it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.b_actor = Echo()
        self.b = world.process("b", self._start_b)
        self.systems: dict[str, ActorSystem] = {}

    def _start_b(self, ports: Ports) -> None:
        system = self.systems["b"] = ActorSystem(ports, "b")
        self.b_actor = Echo()
        system.spawn(self.b_actor, name="echo", mailbox=MailboxSpec(10))
        system.listen(ADDRESS)


def with_two_nodes(main: Callable[[ActorSystem, Two], Coroutine[Any, Any, Any]]) -> Any:
    with World(1) as world:
        two = Two(world)

        async def start(ports: Ports) -> Any:
            system = ActorSystem(ports, "a")
            system.connect(ADDRESS)
            await pause(system, SECOND)
            assert system.remote.nodes() == ["b"]
            return await main(system, two)

        process = world.process("a", start)
        assert world.run_until(lambda: process.value is not None and process.value.done(), 1_000 * SECOND)
        return process.value.result()


def test_tells_and_asks_reach_an_actor_by_name_and_answers_have_their_types():
    async def main(system, two):
        typed, plain = system.ref("b", "echo", Echo), system.ref("b", "echo")
        assert typed.tell(Point(1))
        assert await typed.ask(Point(2), SECOND) == Point(3)
        assert await plain.ask(Point(3), SECOND) == {"type": "Point", "x": 4}
        return two.b_actor.seen

    assert with_two_nodes(main) == [1, 2, 3]


def test_the_node_that_was_dialled_may_ask_back():
    async def main(system, two):
        system.spawn(Echo(), name="here")
        answer = two.systems["b"].ref("a", "here", Echo).tell(Point(5))
        await pause(system, SECOND)
        return answer, system.lookup("here").target.actor.seen

    assert with_two_nodes(main) == (True, [5])


def test_every_ask_of_another_node_ends_in_its_own_way():
    async def main(system, two):
        echo = system.ref("b", "echo", Echo)
        with pytest.raises(AskNotFound, match="no actor named"):
            await system.ref("b", "nobody").ask(Point(1), SECOND)
        with pytest.raises(AskNotFound, match="does not handle"):
            await echo.ask({"not": "a message"}, SECOND)
        with pytest.raises(AskTimeout):
            await echo.ask(Wait(5), SECOND)
        with pytest.raises(AskDied, match="cannot be encoded"):
            await echo.ask(Unencodable(), 9 * SECOND)
        with pytest.raises(AskDied, match="node nowhere is lost"):
            await system.ref("nowhere", "echo").ask(Point(1), SECOND)
        echo.tell(Wait(5))
        await pause(system, SECOND)
        asks = [echo.ask(Point(1), 60 * SECOND) for _ in range(11)]
        with pytest.raises(AskOverloaded):
            await asks[10]
        assert [await ask for ask in asks[:10]] == [Point(2)] * 10
        with pytest.raises(AskDied, match="boom") as caught:
            await echo.ask(Boom(), SECOND)
        assert isinstance(caught.value.reason, Failed)
        with pytest.raises(TypeError):
            echo.tell(object())

    with_two_nodes(main)


def test_monitors_see_the_end_of_an_actor_elsewhere_exactly_once():
    async def main(system, two):
        watcher = Watcher()
        system.spawn(watcher)
        echo = system.ref("b", "echo")
        watcher.context.monitor(echo)
        watcher.context.monitor(echo)
        watcher.context.demonitor(watcher.context.monitor(echo))
        watcher.context.monitor(system.ref("b", "nobody"))
        await pause(system, SECOND)
        echo.tell(Stop())
        await pause(system, SECOND)
        assert len(two.systems["b"].monitors) == 0
        assert len(system.monitors) == 0
        return watcher.reasons

    assert with_two_nodes(main) == [NotFound(), Normal(), Normal()]


def test_a_watcher_that_ends_is_forgotten_on_the_other_node():
    async def main(system, two):
        watcher = Watcher()
        ref = system.spawn(watcher)
        await pause(system, SECOND)
        watcher.context.monitor(system.ref("b", "echo"))
        await pause(system, SECOND)
        before = len(two.systems["b"].monitors)
        ref.target.kill()
        await pause(system, SECOND)
        return before, len(two.systems["b"].monitors)

    assert with_two_nodes(main) == (1, 0)


def test_a_node_that_is_killed_is_lost_once_even_if_it_returns():
    """W6, and A4: a killed process is a crash like any other."""

    async def main(system, two):
        watcher = Watcher()
        system.spawn(watcher)
        echo = system.ref("b", "echo", Echo)
        watcher.context.monitor(echo)
        watcher.context.monitor(echo)
        ask = echo.ask(Wait(60), 600 * SECOND)
        await pause(system, SECOND)
        two.world.restart(two.b)
        with pytest.raises(AskDied) as caught:
            await ask
        assert caught.value.reason == Lost("b")
        await pause(system, 9 * SECOND)
        assert watcher.reasons == [Lost("b"), Lost("b")]
        assert await echo.ask(Point(1), SECOND) == Point(2)

    with_two_nodes(main)


def test_a_node_that_is_silent_is_lost_on_both_sides_and_found_again():
    async def main(system, two):
        watcher = Watcher()
        system.spawn(watcher)
        echo = system.ref("b", "echo", Echo)
        watcher.context.monitor(echo)
        await pause(system, SECOND)
        cuts = two.world.network.cut(["a"], ["b"])
        await pause(system, 5 * SECOND)
        assert watcher.reasons == [Lost("b")]
        assert two.systems["b"].remote.nodes() == []
        two.world.network.mend(cuts)
        await pause(system, 20 * SECOND)
        assert two.systems["b"].remote.nodes() == ["a"]
        assert await echo.ask(Point(1), SECOND) == Point(2)
        assert watcher.reasons == [Lost("b")]

    with_two_nodes(main)


CHILD = """
import asyncio, sys
from actors import ActorSystem, run
sys.path.insert(0, sys.argv[2])
from test_remote import Echo

async def main(ports):
    system = ActorSystem(ports, "child")
    system.spawn(Echo(), name="echo")
    system.connect(sys.argv[1])
    await asyncio.get_running_loop().create_future()

run(main)
"""


def test_an_actor_in_a_child_process_is_addressed_like_any_other_and_its_kill_is_seen():
    async def main(ports: Ports) -> None:
        system = ActorSystem(ports, "parent")
        address = system.listen("127.0.0.1:0")
        folder = __file__.rsplit("/", 1)[0]
        child = subprocess.Popen([sys.executable, "-c", CHILD, address, folder])
        try:
            watcher, echo = Watcher(), system.ref("child", "echo", Echo)
            system.spawn(watcher)
            for _ in range(2_000):
                if system.remote.nodes() == ["child"]:
                    break
                await pause(system, SECOND // 100)
            assert await echo.ask(Point(1), 5 * SECOND) == Point(2)
            watcher.context.monitor(echo)
            ask = echo.ask(Wait(60), 60 * SECOND)
            await pause(system, SECOND // 10)
            child.kill()
            with pytest.raises(AskDied):
                await ask
            await pause(system, SECOND // 10)
            assert watcher.reasons == [Lost("child")]
        finally:
            child.kill()
            child.wait()
            system.stop()

    run(main)
