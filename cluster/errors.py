"""What callers may have to handle, in one flat tree. Every error says what happened and carries its data."""

import builtins
from typing import Literal, Self

from cluster.durations import waited_text
from cluster.state.commands import Failure, Unmet
from cluster.state.inputs import END_NAMES

RequestOutcome = Literal["refused", "unknown"]

SHOWN_CHARACTERS_MAX = 80      # of a value that is wrong, in a message


class ClusterError(Exception):
    """Base of every error that the package raises on purpose."""


class TopologyError(ClusterError):
    """The topology file is wrong; the message names the key, and the line where it can be found."""


class ScheduleError(ClusterError, ValueError):
    """A schedule that cannot be. `place` is what of it is wrong ("minute", "tz", "every"), `value` what stands there,
    `allowed` what would be right."""

    def __init__(self, place: str, value: str, problem: str, allowed: str) -> None:
        shown = value if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[:SHOWN_CHARACTERS_MAX]}..."
        super().__init__(f'{place}: "{shown}" {problem}; {allowed}')
        self.place = place
        self.value = value
        self.allowed = allowed


class ScheduleNotFound(ClusterError):
    """The cluster has no schedule of this name: no worker has announced one, or it was deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'the cluster has no schedule "{name}": workers announce those of their modules when they start; '
            "`cluster.schedules()` and `quorumq cron` list them"
        )
        self.name = name


class ScheduleRefused(ClusterError):
    """What was asked of the schedule `name` cannot be done now; `reason` says why, `task` is the run that is in the
    way."""

    def __init__(self, name: str, reason: str, task: int | None = None) -> None:
        super().__init__(f'schedule "{name}": {reason}')
        self.name = name
        self.reason = reason
        self.task = task


class TaskNotFound(ClusterError):
    """Not a `@task` function, or one that workers cannot import because it lives in `__main__`. Or an id that the
    cluster has no record of: the result is no longer kept, or there never was such a task."""


class EncodeError(ClusterError):
    """An argument or a result is of a type that cannot travel; the message says which one."""


class BodyTooLarge(ClusterError):
    """The encoded arguments or the encoded result exceed `limit_bytes`."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what}: {size_bytes} bytes encoded, the limit is {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class TaskFailed(ClusterError):
    """The task's function raised, or it ran past its time limit.

    `type` and `message` are those of the remote exception, `traceback` is its text, `log` the end of what the attempt
    logged. Where the original type can be built here, it is the `__cause__`.
    """

    def __init__(
        self,
        type: str,
        message: str,
        traceback: str = "",
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        stderr: str = "",
        log: str = "",
    ) -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = stderr
        self.log = log

    @classmethod
    def from_failure(cls, failure: Failure) -> Self:
        """From the record of an attempt that did not complete."""
        error = cls(
            failure.type,
            failure.message,
            failure.traceback,
            exit_code=failure.exit_code if failure.exit_code >= 0 else None,
            signal=failure.signal if failure.signal >= 0 else None,
            stderr=failure.stderr,
            log=failure.log,
        )
        error.__cause__ = _original(failure)
        return error


class DependencyFailed(TaskFailed):
    """The task did not run, for it needs the result of `task`, which has none. `state` says how that ended: "failed",
    "dead", "cancelled" or "expired"; "unknown" if the cluster has no record of it. `cause` is the first task of those
    that ended so: `task` itself, or one that this needed in its turn."""

    def __init__(self, message: str, task: int, state: str, cause: int) -> None:
        super().__init__("DependencyFailed", message)
        self.task = task
        self.state = state
        self.cause = cause

    @classmethod
    def from_unmet(cls, message: str, unmet: Unmet) -> Self:
        return cls(message, unmet.task, END_NAMES.get(unmet.state, "unknown"), unmet.cause)


