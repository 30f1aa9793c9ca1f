"""What users subclass."""

import inspect
from collections.abc import Callable
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from actors.messages import ExitReason

if TYPE_CHECKING:
    from actors.context import Context

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__handles__"


class Handler(NamedTuple):
    """One entry of a class's dispatch table."""

    function: Callable[[Any, Any], Any]
    is_async: bool


def handles(function: F) -> F:
    """Marks a method as the handler of messages of exactly the type that its second parameter is annotated
    with.

    The type may be a union. A value that it returns answers an ask; without a return statement the answer is
    None.
    """
    setattr(function, _MARK, True)
    return function


class Actor:
    """State, and handlers that run one at a time.

    A handler that raises ends the actor: its mailbox is lost, its monitors fire, its supervisor decides.
    While an async handler awaits, no other message is handled; callbacks (timers wait, those of endpoints do
    not) may run.
    """

    context: "Context"    # set before `started`
    handlers: ClassVar[dict[type, Handler]] = {}
    # Errors by which this actor refuses to run, those derived from them included, and no crash: it ends as Failed all
    # the same, but whoever watches it has the word; they are not logged.
    refusals: ClassVar[tuple[type[Exception], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: dict[type, Handler] = {}
        for function in vars(cls).values():
            if not getattr(function, _MARK, False):
                continue
            for message_type in _message_types(function):
                if message_type in own:
                    raise TypeError(f"{cls.__qualname__} has two handlers of {message_type.__qualname__}")
                own[message_type] = Handler(function, inspect.iscoroutinefunction(function))
        inherited: dict[type, Handler] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(getattr(base, "handlers", {}))
        cls.handlers = inherited | own

    def started(self) -> Any:
        """Runs before the first message. May be async."""

    def stopped(self, reason: ExitReason) -> None:
        """Runs last, after all children have ended, however the actor ended; but not if it was killed."""


def _message_types(function: Callable[..., Any]) -> list[type]:
    """The types that a handler is annotated to take."""
    name = function.__qualname__
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 2:
        raise TypeError(f"{name} must take self and one message")
    annotation = function.__annotations__.get(parameters[1])
    if isinstance(annotation, str):
        try:
            annotation = get_type_hints(function).get(parameters[1])
        except NameError as error:
            raise TypeError(f"{name}: the type of its message is not known here: {error}") from error
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for member in members:
        if not isinstance(member, type):
            raise TypeError(f"{name}: annotate its message with a class, or a union of classes")
    return list(members)
