"""The children of a memory cluster's workers: the executors are the real ones, and call the users' functions.

They are simulated processes of this one. So all children share modules and their globals with the test, which is what
lets a test replace something in them; and a function that ends its process for good (`os._exit`, a signal) ends the
test.

A plain function runs in the thread of the test, and takes no virtual time but what `Bodies.takes` says. Coroutines of
async tasks run on the loop of their worker's loop child, whose time is virtual. What else may wait runs on a side
(`cluster.testing.side`): task actors with async methods, async tasks that have a slot, and with `threads` everything.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from inspect import iscoroutinefunction
from typing import Any

from actors import SECOND, Nanos
from actors.simulation import ChildPort, World
from cluster.task import AsyncTask, Task, current, registered_tasks
from cluster.task_actor import MethodTask, definition_of
from cluster.testing.side import Side, side_here
from cluster.worker.child_messages import WARNING_SIGNAL, StartFailed, encode, setup_decoder
from cluster.worker.executor import Executor, load
from cluster.worker.loop_child import LOOP_ENTRY
from cluster.worker.loop_executor import BROKEN_STATUS, LoopExecutor
from cluster.worker.slot_child import EXECUTOR_ENTRY


class Bodies:
    """How the functions of one cluster's tasks run. `takes`: for how long before each attempt's call, by the names of
    tasks; the last entry counts for all further attempts."""

    def __init__(self, *, threads: bool) -> None:
        self.threads = threads
        self.takes: dict[str, tuple[Nanos, ...]] = {}

    def register(self, world: World) -> None:
        """Lets the children of this world's workers run them."""
        world.register_entry(EXECUTOR_ENTRY, self._slot)
        world.register_entry(LOOP_ENTRY, self._loop)

    def time_of(self, name: str, attempt: int) -> Nanos:
        spans = self.takes.get(name, (0,))
        return spans[min(attempt, len(spans)) - 1]

    # -- a slot -------------------------------------------------------------------------------------------------------

    async def _slot(self, port: ChildPort, argument: bytes) -> None:
        """What the executor's `main` does."""
        report = load(setup_decoder.decode(argument).modules)
        side = Side(port, self)
        executor = Executor(port, registered_tasks(), Runner())
        side.interrupted = executor.warn
        port.on_signal = lambda number: _signalled(number, side, executor)
        port.send(encode(report))
        if isinstance(report, StartFailed):
            return
        while True:
            while executor.claim():
                assignment = executor.running
                assert assignment is not None
                if span := self.time_of(assignment.name, assignment.attempt):
                    await port.work(span)
                if self._may_wait(registered_tasks().get(assignment.name)):
                    await side.run(executor.run)
                else:
                    port.call(executor.run)
            frame = port.poll()
            if frame is None:
                executor.flush()
                frame = await port.receive()
                if frame is None:
                    if side.is_there:
                        await side.run(executor.close)
                    else:
                        port.call(executor.close)
                    return
            executor.receive(frame)

    def _may_wait(self, task: Task[..., Any] | None) -> bool:
        if isinstance(task, MethodTask):
            actor = task.actor
            methods = [method.is_coroutine for method in definition_of(actor).tasks.values()]
            return self.threads or any(methods) or any(map(iscoroutinefunction, (actor.started, actor.stopped)))
        return self.threads or isinstance(task, AsyncTask)

    # -- the loop of async tasks --------------------------------------------------------------------------------------

    async def _loop(self, port: ChildPort, argument: bytes) -> None:
        """What the loop executor's `main` does."""
        report = load(setup_decoder.decode(argument).modules)
        port.send(encode(report))
        if isinstance(report, StartFailed):
            return
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(complain)
        executor = LoopExecutor(port, Slowed(registered_tasks(), self), loop)
        executor.ended.add_done_callback(_end_if_broken)
        while (frame := await port.receive()) is not None:
            executor.receive(frame)
        executor.close()
        await executor.ended


class Runner:
    """Completes the coroutines of slots."""

    def run(self, coroutine: Coroutine[Any, Any, object], /) -> object:
        side = side_here()
        if side is not None:
            return side.complete(coroutine)
        with asyncio.Runner() as runner:        # a plain `started` has returned one: nobody could have known
            return runner.run(coroutine)


class Slowed(Mapping[str, Task[..., Any]]):
    """Async tasks, some of which wait before they begin."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], bodies: Bodies) -> None:
        self._tasks = tasks
        self._bodies = bodies

    def __getitem__(self, name: str) -> Task[..., Any]:
        task, bodies = self._tasks[name], self._bodies
        if name not in bodies.takes or not isinstance(task, AsyncTask):
            return task
        assert task.codec                       # of its own function, for the copy as well
        slowed: AsyncTask[..., Any] = task.options()

        async def later(*args: object, **kwargs: object) -> object:
            await asyncio.sleep(bodies.time_of(name, current().attempt) / SECOND)
            return await task.function(*args, **kwargs)     # type: ignore[misc]

        slowed.function = later
        return slowed

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio does with an error that nobody caught, in a subtask that nobody awaits, say."""
    logging.getLogger("asyncio").error(context.get("message"), exc_info=context.get("exception"))


def _signalled(number: int, side: Side, executor: Executor) -> bool:
    """Of a soft time limit the task hears; any other signal ends the child."""
    if number != WARNING_SIGNAL:
        return False
    # What raises must raise on the side, not here. Who is about to begin looks by himself.
    coroutine = executor._coroutine
    if not side.wake() and coroutine is not None and not coroutine.done():
        executor.warn()
    return True


def _end_if_broken(ended: "asyncio.Future[None]") -> None:
    if not ended.cancelled() and ended.exception() is not None:
        raise SystemExit(BROKEN_STATUS)
