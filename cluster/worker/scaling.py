"""How many slots a worker keeps open, between two bounds.

Problem: slots that are missing make tasks wait; slots that are not needed keep processes with all their modules in
memory. What waits the leader knows, and says it with each answer to a heartbeat (`cluster.broker.slot_hints`): how many
ready tasks are this worker's share, and how long the oldest has waited. What its slots do, the worker knows.

- It opens slots when the oldest task has waited for `open_age_ms`, for what could not be handed out: one for each
  task of its share, at most as many as it has, so that it doubles; and not again before `open_pause` has passed, in
  which new slots can show what they are good for.
- It closes the last one when, for `close_idle`, there was no moment at which as many were busy as are open, and then
  another one after `close_pause`. That is the window of Kubernetes' autoscaler, which goes down to the most that was
  needed within it: what comes in waves shorter than that leaves the slots as they are.

How many were busy is seen at each answer, twice a second; work that is over between two of them needs no slot of its
own for long. Something that waits means that all are busy.

A slot that still runs something may be the one that is closed: it gets nothing more, and its child ends behind that.

Rejected: the leader decides. It would have to know of starts of children and of what runs, which are not in the log.
Rejected: to close slots that have been idle for long. Tasks go to the slot that was idle for longest, so a few short
ones keep all of them from that.
Rejected: a target for the use of slots, as autoscalers of machines have: tasks of an hour look like full use with
nothing waiting.
"""

import msgspec

Nanos = int


class ScalingPace(msgspec.Struct, array_like=True, frozen=True):
    """How soon slots are opened and closed."""

    open_age_ms: int = 1_000                # younger tasks are about to be taken by slots that are there
    open_pause: Nanos = 3_000_000_000       # a child with its modules needs a second or two until it takes a task
    close_idle: Nanos = 30_000_000_000
    close_pause: Nanos = 5_000_000_000

    def __post_init__(self) -> None:
        assert self.open_pause <= self.close_pause <= self.close_idle, "it is quicker to open than to close"


PACE = ScalingPace()


class Scaling:
    """Of one session of a worker. Invariant: `slots_min <= open <= slots_max`."""

    __slots__ = ("_busy_at", "_closed_at", "_opened_at", "_pace", "open", "slots_max", "slots_min")

    def __init__(self, slots_min: int, slots_max: int, now: Nanos, pace: ScalingPace = PACE) -> None:
        assert 1 <= slots_min <= slots_max
        self.slots_min = slots_min
        self.slots_max = slots_max
        self.open = slots_min           # slots 0 to open - 1
        self._pace = pace
        self._opened_at: Nanos = now - pace.open_pause
        self._closed_at: Nanos = now - pace.close_pause
        self._busy_at: list[Nanos] = [now] * (slots_max + 1)    # by number: when so many were last seen busy at once

    def look(self, busy: int, ready: int, oldest_ms: int, now: Nanos, *, may_open: bool = True) -> int:
        """The leader has said what waits, and `busy` of the open slots hold something. Returns how many are to be open.
        Not `may_open`: those that were opened last are not there yet."""
        assert 0 <= busy <= self.open
        self._seen(self.open if ready else busy, now)
        if ready and oldest_ms >= self._pace.open_age_ms:
            if may_open and now - self._opened_at >= self._pace.open_pause:
                self._open(ready, now)
        elif (
            self.open > self.slots_min
            and now - self._busy_at[self.open] >= self._pace.close_idle
            and now - self._closed_at >= self._pace.close_pause
        ):
            self.open -= 1
            self._closed_at = now
        assert self.slots_min <= self.open <= self.slots_max
        return self.open

    def _open(self, ready: int, now: Nanos) -> None:
        self.open += min(ready, self.open, self.slots_max - self.open)
        self._opened_at = now
        self._seen(self.open, now)

    def _seen(self, busy: int, now: Nanos) -> None:
        for count in range(1, busy + 1):
            self._busy_at[count] = now
