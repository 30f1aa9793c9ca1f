"""What a broker does when its last snapshot turns out to be damaged and the log behind it was cut: its memory is the
only copy of what it could not start from any more.

The remedy is a restart, which finds the damage, and the state comes back from the others. Better now, while they have
it, than after the next crash. But while it refetches it neither votes nor leads: a majority of the others must go on,
and one of them be able to send it the state. So it ends only while so many others are *ready*: heard lately, with a
start of their own, not quarantined, and with everything applied that this broker had applied a second ago. Those that
wait for the same are not ready for each other. Until then it serves as before, but lets a ready one lead, for it cannot
give a snapshot to anybody. A single broker has nobody to ask, and goes on.

Rejected: a snapshot from the state in memory. A compactor begins with a snapshot, and there is none; the loop would
stand still for a state of any size, and in slices the state changes under it.
"""

from collections import deque
from collections.abc import Callable, Sequence

from actors import SECOND, Context, Nanos
from cluster.peer.errors import BrokerFault
from cluster.wire import ClockNews

NEWS_SILENCE = 3 * SECOND           # who has said nothing for so long is away
HAND_OVER_INTERVAL = 60 * SECOND    # at most: who leads again all the same is needed
REASON = "no snapshot is left that the log goes on behind"


class LostStart:
    """Of one broker. `look` once a second, `heard` with what the others say; `has_start` tells whether the next start
    would find its state on the disk; `hand_over` is for a leader."""

    def __init__(
        self,
        context: Context,
        node: str,
        names: Sequence[str],
        has_start: Callable[[], bool],
        hand_over: Callable[[str], None],
    ) -> None:
        self._context = context
        self._node = node
        self._names = names
        self._has_start = has_start
        self._hand_over = hand_over
        self._ready: dict[str, tuple[Nanos, bool]] = {}     # others, when each was heard, and whether it was ready
        self._applied: deque[int] = deque([0], maxlen=2)    # of this broker, at the last looks
        self._is_lost = False
        self._hand_over_at: Nanos = 0                       # not before

    @property
    def yields(self) -> bool:
        """Another one could lead and would do so better."""
        return self._is_lost and self._others_ready > 0

    def heard(self, node: str, news: ClockNews) -> None:
        is_ready = not news.needs_state and news.applied_index >= self._applied[0]
        self._ready[node] = self._context.clock.now(), is_ready

    def look(self, applied: int, *, leads: bool, follows: bool) -> None:
        """Raises BrokerFault when the others can do without this broker."""
        self._applied.append(applied)
        was_lost, self._is_lost = self._is_lost, not self._has_start()
        if not self._is_lost:
            return
        if not was_lost:
            self._note()
        now = self._context.clock.now()
        if follows and self._others_ready > len(self._names) // 2:
            raise BrokerFault(f"{REASON}; the next start asks the other brokers")
        if leads and self.yields and now >= self._hand_over_at:
            self._hand_over_at = now + HAND_OVER_INTERVAL
            self._hand_over(REASON)

    @property
    def _others_ready(self) -> int:
        since = self._context.clock.now() - NEWS_SILENCE
        return sum(is_ready for heard, is_ready in self._ready.values() if heard >= since)

    def _note(self) -> None:
        if len(self._names) == 1:
            action = "goes on; look at the disk: it does not start again without a copy of a snapshot"
        else:
            action = "goes on, and restarts when a majority of others does without it; look at the disk"
        self._context.log.event("start_lost", node=self._node, reason=REASON, action=action)
