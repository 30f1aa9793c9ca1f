"""When a worker looks for outcomes by itself, before its children speak of them.

A child that runs tasks of less than 4 ms announces what is done only when it has nothing else to do, or after 20 ms: an
announcement lies between the end of one task and the start of the next, and the worker that it wakes may take the
child's processor. But the leader hands out 20 ms of work, so that such a slot would run dry each time. So the worker
empties the rings every 4 ms for as long as it was sent such tasks lately.

The shortest tasks are left alone: there a slot has its fill, 512 tasks, before it has work for 20 ms, and how many of
them there are in one entry of the log is what counts. Tasks above 4 ms are announced one by one.
"""

from collections.abc import Callable

from actors import MILLISECOND, Context, Nanos
from cluster.worker.child_messages import FLUSH_ESTIMATE_US

GATHER_ESTIMATE_US = 100        # of tasks that are expected to take longer, and are not announced one by one
GATHER_INTERVAL: Nanos = 4 * MILLISECOND
GATHER_LOOKS = 6                # after the last such task was sent: the leader hands out 20 ms of work

Gather = Callable[[], bool]


class Gathering:
    """The looks of one worker; `gather` carries one out, and says whether something is left to look for."""

    def __init__(self, context: Context, gather: Gather) -> None:
        self._context = context
        self._gather = gather
        self._looks = 0         # that follow; the next one is waited for

    def sent(self, estimate_us: int) -> None:
        """A slot was sent a task that is expected to take so long, and has others before it."""
        if GATHER_ESTIMATE_US < estimate_us <= FLUSH_ESTIMATE_US:
            if not self._looks:
                self._wait()
            self._looks = GATHER_LOOKS

    def _wait(self) -> None:
        self._context.timer("gather", GATHER_INTERVAL, self._look)

    def _look(self) -> None:
        self._looks = self._looks - 1 if self._gather() else 0
        if self._looks:
            self._wait()
