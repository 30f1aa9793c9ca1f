"""`Backoff`: how often, after what and after which pause a task that raised is tried again."""

from dataclasses import dataclass

from cluster.durations import Duration, milliseconds
from cluster.errors import error_name
from cluster.state.commands import RETRIES_MAX, RETRY_FACTOR_MAX, RETRY_TYPES_MAX, RetryRule
from cluster.state.texts import is_name


@dataclass(frozen=True, slots=True)
class Backoff:
    """Up to `times` retries. The n-th comes `first * factor ** (n - 1)` after the failure, at most `cap`; with
    `jitter` up to half of that less, so that tasks which failed together do not come back together.

    `on` are the exceptions that are worth a retry, their subclasses included; without it all are that the function
    raises. They are compared by name, of the type and of its bases, with the module: nothing is imported for that.
    `TimeoutError` stands for the task's time limit as well. What cannot go better the next time is never tried again:
    arguments that do not fit, a result that cannot be encoded.

    Raises TypeError for a field of another type, ValueError for one out of range.
    """

    times: int = 3
    first: Duration = "1s"
    cap: Duration = "10m"
    factor: int = 2
    jitter: bool = True
    on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        _check_integer("times", self.times, RETRIES_MAX)
        _check_integer("factor", self.factor, RETRY_FACTOR_MAX, minimum=1)
        if not isinstance(self.jitter, bool):
            raise TypeError(f"Backoff: jitter: expected True or False, not {self.jitter!r}")
        first_ms, cap_ms = milliseconds("Backoff: first", self.first), milliseconds("Backoff: cap", self.cap)
        if cap_ms < first_ms:
            raise ValueError(f"Backoff: cap: {self.cap!r} is less than first, which is {self.first!r}")
        if not isinstance(self.on, tuple):
            raise TypeError(f"Backoff: on: expected a tuple of exception types, not {self.on!r}")
        for kind in self.on:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(f"Backoff: on: {kind!r} is no type of exception")
        for name in map(error_name, self.on):
            if not is_name(name):
                raise ValueError(f"Backoff: on: the name {name[:40]}... is too long")
        if len(self.on) > RETRY_TYPES_MAX:
            raise ValueError(f"Backoff: on: at most {RETRY_TYPES_MAX} types are allowed")

    @property
    def rule(self) -> RetryRule:
        """As it travels."""
        return RetryRule(
            milliseconds("first", self.first),
            milliseconds("cap", self.cap),
            self.factor,
            self.jitter,
            tuple(sorted({error_name(kind) for kind in self.on})),
        )


def _check_integer(what: str, value: object, maximum: int, minimum: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Backoff: {what}: expected an integer, not {value!r}")
    if not minimum <= value <= maximum:
        raise ValueError(f"Backoff: {what}: {value} is out of range, {minimum} to {maximum} are allowed")
