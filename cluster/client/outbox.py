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
    Needs,
    Options,
    TaskGroup,
)

TASK_NUMBER_MAX = (1 << TASK_NUMBER_BITS) - 1
TASK_OVERHEAD_BYTES = 8     # what a task costs in a command beside its body
NEED_BYTES = 9              # ... and each that it needs

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

    def add(
        self, name: str, options: Options | None, body: bytes, fence: int = 0, needs: Needs | None = None
    ) -> tuple[int, Draft[Waiter]]:
        """Adds one task; returns its number and the draft that carries it."""
        assert self.numbers_left > 0, "task numbers of this session are used up"
        draft = self._draft
        size = len(body) if needs is None else len(body) + NEED_BYTES * len(needs)
        if draft.count >= SUBMIT_TASKS_MAX or (draft.count and draft.bytes + size > SUBMIT_BYTES_MAX):
            draft = self._cut()
        if draft.fence != fence:
            if draft.count:
                draft = self._cut()
            draft.fence = fence
        number = self.next_number
        self.next_number = number + 1
        groups = draft.groups
        last = groups[-1] if groups else None
        # A group has needs for all of its tasks, or for none.
        is_alike = last is not None and bool(last.needs) == (needs is not None)
        if last is not None and is_alike and last.name == name and last.options == options:
            last.bodies.append(body)
            if needs is not None:
                last.needs.append(needs)
        else:
            groups.append(TaskGroup(name, number, [body], options, [] if needs is None else [needs]))
        draft.count += 1
        draft.bytes += size + TASK_OVERHEAD_BYTES
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