class DependencyError(ClusterError, ValueError):
    """A handle among the arguments of a call that cannot be there. `value` is it, or its id, `allowed` what would be
    right."""

    def __init__(self, value: object, problem: str, allowed: str) -> None:
        shown = f"task {value}" if isinstance(value, int) else repr(value)
        if len(shown) > SHOWN_CHARACTERS_MAX:
            shown = f"{shown[:SHOWN_CHARACTERS_MAX]}..."
        super().__init__(f"{shown} {problem}; {allowed}")
        self.value = value
        self.allowed = allowed


class TaskDead(ClusterError):
    """The task ended its child process, or was alone at its slot when its worker was lost, three times; `evidence` is
    that of the last one."""

    def __init__(self, evidence: Failure, attempts: int) -> None:
        super().__init__(f"gave up after {attempts} attempts: {evidence.type}: {evidence.message}")
        self.evidence = evidence
        self.attempts = attempts


class TaskCancelled(ClusterError):
    """The task was cancelled before it finished."""


class TaskExpired(ClusterError):
    """The task's `expires` passed before it started, or before it was tried again."""


class SoftTimeLimit(ClusterError):
    """Raised inside a task, wherever its Python code is, when it has run for its `soft_timeout`: time to finish or to
    clean up, before its `timeout` ends the process. For `retry` it is a TimeoutError; it is none, and no OSError, for
    code on the way that waits for input and tries again."""


class Overloaded(ClusterError):
    """No more work is taken for now; nothing was accepted. Try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ClusterError):
    """No leader could be reached. `outcome` says whether the request may still have been accepted
    ("unknown").
    """

    def __init__(self, message: str, outcome: RequestOutcome) -> None:
        super().__init__(message)
        self.outcome: RequestOutcome = outcome


class DeadlineExceeded(ClusterError, TimeoutError):
    """The request's deadline passed. `outcome` says whether it may still have been accepted ("unknown")."""

    def __init__(self, message: str, outcome: RequestOutcome) -> None:
        super().__init__(message)
        self.outcome: RequestOutcome = outcome


class LockLost(ClusterError):
    """The lock `name` is not held any more, under the fence that it was held under, and what it protects may be
    another's by now; `reason` says why. Of a submit with a `fence`: it was not accepted, and `name` is "". Of a `map`
    with one: the items that came before the loss were accepted."""

    def __init__(self, name: str, fence: int, reason: str) -> None:
        lost = f'lock "{name}" is lost (fence {fence})' if name else f"no lock is held under fence {fence}"
        super().__init__(f"{lost}: {reason}")
        self.name = name
        self.fence = fence
        self.reason = reason


class LockBusy(ClusterError, TimeoutError):
    """Others held the lock `name` for as long as was to be waited; `waited` is in seconds, 0 if it was not to."""

    def __init__(self, name: str, waited: float, reason: str = "others hold it") -> None:
        given_up = f"; it is not waited for any more, after {waited_text(waited)}" if waited else ""
        super().__init__(f'lock "{name}" is busy: {reason}{given_up}')
        self.name = name
        self.waited = waited


class LockMismatch(ClusterError):
    """The lock `name` is in use as something else: a mutex, a semaphore of another size, a read-write lock."""

    def __init__(self, name: str, asked_as: str, in_use_as: str) -> None:
        super().__init__(
            f'lock "{name}" is in use as a {in_use_as}, and was asked for as a {asked_as}: give one of them another '
            "name, or the same kind and size everywhere"
        )
        self.name = name
        self.asked_as = asked_as
        self.in_use_as = in_use_as


def error_name(kind: type[BaseException]) -> str:
    """How an exception's type is named in records: short if it is Python's own or one of this module, else with its
    module."""
    short = kind.__module__ == "builtins" or issubclass(kind, ClusterError)
    return kind.__qualname__ if short else f"{kind.__module__}.{kind.__qualname__}"


def _original(failure: Failure) -> BaseException | None:
    """The original exception, if it is one of Python's own that is built from its message alone.

    Others are not built: that would run an import or a constructor because of what came over the wire.
    """
    kind = getattr(builtins, failure.type, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    try:
        return kind(failure.message)
    except Exception:                      # UnicodeDecodeError and the like want more than a message
        return None
