"""Code of a user that blocks while virtual time passes.

A function that runs in the world's own thread has to return before anything else can happen. One that waits, for
`MemoryCluster.sleep`, for an answer of the cluster, for a coroutine, needs a stack of its own; so it runs in a thread,
which never runs beside the world's. They take turns: whoever hands over sleeps until it is handed back. What the
function waits for is something to await, and is awaited where its child would wait for it, in the world.

When the child is killed, whatever the function waits for raises Cut, so that the thread ends: SIGKILL would run no
`finally` block, here they run.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar, cast

from msgspec import structs

from actors import Nanos
from actors.simulation import ChildPort, Cut
from cluster.task import Running, running, running_here

T = TypeVar("T")

Make = Callable[[], Awaitable[Any]]

_NOBODY = structs.astuple(Running())
_here = threading.local()


class Ended(NamedTuple):
    """The function has returned, or raised."""

    value: Any
    error: BaseException | None


class Side:
    """The thread of one child; it is there when it is first needed, until the child ends. `interrupted` is called in
    it after each pause, which a signal may have ended: what that raises is raised where it sleeps."""

    def __init__(self, port: ChildPort, of: object) -> None:
        self.of = of                                # whose child it is
        self.interrupted: Callable[[], None] = lambda: None
        self._port = port
        self._thread: threading.Thread | None = None
        self._turn_here, self._turn_there = threading.Semaphore(0), threading.Semaphore(0)
        self._handed: Any = None                    # at a change of turns
        self._nap: asyncio.Future[None] | None = None       # that a signal may end
        self._is_cut = False
        self._is_lost = False                       # nobody waited for it: it may run at any time
        port.at_death(self._end)

    @property
    def is_there(self) -> bool:
        return self._thread is not None

    # -- in the world's thread ----------------------------------------------------------------------------------------

    async def run(self, function: Callable[[], object]) -> None:
        """Calls `function` in the thread; meanwhile the child waits for what it waits for. Raises what it raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name="memory cluster", daemon=True)
            self._thread.start()
        handed = self._switch(function)
        while not isinstance(handed, Ended):
            try:
                outcome = Ended(await handed(), None)
            except Exception as error:
                outcome = Ended(None, error)
            except asyncio.CancelledError as error:
                outcome = Ended(None, error)
            handed = self._switch(outcome)
        if handed.error is not None:
            raise handed.error

    def wake(self) -> bool:
        """Ends its pause, if it makes one."""
        if self._nap is None or self._nap.done():
            return False
        self._nap.set_result(None)
        return True

    def _switch(self, given: object) -> Any:
        self._handed = given
        self._turn_there.release()
        try:
            self._turn_here.acquire()
        except BaseException:           # Ctrl-C, while it runs
            self._is_lost = True
            raise
        return self._handed

    def _end(self) -> None:
        self._is_cut = True
        if self._thread is not None and not self._is_lost:
            self._turn_there.release()
            self._thread.join()

    # -- in its own ---------------------------------------------------------------------------------------------------

    def wait(self, make: Make) -> Any:
        """Lets the world go on until what `make()` gives, there, is done; returns or raises what comes of it."""
        mine = structs.astuple(running)             # others run meanwhile, and `running` is one for all of this process
        _set_running(_NOBODY)
        try:
            outcome = self._hand_over(make)
        finally:
            _set_running(mine)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def sleep(self, span: Nanos) -> None:
        until = self._port.now() + span
        while (left := until - self._port.now()) > 0:
            self.pause(left)

    def pause(self, span: Nanos | None = None) -> None:
        """Waits for so long at most, or until somebody wakes it: that may be a signal."""
        self.wait(lambda: self._doze(span))
        self.interrupted()

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the child's loop, as the attempt that runs here."""
        here = Running(*structs.astuple(running))

        async def done() -> T:
            context = copy_context()
            context.run(running_here.set, here)
            return await asyncio.get_running_loop().create_task(coroutine, context=context)

        try:
            return cast("T", self.wait(done))
        finally:
            here.id = 0

    async def _doze(self, span: Nanos | None) -> None:
        self._nap = nap = asyncio.get_running_loop().create_future()
        if span is not None:
            self._port.clock.call_at(self._port.now() + span, lambda: None if nap.done() else nap.set_result(None))
        await nap

    def _hand_over(self, make: Make) -> Ended:
        if self._is_cut:
            raise Cut
        self._handed = make
        self._turn_here.release()
        self._turn_there.acquire()
        if self._is_cut:
            raise Cut
        outcome = self._handed
        assert isinstance(outcome, Ended)
        return outcome

    def _live(self) -> None:
        _here.side = self
        while True:
            self._turn_there.acquire()
            if self._is_cut:
                return
            try:
                outcome = Ended(self._handed(), None)
            except BaseException as error:
                outcome = Ended(None, error)
            if self._is_cut:
                return
            self._handed = outcome
            self._turn_here.release()


def side_here() -> Side | None:
    """In whose thread this is; None in any other."""
    return getattr(_here, "side", None)


def _set_running(fields: tuple[Any, ...]) -> None:
    for name, value in zip(Running.__struct_fields__, fields, strict=True):
        setattr(running, name, value)
