"""One simulated process to run actors in, for the tests of this directory."""

from collections.abc import Callable, Coroutine
from typing import Any

from actors import SECOND, ActorSystem, Ports
from actors.simulation import World

LIMIT_NS = 1_000 * SECOND


def run_in_world(main: Callable[[ActorSystem], Coroutine[Any, Any, Any]], seed: int = 1) -> Any:
    """Runs `main(system)` in one simulated process until it returns, and returns its value."""
    with World(seed) as world:

        async def start(ports: Ports) -> Any:
            return await main(ActorSystem(ports))

        process = world.process("only", start)
        assert world.run_until(lambda: process.value is not None and process.value.done(), LIMIT_NS)
        return process.value.result()


def log_of(world: World, name: str) -> list[dict[str, object]]:
    """The fields of all events of this name that any process has logged."""
    return [fields for _, _, event, fields in world.log if event == name]


async def pause(system: ActorSystem, nanos: int) -> None:
    """Lets virtual time pass."""
    import asyncio

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    clock = system.ports.clock
    clock.call_at(clock.now() + nanos, lambda: future.set_result(None))
    await future
