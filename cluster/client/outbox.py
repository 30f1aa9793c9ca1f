"""Tasks on their way into commands: what a client submits in one turn of its loop becomes one command.

A draft collects tasks until the turn ends or a limit of a command is reached. Tasks of one name and one set of
options share a group, so that a batch of a thousand equal calls costs one name and a thousand bodies.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from cluster.state.commands import (
    SUBMIT_BYTES_MAX,
    SUBMIT_TASKS_MAX,
    TASK_NUMBER_BITS,
    Options,
    TaskGroup,
)

TASK_NUMBER_MAX = (1 << TASK_NUMBER_BITS) - 1
TASK_OVERHEAD_BYTES = 8     # what a task costs in a command beside its body

Waiter = TypeVar("Waiter")


class Draft(Generic[Waiter]):
    """A Submit command in the making. `waiters` hear when a majority has it; `deadline` is the earliest of theirs;
    `seen` rides with it. All its tasks have the same `fence`."""

    __slots__ = ("bytes", "count", "deadline", "fence", "groups", "seen", "seq", "waiters")

    def __init__(self) -> None:
        self.groups: list[TaskGroup] = []
        self.count = 0
        self.bytes = 0
        self.seq = 0                        # 0 until it is sent
        self.seen: list[int] = []           # ranges of numbers whose results are here, said with it
        self.deadline = 0
        self.fence = 0
        self.waiters: list[Waiter] = []

    @property
    def full(self) -> bool:
        return self.count >= SUBMIT_TASKS_MAX or self.bytes >= SUBMIT_BYTES_MAX


class Outbox(Generic[Waiter]):
    """Numbers tasks, up to `numbers_max`, and collects them into drafts; finished drafts wait in `ready` until the
    window takes them."""

    __slots__ = ("_draft", "next_number", "numbers_max", "ready", "tasks")

    def __init__(self, numbers_max: int = TASK_NUMBER_MAX) -> None:
        assert 0 < numbers_max <= TASK_NUMBER_MAX
        self.numbers_max = numbers_max
        self.next_number = 1
        self.tasks = 0                                    # not yet taken
        self.ready: deque[Draft[Waiter]] = deque()
        self._draft: Draft[Waiter] = Draft()

    @property
    def numbers_left(self) -> int:
        return self.numbers_max - self.next_number + 1

    def add(self, name: str, options: Options | None, body: bytes, fence: int = 0) -> tuple[int, Draft[Waiter]]:
        """Adds one task; returns its number and the draft that carries it."""
        assert self.numbers_left > 0, "task numbers of this session are used up"
        draft = self._draft
        if draft.count >= SUBMIT_TASKS_MAX or (draft.count and draft.bytes + len(body) > SUBMIT_BYTES_MAX):
            draft = self._cut()
        if draft.fence != fence:
            if draft.count:
                draft = self._cut()
            draft.fence = fence
        number = self.next_number
        self.next_number = number + 1
        groups = draft.groups
        if groups and groups[-1].name == name and groups[-1].options == options:
            groups[-1].bodies.append(body)
        else:
            groups.append(TaskGroup(name, number, [body], options))
        draft.count += 1
        draft.bytes += len(body) + TASK_OVERHEAD_BYTES
        self.tasks += 1
        return number, draft

    def close_turn(self) -> None:
        """The turn ends: what was collected may leave."""
        if self._draft.count:
            self._cut()

    def drafts(self) -> Iterator[Draft[Waiter]]:
        """All that was not taken, the unfinished last."""
        yield from self.ready
        yield self._draft

    def take(self) -> Draft[Waiter] | None:
        if not self.ready:
            return None
        draft = self.ready.popleft()
        self.tasks -= draft.count
        return draft

    def put_back(self, drafts: list[Draft[Waiter]]) -> None:
        """These were taken last, in this order, and wait again: before all others, for numbers only rise."""
        self.ready.extendleft(reversed(drafts))
        self.tasks += sum(draft.count for draft in drafts)

    def drop(self, draft: Draft[Waiter]) -> None:
        """Withdraws a finished draft that never left. Its numbers stay unused."""
        self.ready.remove(draft)
        self.tasks -= draft.count

    def _cut(self) -> Draft[Waiter]:
        self.ready.append(self._draft)
        self._draft = Draft()
        return self._draft
