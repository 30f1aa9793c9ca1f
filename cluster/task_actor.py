"""`TaskActor`: classes whose public methods are tasks, and whose instances keep state between them.

Defining the class registers one task for each public method, as `@task` does for a function, so that workers find it
by its name, `module:Class.method`. The functions stay what they are: inside the class, and in a test, a method is
just called. Instances that run tasks live in executor children (`cluster.worker.instances`); clients reach them through
`Client.actor`.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from copy import copy
from types import FunctionType, MethodType
from typing import Any, ParamSpec, TypeGuard, TypeVar, Unpack

from msgspec import Struct, structs

from cluster.encoding import Codec
from cluster.options import LIMITED_KEY, NAME_CHARACTERS_MAX, define_options, merge_options, take_fence
from cluster.state.commands import Options
from cluster.task import CallOptions, Task, TaskOptions, add_task

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., object])

KEY_BYTES_MAX = 256                 # of an actor's key, in UTF-8
NO_TASKS = ("started", "stopped")
OF_THE_CLASS = ("queue", "labels")  # options that say where instances live: methods of one class share them
MARK = "__quorumq_options__"        # on a function: what `@method` was given


class ActorContext:
    """What an instance of a TaskActor knows of itself: `self.context`."""

    __slots__ = ("epoch", "is_over", "key")

    def __init__(self, key: str = "", epoch: int = 0) -> None:
        self.key = key              # that it owns; "" = it serves calls without a key
        self.epoch = epoch          # of its ownership: a later owner of the key has a higher one
        self.is_over = False        # it was asked to restart

    def restart(self) -> None:
        """This instance is not used again: when the task that runs has ended, the next one gets a new one."""
        self.is_over = True


class TaskActor:
    """Base of classes whose public methods are tasks and which keep state between them.

    `class Model(TaskActor, timeout="30s", queue="models")` gives all methods these options of `@task`; `name=` gives
    the class a stable name instead of `module:Class`. `@method(...)` gives one method options of its own. An instance
    is made without arguments, in a worker's child, for the first task that needs it. It runs one task at a time, and
    its state is lost with the child. Raises TypeError and ValueError where the class is defined: for wrong options,
    an `__init__` that needs arguments, a second class of the same name.
    """

    context: ActorContext = ActorContext()      # in a worker, one of its own; this one is for instances that tests make

    def __init_subclass__(cls, *, name: str | None = None, **options: Unpack[TaskOptions]) -> None:
        super().__init_subclass__()
        _define(cls, name, options)

    def started(self) -> Coroutine[Any, Any, None] | None:
        """Called before the first task of this instance; may be `async`. What it raises fails that task, and the next
        one tries again with a new instance."""
        return None

    def stopped(self) -> Coroutine[Any, Any, None] | None:
        """Called when the instance is dropped or its child ends in order, not when the child is killed; may be
        `async`."""
        return None


class MethodTask(Task[P, R]):
    """One method of a TaskActor as a task; its arguments are those behind `self`. `Client.actor` makes calls of it."""

    def __init__(
        self, function: Callable[..., object], name: str, settings: Options, actor: type[TaskActor]
    ) -> None:
        super().__init__(function, name, settings)
        self.actor = actor
        self.is_coroutine = self.is_async
        self.is_async = False       # for who would run it beside others: an instance runs one task at a time
        self.__module__ = actor.__module__      # where workers find the class, whoever it has the method from

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        raise TypeError(f"{self.name} needs an instance: cluster.actor({self.actor.__name__}) has some")

    def options(self, **options: Unpack[CallOptions]) -> "MethodTask[P, R]":
        _refuse_of_the_class(options, self.name)
        fence, others = take_fence(options, self.fence)
        made = self._with(merge_options(self.settings, others))
        made.fence = fence
        return made

    def at(self, key: str) -> "MethodTask[P, R]":
        """For the instance that owns the key. Raises ValueError for a method with a limit or a share."""
        if self.settings.line is not None:
            raise ValueError(f"{self.name}: {LIMITED_KEY}")
        return self._with(structs.replace(self.settings, key=key, actor=definition_of(self.actor).name))

    @property
    def codec(self) -> Codec:
        codec = self._codec
        if codec is None:
            _check_init(self.actor)         # again: a decorator may have given the class another one
            codec = self._codec = Codec(self.name, MethodType(self.function, self.actor))     # takes no `self`
        return codec

    def _with(self, settings: Options) -> "MethodTask[P, R]":
        made = copy(self)
        made.settings = settings
        made._codec = self.codec            # one for all copies
        return made


class _Method:
    """`@method(...)`: leaves its options on the function."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options

    def __call__(self, function: Function, /) -> Function:
        if not isinstance(function, FunctionType):
            raise TypeError(f"@method takes a method of a TaskActor, not {function!r}")
        setattr(function, MARK, self._options)
        return function


def method(**options: Unpack[TaskOptions]) -> _Method:
    """Options of one method of a TaskActor, over those of its class: `@method(timeout="5m")`. Methods without it are
    tasks as well. Wrong options are refused when the class is defined; `queue` and `labels` are for the class only."""
    return _Method(options)


def checked_key(key: object) -> str:
    """Raises TypeError and ValueError for what is no key."""
    if not isinstance(key, str):
        raise TypeError(f"key: expected a str, not {key!r}; write str(...) around it, and mean the same one everywhere")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"key: {key!r} is no valid Unicode") from None
    if not 0 < size <= KEY_BYTES_MAX:
        raise ValueError(f"key: 1 to {KEY_BYTES_MAX} bytes of UTF-8 are allowed, not {size}")
    return key


