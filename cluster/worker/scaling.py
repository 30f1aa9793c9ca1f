"""How many slots a worker keeps open, between two bounds.

Problem: how much waits, and for how long, only the leader knows; how long its slots have been idle, and what it costs
to start one, only the worker. And a thousand workers that all hear of one waiting task must not all open a slot for it.

Idea: the leader divides. With each answer to a heartbeat it tells each worker its *share* of the ready tasks that it
could run (`share_of`), and the age of the oldest of them: of one task one worker hears, and the others hear of nothing.
So workers need not know of each other, and nothing of this is in the log. What a worker decides is: how many slots it
wants open.

- It opens slots for its share, once that has waited for OPEN_AGE, and has been there at two answers in a row; at most
  as many as it has, so that it doubles; and not again before OPEN_PAUSE has passed, in which new slots can show what
  they are good for.
- It closes one slot that has been idle for CLOSE_IDLE, the last one, if nothing has waited for as long, and then
  another one after CLOSE_PAUSE. So what comes in waves shorter than that leaves the slots as they are.

A slot that runs something is not idle, and is not closed.

Rejected: the leader decides. It would have to know of idle times and starts of children, which change without the log.
Rejected: a target for the use of slots, as autoscalers of machines have: tasks of an hour look like full use with
nothing waiting.
"""

Nanos = int

OPEN_AGE_MS = 1_000                     # younger tasks are about to be taken by slots that are there
OPEN_PAUSE: Nanos = 3_000_000_000       # a child with its modules needs a second or two until it takes a task
CLOSE_IDLE: Nanos = 60_000_000_000
CLOSE_PAUSE: Nanos = 10_000_000_000
ANSWERS_MIN = 2                         # that say so, one after the other, before a slot is opened

assert OPEN_PAUSE < CLOSE_PAUSE < CLOSE_IDLE, "it is quicker to open than to close"


def share_of(ready: int, place: int, workers: int) -> int:
    """What a worker is told of `ready` tasks that each of `workers` could run; its place among them counts from 0.

    The shares of all sum up to `ready`."""
    assert 0 <= place < workers and ready >= 0
    return ready // workers + (place < ready % workers)


class Scaling:
    """Of one worker. Invariant: `slots_min <= open <= slots_max`."""

    __slots__ = ("_answers", "_closed_at", "_idle_since", "_opened_at", "_waited_at", "open", "slots_max", "slots_min")

    def __init__(self, slots_min: int, slots_max: int, now: Nanos) -> None:
        assert 1 <= slots_min <= slots_max
        self.slots_min = slots_min
        self.slots_max = slots_max
        self.open = slots_min           # slots 0 to open - 1
        self._answers = 0               # in a row, that spoke of tasks which have waited
        self._opened_at: Nanos = now - OPEN_PAUSE
        self._closed_at: Nanos = now - CLOSE_PAUSE
        self._waited_at: Nanos = now    # when something was last said to wait
        self._idle_since: dict[int, Nanos] = {}

    def began(self, slot: int) -> None:
        """A slot holds something."""
        self._idle_since.pop(slot, None)

    def ended(self, slot: int, now: Nanos) -> None:
        """A slot holds nothing any more, or has just been opened."""
        self._idle_since[slot] = now

    def hinted(self, waiting: int, oldest_ms: int, now: Nanos) -> int:
        """The leader has said what waits for this worker. Returns how many slots are to be open now."""
        if waiting:
            self._waited_at = now
        self._answers = self._answers + 1 if waiting and oldest_ms >= OPEN_AGE_MS else 0
        if self._answers >= ANSWERS_MIN and now - self._opened_at >= OPEN_PAUSE:
            self._open(waiting, now)
        else:
            self._close(now)
        assert self.slots_min <= self.open <= self.slots_max
        return self.open

    def lost_leader(self) -> None:
        """Another one is asked anew."""
        self._answers = 0

    def _open(self, waiting: int, now: Nanos) -> None:
        more = min(waiting, self.open, self.slots_max - self.open)
        for slot in range(self.open, self.open + more):
            self._idle_since[slot] = now
        self.open += more
        self._opened_at = now

    def _close(self, now: Nanos) -> None:
        last = self.open - 1
        idle_since = self._idle_since.get(last)
        if (
            self.open > self.slots_min
            and idle_since is not None
            and now - idle_since >= CLOSE_IDLE
            and now - self._waited_at >= CLOSE_IDLE
            and now - self._closed_at >= CLOSE_PAUSE
        ):
            del self._idle_since[last]
            self.open = last
            self._closed_at = now
