"""Handles as arguments: the results of other tasks, passed on inside the cluster.

A handle stands for the result of its task, also inside lists, tuples, dicts and dataclasses; a batch, or a `group` of
handles, for the list of their results. In the body of the call that stands as a msgpack extension, whose value is a
place in the list of what the task needs; the executor puts the value there (`cluster.encoding`). A result that this
client has already, and that is small, is put into the body at once: then nothing has to be kept for it.

To type checkers a handle is no result. `after`, `group` say what they stand for instead of what they are, so that calls
are checked as if the results were there.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast, overload

import msgspec
from msgspec import Raw, Struct
from msgspec.msgpack import Ext

from cluster.errors import (
    DependencyError,
    DependencyFailed,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
)
from cluster.state.commands import INPUTS_BYTES_MAX, NEEDS_MAX, Failure, Needs
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD, STATE_FAILED, TaskResult
from cluster.state.inputs import END_NAMES, UNKNOWN_TASK, End

R = TypeVar("R")
T = TypeVar("T")

# Of extensions in the body of a call.
EXT_RESULT = 1          # a place among the results that it needs
EXT_OUTCOME = 2         # ... among the outcomes
EXT_END = 3             # an outcome that the client knew: an `End`
PLACE_BYTES = 4

KNOWN_BYTES_MAX = 64 * 1024     # of results that the client has already, put into one call
UNKNOWN = "unknown"

assert KNOWN_BYTES_MAX < INPUTS_BYTES_MAX

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_end = msgspec.msgpack.Decoder(End).decode


class Outcome(Struct, Generic[T], frozen=True):
    """What became of a task, for one that wants to see failures: `state` is "completed", "failed", "dead", "cancelled"
    or "expired"; "unknown" if its record was not kept. `value` is its result; `error` is type and message of what it
    failed or died of, as in "ValueError: no such file", cut to 2 KiB, or less if there are thousands of them."""

    task: int
    state: str
    value: T | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """It completed."""
        return self.state == "completed"

    def get(self) -> T:
        """Its result. Raises TaskFailed, TaskDead, TaskCancelled or TaskExpired as its handle would, without the
        traceback; DependencyFailed if its record was not kept."""
        if self.ok:
            return cast("T", self.value)
        kind, _, message = self.error.partition(": ")
        if self.state == "dead":
            raise TaskDead(Failure(kind, message), 0)
        if self.state == "cancelled":
            raise TaskCancelled(f"task {self.task} was cancelled")
        if self.state == "expired":
            raise TaskExpired(f"task {self.task} expired before it could run, or run again")
        if self.state == UNKNOWN:
            raise DependencyFailed(f"task {self.task} {UNKNOWN_TASK}", self.task, UNKNOWN, self.task)
        raise TaskFailed(kind, message)


class Need(NamedTuple):
    """A task that is needed, the client that knows it, and its record if that has come."""

    task: int
    client: object
    record: TaskResult | None


class OneResult(Generic[R]):
    """What stands for the result of one task: handles."""

    __slots__ = ()

    def _need(self) -> Need:
        raise NotImplementedError


class ManyResults(Generic[R]):
    """What stands for a list of results: batches."""

    __slots__ = ()

    def members(self) -> list[OneResult[R]]:
        """What stands for each single result, in order, as a handle does: arguments of other tasks."""
        return [_Member(need) for need in self._needs()]

    def _needs(self) -> list[Need]:
        raise NotImplementedError


class _Member(OneResult[R]):
    __slots__ = ("_known",)

    def __init__(self, known: Need) -> None:
        self._known = known

    def _need(self) -> Need:
        return self._known


class Group:
    """What `group` and `after` make: the results of these, or what became of them; a list unless `is_one`."""

    __slots__ = ("_needs", "is_one", "of_outcomes")

    def __init__(self, needs: list[Need], *, of_outcomes: bool, is_one: bool = False) -> None:
        self._needs = needs
        self.of_outcomes = of_outcomes
        self.is_one = is_one

    def __iter__(self) -> Iterator[Need]:
        return iter(self._needs)

    def __len__(self) -> int:
        return len(self._needs)

    def __repr__(self) -> str:
        return f"<{'outcome' if self.of_outcomes else 'result'}s of {len(self)} tasks>"


Member = OneResult[R] | ManyResults[R] | Iterable[OneResult[R]]


@overload
def group(*members: Member[R]) -> list[R]: ...
@overload
def group(*members: Member[R], outcomes: Literal[False]) -> list[R]: ...
@overload
def group(*members: Member[R], outcomes: Literal[True]) -> list[Outcome[R]]: ...
def group(*members: Member[Any], outcomes: bool = False) -> Any:
    """The results of many tasks, as one argument of a task that waits for them: `submit(report, group(jobs))`.

    Members are handles, batches, and lists of handles; the task gets one list, in their order. It fails without having
    run (DependencyFailed) if one of them ends without a result; with `outcomes` it gets an Outcome of each instead.
    Raises DependencyError for other members.
    """
    needs: list[Need] = []
    for member in members:
        if isinstance(member, OneResult):
            needs.append(member._need())
        elif isinstance(member, ManyResults):
            needs += member._needs()
        else:
            needs += _handles(member)
    return Group(needs, of_outcomes=outcomes)


@overload
def after(handle: OneResult[R]) -> R: ...
@overload
def after(handle: OneResult[R], *, outcome: Literal[False]) -> R: ...
@overload
def after(handle: OneResult[R], *, outcome: Literal[True]) -> Outcome[R]: ...
def after(handle: OneResult[Any], *, outcome: bool = False) -> Any:
    """The result of one task, as an argument of a task that waits for it: `submit(resize, after(download), 200)`. The
    handle itself does the same; this has the type of the result. With `outcome` the task gets an Outcome, whatever
    becomes of the other. Raises DependencyError for what is no handle."""
    if not isinstance(handle, OneResult):
        raise _no_handle(handle)
    return Group([handle._need()], of_outcomes=outcome, is_one=True)


def _handles(member: object) -> list[Need]:
    if not isinstance(member, Iterable) or isinstance(member, str | bytes | dict | Group):
        raise _no_handle(member)
    found: list[Need] = []
    for handle in member:
        if not isinstance(handle, OneResult):
            raise _no_handle(handle)
        found.append(handle._need())
    return found


def _no_handle(value: object) -> DependencyError:
    if isinstance(value, ManyResults):
        return DependencyError(value, "is no handle, but a batch", "write group(batch), without a list around it")
    if isinstance(value, Group):
        return DependencyError(value, "is no handle, but what `after` or `group` made", "pass it on as it is")
    if isinstance(value, int) and not isinstance(value, bool):
        return DependencyError(value, "is no handle, but an id", f"write cluster.handle({value})")
    return DependencyError(value, "is no handle", "handles that submit gave, batches and lists of handles are allowed")


class References:
    """What is found in the arguments of one call."""

    __slots__ = ("_known_bytes", "clients", "outcomes", "results")

    def __init__(self) -> None:
        self.results: dict[int, int] = {}       # task -> its place
        self.outcomes: dict[int, int] = {}
        self.clients: dict[int, Need] = {}      # of each client that knows some: one of its tasks
        self._known_bytes = 0

    def refer(self, value: object) -> object:
        """The hook of an encoder: what stands in the body for what it cannot encode. Raises DependencyError."""
        if isinstance(value, OneResult):
            return self._one(value._need(), as_outcome=False)
        if isinstance(value, ManyResults):
            return [self._one(need, as_outcome=False) for need in value._needs()]
        if isinstance(value, Group):
            found = [self._one(need, as_outcome=value.of_outcomes) for need in value]
            return found[0] if value.is_one else found
        raise NotImplementedError(f"Encoding objects of type {type(value).__qualname__} is unsupported")

    @property
    def needs(self) -> Needs | None:
        """None: all was there."""
        if not self.results and not self.outcomes:
            return None
        return Needs(list(self.results), list(self.outcomes))

    def _one(self, need: Need, *, as_outcome: bool) -> object:
        self.clients.setdefault(id(need.client), need)
        record = need.record
        if record is not None and (as_outcome or record.state == STATE_COMPLETED):
            known = _encode(_end(record)) if as_outcome else record.body
            if self._known_bytes + len(known) <= KNOWN_BYTES_MAX:
                self._known_bytes += len(known)
                return Ext(EXT_END, known) if as_outcome else Raw(known)
        places = self.outcomes if as_outcome else self.results
        place = places.setdefault(need.task, len(places))
        if len(self.results) + len(self.outcomes) > NEEDS_MAX:
            raise DependencyError(
                need.task, f"is one too many: a task needs at most {NEEDS_MAX} others", "collect them in several steps"
            )
        return Ext(EXT_OUTCOME if as_outcome else EXT_RESULT, place.to_bytes(PLACE_BYTES, "big"))


def _end(record: TaskResult) -> End:
    error = record.error
    if record.state not in (STATE_FAILED, STATE_DEAD) or error is None:
        return End(record.task, record.state, record.body)
    return End(record.task, record.state, b"", error.type, error.message)


# -- where the task runs ----------------------------------------------------------------------------------------------


class Values:
    """What the tasks that a call needs have become: the hook of the decoder that reads the call."""

    __slots__ = ("_outcomes", "_results", "has_outcomes")

    def __init__(self, results: list[End], outcomes: list[End]) -> None:
        self._results = results
        self._outcomes = outcomes
        self.has_outcomes = False       # that were put somewhere

    def look_up(self, code: int, data: memoryview) -> object:
        """The value of an extension. Raises DependencyFailed for a result that is not there, ValueError for what no
        client of ours says."""
        if code == EXT_END:
            return self._outcome(_decode_end(data))
        place = int.from_bytes(data, "big")
        ends = self._results if code == EXT_RESULT else self._outcomes
        if code not in (EXT_RESULT, EXT_OUTCOME) or place >= len(ends):
            raise ValueError(f"an extension of type {code} that refers to nothing")
        end = ends[place]
        if code == EXT_OUTCOME:
            return self._outcome(end)
        if end.state != STATE_COMPLETED:
            raise DependencyFailed(f"task {end.task} {UNKNOWN_TASK}", end.task, UNKNOWN, end.task)
        return _decode(end.body)

    def _outcome(self, end: End) -> Outcome[Any]:
        self.has_outcomes = True
        if end.state == STATE_COMPLETED:
            return Outcome(end.task, END_NAMES[end.state], _decode(end.body))
        error = f"{end.error_type}: {end.message}" if end.message else end.error_type
        return Outcome(end.task, END_NAMES.get(end.state, UNKNOWN), None, error)
