"""Whether the brokers' disks have room for more log, and what this broker does while they have not.

A full disk is met by the spare segment that cannot be prepared; the log goes on in the one that it has, up to its end.
That rest is for what makes work fewer: completions, cancels, workers that come and leave. So a leader takes no submits
while its own disk is full, and none while so many others are full that the rest is no majority: then a majority would
spend what it has left. A minority of full followers closes nothing; so a leader that is full while a majority of others
is not hands over after a while, and stands later than they do: one full disk should not stop everybody's work.

Nobody says when a disk has room again, so it is tried now and then; not while a snapshot is being written, for that is
what lets segments leave.
"""

from collections.abc import Callable, Sequence

from actors import SECOND, Context, Nanos
from cluster.storage.wal import Wal

RETRY_INTERVAL = 5 * SECOND
NEWS_SILENCE = 3 * SECOND       # a broker that has said nothing for so long is away: it has neither room nor none
HAND_OVER_PATIENCE = 10 * SECOND    # others of the same disk may just not have noticed, and room may come back
HAND_OVER_INTERVAL = 60 * SECOND    # at most: who leads again all the same is needed
BEHIND_REASON = "snapshots do not keep up with the log"


def why_closed(own: str, full: Sequence[str], with_room: int, brokers: int, is_behind: bool) -> str:
    """Why a leader takes no submits; "" if it does. `own` says that its own disk is full, `full` are the others whose
    disks are, `with_room` counts brokers that are here and have room, the leader among them."""
    if own:
        return own
    if full and with_room <= brokers // 2:
        return f"too few brokers have room on their disks: {', '.join(full)} {'is' if len(full) == 1 else 'are'} full"
    return BEHIND_REASON if is_behind else ""


class Room:
    """Of one broker. `begin` when its log is open, then `look` once a second; `heard` takes what others say.

    `is_busy` tells whether a snapshot is being written, `is_behind` whether they do not keep up; `tell` lets the others
    know at once; `close` gets each new reason to take no submits, "" for none; `hand_over` is for a leader.
    """

    def __init__(
        self,
        context: Context,
        node: str,
        directory: str,
        names: Sequence[str],
        is_busy: Callable[[], bool],
        is_behind: Callable[[], bool],
        tell: Callable[[], None],
        close: Callable[[str], None],
        hand_over: Callable[[], None],
    ) -> None:
        self._context = context
        self._node = node
        self._directory = directory
        self._names = names
        self._is_busy = is_busy
        self._is_behind = is_behind
        self._tell = tell
        self._close = close
        self._hand_over = hand_over
        self._wal: Wal | None = None
        self._others: dict[str, tuple[Nanos, bool]] = {}    # when each was heard, and whether its disk is full
        self._since: Nanos = 0          # when its own disk was found full
        self._tried: Nanos = 0
        self._hand_over_at: Nanos = 0   # not before
        self._reason = ""

    def begin(self, wal: Wal) -> None:
        self._wal = wal
        wal.on_room = self._changed

    @property
    def is_lacking(self) -> bool:
        return self._wal is not None and self._wal.lacks_room

    @property
    def yields(self) -> bool:
        """A majority of other brokers is here that could go on better than this one."""
        return self.is_lacking and self._others_with_room > len(self._names) // 2

    def heard(self, node: str, lacks_room: bool) -> None:
        """What another broker says of its disk."""
        self._others[node] = self._context.clock.now(), lacks_room
        self._judge()

    def look(self) -> None:
        now, wal = self._context.clock.now(), self._wal
        if wal is not None and wal.lacks_room and not self._is_busy():
            if now - self._tried >= RETRY_INTERVAL:
                self._tried = now
                wal.seek_room()
            if self.yields and now >= max(self._since + HAND_OVER_PATIENCE, self._hand_over_at):
                self._hand_over_at = now + HAND_OVER_INTERVAL
                self._hand_over()
        self._judge()

    def _changed(self, lacks_room: bool) -> None:
        if lacks_room:
            self._since = self._tried = self._context.clock.now()
            self._context.log.event(
                "disk_full",
                node=self._node,
                directory=self._directory,
                action="make room there: until then no tasks are taken, and what ends has the rest of one segment",
            )
        else:
            self._context.log.event("disk_has_room", node=self._node, directory=self._directory)
        self._judge()
        self._tell()

    def _judge(self) -> None:
        """Only a change is told, and a reason stays as it is while it holds."""
        reason = why_closed(
            f"the disk of {self._node} is full ({self._directory})" if self.is_lacking else "",
            [name for name, is_full in self._here() if is_full],
            1 + self._others_with_room,
            len(self._names),
            self._is_behind(),
        )
        if reason != self._reason:
            self._reason = reason
            self._close(reason)

    @property
    def _others_with_room(self) -> int:
        return sum(not is_full for _, is_full in self._here())

    def _here(self) -> list[tuple[str, bool]]:
        """The others that said something lately, and whether their disks are full."""
        since = self._context.clock.now() - NEWS_SILENCE
        return [(name, is_full) for name, (heard, is_full) in sorted(self._others.items()) if heard >= since]
