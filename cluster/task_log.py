"""`current().log`: Python's own logging, whose lines are kept with the attempt that says them.

One logger for all tasks of a process, and an adapter for each attempt that knows whose lines they are. So what a thread
of a task says is its task's, and what a thread says when its task has ended is nobody's. Lines go on to the handlers
that a program has set up for itself; without any they are kept with the attempt only.

Each line has the executor's time of day, in UTC, and its level. A line that cannot be formatted is reported as Python
reports it, on stderr, and does not fail the task.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cluster.task import CurrentTask, Running

LOGGER = "cluster.task"
SAID_BY = "cluster_task"            # the attribute of a record that says whose line it is, and where that runs
LINE_CHARACTERS_MAX = 16 * 1024     # of one line; only its end could be kept


class LineSink(Protocol):
    """Where the lines of the attempt that runs go."""

    def add(self, number: int, text: str) -> None: ...


class Tail(Protocol):
    """Memory for the end of a log."""

    def write(self, number: int, line: bytes) -> None: ...


class Lines:
    """Writes lines with their time into the memory of one executor."""

    def __init__(self, tail: Tail, wall_ms: Callable[[], int]) -> None:
        self._tail = tail
        self._wall_ms = wall_ms

    def add(self, number: int, text: str) -> None:
        time = datetime.fromtimestamp(self._wall_ms() / 1_000, UTC).isoformat(timespec="milliseconds")
        line = f"{time.removesuffix('+00:00')}Z {text[-LINE_CHARACTERS_MAX:]}\n"
        self._tail.write(number, line.encode("utf-8", "backslashreplace"))


class TaskHandler(logging.Handler):
    """Hands each line to the attempt that said it, if that still runs."""

    def emit(self, record: logging.LogRecord) -> None:
        said = getattr(record, SAID_BY, None)
        if said is None:
            return
        task, now = said
        if now is not None and now.lines is not None and (now.id, now.attempt) == (task.id, task.attempt):
            try:
                now.lines.add(now.number, self.format(record))
            except Exception:
                self.handleError(record)


def _make_logger() -> logging.Logger:
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    handler = TaskHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger


_logger = _make_logger()


class _Adapter(logging.LoggerAdapter[logging.Logger]):
    """Adds whose line it is to what the caller says in `extra`."""

    def process(self, msg: object, kwargs: "dict[str, object]") -> "tuple[object, dict[str, object]]":  # type: ignore[override]
        extra = kwargs.get("extra")
        kwargs["extra"] = {**(extra if isinstance(extra, dict) else {}), **(self.extra or {})}
        return msg, kwargs


def task_logger(task: "CurrentTask", now: "Running | None") -> "logging.LoggerAdapter[logging.Logger]":
    """The logger of one attempt; `now` is what runs where it was asked for, None if that is another one by now."""
    # A program that sets up its logging with `dictConfig` or `fileConfig` disables all loggers that are there already.
    _logger.disabled = False
    return _Adapter(_logger, {SAID_BY: (task, now)})