class Definition(Struct, frozen=True):
    """What there is to know of a subclass of TaskActor."""

    name: str
    options: Mapping[str, object]                   # that it was given, over those of its bases
    tasks: Mapping[str, MethodTask[..., Any]]       # by the names of the methods


def definition_of(actor: type[TaskActor]) -> Definition:
    return _definitions[actor]


def is_actor(found: object) -> TypeGuard[type[TaskActor]]:
    """Whether it is a class with tasks."""
    return isinstance(found, type) and issubclass(found, TaskActor) and found is not TaskActor


def task_named(found: object, method: str) -> MethodTask[..., Any] | None:
    """The task of this method, if `found` is a class that has one."""
    return definition_of(found).tasks.get(method) if is_actor(found) else None


def check_actors() -> None:
    """Once all modules are imported: raises TypeError for a class whose `__init__` needs arguments. It may have got
    that after it was defined, by `@dataclass`."""
    for actor in _actors.values():
        _check_init(actor)


_definitions: dict[type, Definition] = {}
_actors: dict[str, type[TaskActor]] = {}
_last_made: dict[tuple[str, str], type] = {}    # by module and last name


def _define(cls: type[TaskActor], given_name: object, given: Mapping[str, object]) -> None:
    """Registers the class and its tasks."""
    given_name, given = _given(cls, given_name, given)
    name = _checked_name(cls, given_name)
    _check_unique(name, cls)
    _check_init(cls)
    options: dict[str, object] = {}
    for base in reversed(cls.__mro__[1:]):
        if base in _definitions:
            options |= _definitions[base].options
    options |= given
    _merge(options, cls.__qualname__)
    tasks = {method: _task(cls, name, method, function, options) for method, function in _public(cls)}
    for task in tasks.values():
        add_task(task)
    _definitions[cls] = Definition(name, given, tasks)
    _actors[name] = cls
    _last_made[cls.__module__, cls.__name__] = cls


def _given(cls: type[TaskActor], name: object, given: Mapping[str, object]) -> tuple[object, Mapping[str, object]]:
    """The name and options of the class. `@dataclass(slots=True)` and `attrs.define` make it a second time, of the same
    functions, and do not repeat what it was given, nor at this moment where it stands."""
    earlier = _last_made.get((cls.__module__, cls.__name__))
    if name is not None or given or earlier is None:
        return name, given
    functions = [(key, value) for key, value in vars(earlier).items() if isinstance(value, FunctionType)]
    if not functions or any(vars(cls).get(key) is not function for key, function in functions):
        return name, given
    cls.__qualname__ = earlier.__qualname__
    return _definitions[earlier].name, _definitions[earlier].options


def _task(
    cls: type[TaskActor], actor: str, method: str, function: Callable[..., object], options: Mapping[str, object]
) -> MethodTask[..., Any]:
    name = f"{actor}.{method}"
    if len(name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"{name!r}: tasks' names have up to {NAME_CHARACTERS_MAX} characters; give the class a name=")
    own: Mapping[str, object] = getattr(function, MARK, {})
    _refuse_of_the_class(own, f"{cls.__qualname__}.{method}")
    return MethodTask(function, name, _merge({**options, **own}, f"{cls.__qualname__}.{method}"), cls)


def _public(cls: type[TaskActor]) -> Iterable[tuple[str, Callable[..., object]]]:
    """Its methods that are tasks, its bases' among them."""
    for name in sorted({name for base in cls.__mro__ if base not in (TaskActor, object) for name in vars(base)}):
        if name.startswith("_") or name in NO_TASKS:
            continue
        found = inspect.getattr_static(cls, name)
        if isinstance(found, Task):
            raise TypeError(
                f"{cls.__qualname__}.{name} has @task above it: public methods of a TaskActor are tasks already; for "
                "options of its own put @method(...) there"
            )
        if isinstance(found, FunctionType):
            yield name, found


def _refuse_of_the_class(options: Mapping[str, object], where: str) -> None:
    """In another queue the same key would have another owner, and so a second instance."""
    for name in OF_THE_CLASS:
        if name in options:
            raise TypeError(f"{where}: {name} is an option of the class, and of no method: (TaskActor, {name}=...)")


def _merge(given: Mapping[str, object], where: str) -> Options:
    try:
        return define_options(given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def _checked_name(cls: type[TaskActor], name: object) -> str:
    if name is None:
        return f"{cls.__module__}:{cls.__qualname__}"
    if not isinstance(name, str):
        raise TypeError(f"{cls.__qualname__}: name= is a str, not {name!r}")
    if not name:
        raise ValueError(f"{cls.__qualname__}: name= is empty")
    return name


def _check_init(cls: type[TaskActor]) -> None:
    """Nobody would be there to give it arguments."""
    if cls.__init__ is object.__init__:
        return
    try:
        parameters = list(inspect.signature(cls.__init__).parameters.values())
    except ValueError:
        return                      # one of C's that does not say
    for parameter in parameters[1:]:
        is_optional = parameter.default is not parameter.empty
        if not is_optional and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{cls.__qualname__}.__init__ needs {parameter.name!r}, but workers make instances without arguments: "
                "read settings in started(), or from self.context.key"
            )


def _check_unique(name: str, cls: type[TaskActor]) -> None:
    """Two classes of one name: a worker would run the one that was defined last, whichever was called."""
    known = _actors.get(name)
    if known is None:
        return
    places = {(known.__module__, known.__qualname__), (cls.__module__, cls.__qualname__)}
    # A module may be loaded again, and a script that is run is __main__ as well as itself.
    if len(places) > 1 and not any(module == "__main__" for module, _ in places):
        first, second = (f"{module}:{qualname}" for module, qualname in sorted(places))
        raise ValueError(f"two actors are named {name!r}, {first} and {second}: give one of them another name=")
