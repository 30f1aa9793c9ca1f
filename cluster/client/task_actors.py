"""What `Client.actor` gives: a class of task actors seen from afar, with its methods as calls.

`await actor.predict(row)` gives the result, `await actor.predict.submit(row)` a handle. Attributes of an actor are its
tasks and nothing else, so that no name is lost to us. A type checker cannot derive them from the class; it can with the
method itself: `actor[Model.predict]` is the same as `actor.predict`, and typed.
"""

import difflib
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, overload

from cluster.client.handle import Batch, Handle
from cluster.task import CallOptions
from cluster.task_actor import MethodTask, TaskActor, checked_key, definition_of, is_actor

if TYPE_CHECKING:
    from cluster.client.blocking import BlockingBatch, BlockingClient, BlockingHandle
    from cluster.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Item = TypeVar("Item")
A = TypeVar("A", bound=TaskActor)


class ActorMethod(Generic[P, R]):
    """One method. Awaiting a call gives its result, or raises as `Client.submit` and `Handle` do."""

    __slots__ = ("_client", "_task")

    def __init__(self, client: "Client", task: MethodTask[P, R]) -> None:
        self._client = client
        self._task = task

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await (await self._client.submit(self._task, *args, **kwargs))

    async def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """As `Client.submit`: the handle, once a majority of the brokers has the call on disk."""
        return await self._client.submit(self._task, *args, **kwargs)

    # To type checkers, `self` is what it can be called with: from its own parameters they would not infer the item's.
    async def map(
        self: Callable[Concatenate[Item, ...], Coroutine[Any, Any, S]], items: Iterable[Item], /, **kwargs: Any
    ) -> Batch[S]:
        """As `Client.map`: a call for each item."""
        assert isinstance(self, ActorMethod)
        return await self._client.map(self._task, items, **kwargs)

    def options(self, **options: Unpack[CallOptions]) -> "ActorMethod[P, R]":
        """The same with other options. Raises TypeError for an unknown one, ValueError for one out of range."""
        return ActorMethod(self._client, self._task.options(**options))

    @property
    def is_called_as(self) -> str:
        """For who hands it to `submit` instead of calling it."""
        return _called_as(self._task)

    def __repr__(self) -> str:
        return f"<method {self._task.name}>"


class BlockingActorMethod(Generic[P, R]):
    """One method. A call waits for its result."""

    __slots__ = ("_client", "_task")

    def __init__(self, client: "BlockingClient", task: MethodTask[P, R]) -> None:
        self._client = client
        self._task = task

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._client.submit(self._task, *args, **kwargs).result()

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> "BlockingHandle[R]":
        """As `BlockingClient.submit`."""
        return self._client.submit(self._task, *args, **kwargs)

    def map(
        self: Callable[Concatenate[Item, ...], S], items: Iterable[Item], /, **kwargs: Any
    ) -> "BlockingBatch[S]":
        """As `BlockingClient.map`."""
        assert isinstance(self, BlockingActorMethod)
        return self._client.map(self._task, items, **kwargs)

    def options(self, **options: Unpack[CallOptions]) -> "BlockingActorMethod[P, R]":
        """The same with other options. Raises TypeError for an unknown one, ValueError for one out of range."""
        return BlockingActorMethod(self._client, self._task.options(**options))

    @property
    def is_called_as(self) -> str:
        """For who hands it to `submit` instead of calling it."""
        return _called_as(self._task)

    def task_for(self, client: "Client") -> MethodTask[P, R]:
        """For the executor of a client. Raises ValueError if that is not the one whose method this is."""
        if self._client._client is not client:
            raise ValueError(f"{self.is_called_as} is of another client: take it from the one that made the executor")
        return self._task

    def __repr__(self) -> str:
        return f"<method {self._task.name}>"


def _called_as(task: MethodTask[..., Any]) -> str:
    return f"cluster.actor({task.actor.__name__}).{task.name.rpartition('.')[2]}"


class ActorProxy(Generic[A]):
    """Any instance of the pool, or the one that owns a key. `Client.actor` makes it."""

    def __init__(self, client: "Client", actor: type[A], key: str | None) -> None:
        self.__calls = Calls(actor, key)
        self.__client = client

    @overload
    def __getitem__(self, method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], /) -> ActorMethod[P, R]: ...
    @overload
    def __getitem__(self, method: Callable[Concatenate[A, P], R], /) -> ActorMethod[P, R]: ...
    def __getitem__(self, method: Callable[..., Any], /) -> ActorMethod[..., Any]:
        return ActorMethod(self.__client, self.__calls.of(method))

    def __getattr__(self, name: str) -> ActorMethod[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name} is no task: private methods are none")
        return ActorMethod(self.__client, self.__calls.named(name))

    def __repr__(self) -> str:
        return f"<{self.__calls}>"


class BlockingActorProxy(Generic[A]):
    """The same for a blocking client."""

    def __init__(self, client: "BlockingClient", actor: type[A], key: str | None) -> None:
        self.__calls = Calls(actor, key)
        self.__client = client

    @overload
    def __getitem__(
        self, method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], /
    ) -> BlockingActorMethod[P, R]: ...
    @overload
    def __getitem__(self, method: Callable[Concatenate[A, P], R], /) -> BlockingActorMethod[P, R]: ...
    def __getitem__(self, method: Callable[..., Any], /) -> BlockingActorMethod[..., Any]:
        return BlockingActorMethod(self.__client, self.__calls.of(method))

    def __getattr__(self, name: str) -> BlockingActorMethod[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name} is no task: private methods are none")
        return BlockingActorMethod(self.__client, self.__calls.named(name))

    def __repr__(self) -> str:
        return f"<{self.__calls}>"


class Calls:
    """The tasks of one actor, for one key or for none."""

    def __init__(self, actor: type[TaskActor], key: str | None) -> None:
        if not is_actor(actor):
            raise TypeError(f"expected a subclass of TaskActor, not {actor!r}")
        self._actor = actor
        self._key = None if key is None else checked_key(key)

    def named(self, name: str) -> MethodTask[..., Any]:
        """Raises AttributeError for a name that is no task."""
        task = definition_of(self._actor).tasks.get(name)
        if task is None:
            raise AttributeError(self._no_task(name), name=name, obj=self._actor)
        return task if self._key is None else task.at(self._key)

    def of(self, method: object) -> MethodTask[..., Any]:
        """By the function as it is in the class. Raises TypeError for one that is no task of it."""
        for name, task in definition_of(self._actor).tasks.items():
            if task.function is method:
                return self.named(name)
        raise TypeError(f"{method!r} is no task of {self._actor.__qualname__}")

    def _no_task(self, name: str) -> str:
        actor, names = self._actor.__qualname__, list(definition_of(self._actor).tasks)
        if hasattr(self._actor, name):
            return f"{actor}.{name} is no task: tasks are the public methods, but for started and stopped"
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
        return f"{actor} has no method {name!r}: {hint}"

    def __str__(self) -> str:
        return f"actor {definition_of(self._actor).name}" + ("" if self._key is None else f" {self._key!r}")
