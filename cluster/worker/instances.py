"""The instances of TaskActors that live in one executor child.

There is one for each class that was called without a key, and one for each key of a class that this slot owns or has
owned. Nobody tells a child that a key has gone elsewhere. But each ownership has an epoch of its own, and tasks come
with theirs: a task of another epoch finds the key's old instance dropped and starts a new one. What is not asked for
again is dropped when there are too many, the one that was unused for longest first.

An instance is held from after its `started` until before its `stopped`: whatever these raise, a soft time limit in the
middle of them too, no task meets an instance that is half of one.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import Any

from cluster.errors import SoftTimeLimit
from cluster.task_actor import ActorContext, TaskActor

KEYED_INSTANCES_MAX = 1_024         # in one child

Kind = type[TaskActor]
Held = tuple[TaskActor, ActorContext]


class Instances:
    """`run` runs a coroutine of the user's to its end; `complain` is called while an error of a `stopped` is handled.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, None]], object], complain: Callable[[], None]) -> None:
        self._run = run
        self._complain = complain
        self._pool: OrderedDict[tuple[Kind, str], Held] = OrderedDict()
        self._keyed: OrderedDict[tuple[Kind, str], Held] = OrderedDict()    # the longest unused first

    def __len__(self) -> int:
        return len(self._pool) + len(self._keyed)

    def get(self, kind: Kind, key: str = "", epoch: int = 0) -> TaskActor:
        """The instance that is to run a task, started if there is none that can. Raises what `__init__` and `started`
        raise, and SoftTimeLimit in any case."""
        table, place = self._keyed if key else self._pool, (kind, key)
        held = table.get(place)
        if held is not None:
            instance, context = held
            if context.epoch == epoch and not context.is_over:
                table.move_to_end(place)
                return instance
            self._stop(table.pop(place))
        if key and len(self._keyed) == KEYED_INSTANCES_MAX:
            self._stop(self._keyed.popitem(last=False)[1])
        held = table[place] = self._start(kind, ActorContext(key, epoch))
        assert len(self._keyed) <= KEYED_INSTANCES_MAX
        return held[0]

    def close(self) -> None:
        """Stops all of them: the child ends in order."""
        for table in (self._keyed, self._pool):
            while table:
                self._stop(table.popitem()[1])

    def _start(self, kind: Kind, context: ActorContext) -> Held:
        instance = kind.__new__(kind)
        instance.context = context          # for its __init__ as well
        instance.__init__()                 # type: ignore[misc]
        started = instance.started()
        if iscoroutine(started):
            self._run(started)
        return instance, context

    def _stop(self, held: Held) -> None:
        """Its errors are not those of the task that is about to run."""
        try:
            stopped = held[0].stopped()
            if iscoroutine(stopped):
                self._run(stopped)
        except (SoftTimeLimit, SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            self._complain()
