"""Evidence: what failed attempts left behind, and how much of it is kept.

A traceback, the tail of stderr and what the attempt logged may take 16 KiB, and up to ten attempts of a task are kept.
So the total is limited: when there is more, the oldest attempts lose these texts, in the order in which they ended,
also those of tasks that are yet to end. An attempt that completed is here as well if it has logged. The attempt itself
stays, with the type and the message of its error: they are part of the record, and counted there (`retention`).
"""

from collections import OrderedDict

from msgspec import structs

from cluster.state.tasks import Attempt, Task, TaskTable

EVIDENCE_BYTES_MAX = 64 * 1024 * 1024
EVIDENCE_OVERHEAD_BYTES = 256       # of one attempt: many short texts are bounded as well


class Evidence:
    """Attempts that have a traceback, stderr or a log, oldest first. Invariant: `bytes` is the sum of `attempts`."""

    __slots__ = ("attempts", "bytes")

    def __init__(self) -> None:
        self.attempts: OrderedDict[tuple[int, int], int] = OrderedDict()    # (task, number of the attempt) -> size
        self.bytes = 0

    def record(self, task: Task, attempt: Attempt) -> None:
        """An attempt of a task has ended."""
        dropped = task.record(attempt)
        if dropped is not None:
            self._drop(task.id, dropped)
        size = evidence_bytes(attempt)
        if size:
            self.attempts[task.id, attempt.number] = size
            self.bytes += size

    def forget(self, task: Task) -> None:
        """A task is forgotten."""
        for attempt in task.attempts or ():
            self._drop(task.id, attempt)

    def enforce(self, tasks: TaskTable) -> int:
        """Blanks the oldest texts until the rest is within the limit; returns of how many attempts. What one entry
        adds bounds what is to be blanked after it."""
        blanked = 0
        while self.bytes > EVIDENCE_BYTES_MAX:
            (number, attempt), size = self.attempts.popitem(last=False)
            self.bytes -= size
            task = tasks.get(number)
            assert task is not None, f"evidence of the forgotten task {number}"
            _blank(task, attempt)
            blanked += 1
        return blanked

    def _drop(self, task: int, attempt: Attempt) -> None:
        self.bytes -= self.attempts.pop((task, attempt.number), 0)


def evidence_bytes(attempt: Attempt) -> int:
    """What the texts of an attempt that may be blanked are counted with; 0 if it has none."""
    error = attempt.error
    if error is None or not (error.traceback or error.stderr or error.log):
        return 0
    return EVIDENCE_OVERHEAD_BYTES + text_bytes(error.traceback) + text_bytes(error.stderr) + text_bytes(error.log)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _blank(task: Task, number: int) -> None:
    assert task.attempts is not None
    for place, attempt in enumerate(task.attempts):
        if attempt.number == number:
            assert attempt.error is not None
            error = structs.replace(attempt.error, traceback="", stderr="", log="")
            task.attempts[place] = structs.replace(attempt, error=error)
            return
    raise AssertionError(f"evidence of attempt {number} of {task.id}, which has no such attempt")
