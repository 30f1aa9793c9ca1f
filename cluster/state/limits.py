"""Limits: how many tasks are with workers at a time, and how many start in a period.

A limit is known by a name and a share. It belongs to one line of tasks, or to all that name it (`LineRule`), in the
whole cluster. Its terms come with the tasks, and the last ones that were submitted hold.

Concurrency. `running` counts what is with workers: what runs, and what waits there behind it. So a task counts from
its hand-out until it has ended, is given back, or its worker's session has ended; a worker that was cut off stops
what it holds before that.

Rate. At most `starts` hand-outs in any window of `period_ms`, by the stamps of entries, whatever becomes of them: a
second attempt is a start as well. So the dates of the starts within the last period are kept. That is the promise
which people read into "100 a minute", and the one that the other side counts by. The usual token bucket does not keep
it: a bucket of 100 that is full lets 100 go at once, and nearly 100 more in the minute after. A bucket of one token
does, but loses what is not used at the very moment, and costs an entry of its own for every start. Here all that a
period allows may start at once; who wants it spread writes a shorter period, 10/6s for 100/m.

Kept is one date for all starts of an entry. With more than PARTS starts in a period it is that of the end of a
hundredth of the period: never more start than allowed, a start may come so much later than it could, and a limit has
at most PARTS + 1 dates, a hundred thousand starts an hour or not.

Who waits where. What is under a limit, its *members*, are lines, or bundles of them (`lines`), each of which may have
other workers. A member stands either in the rings where it is served (`places`), or in those of its limit, which is
then the only one of its `pools`: it is *held back*. While a limit is full all of its members are held back, so
dispatch never meets what it must not take, and pays nothing for what is held back, however much. When something has
ended, or a date has come, the limit lets as many members through as it has room for, by priority, those of one
priority that were served longest ago first. What has room left after dispatch, since their workers are busy, lets the
next ones through, and so on. So between entries a limit that holds something back has no room. To let all of them
through at once would make the order of pools decide who starts next, and could leave one member waiting for ever.

Dates. A limit that is full by its rate, and holds something back, has a date among the timers: its next start. So has
one that nobody uses, until the last start has left its window: forgotten before, it would allow as many again. Then
it goes; its index is not used again. A date that has become needless is looked at when it comes.

Cost: O(1) for a start and an end, and O(log n) for a date. A member is let through and held back once for each start
at most, unless workers are busy: then, once for each time that the limit is full and is not, each member may be.
"""

from typing import TYPE_CHECKING, TypeAlias

from cluster.state.commands import LineRule
from cluster.state.timers import LIMIT, Timers
from cluster.state.turns import NO_RING, SparseTurns, Standing, Turns

if TYPE_CHECKING:
    from cluster.state.lines import Bundle, Line

Member: TypeAlias = "Line | Bundle"

FORGOTTEN_EVERY_MS = 1_000      # dates at which limits are forgotten lie so far apart
PARTS = 100             # of a period, in which starts are counted together if there may be more of them
ENDLESS = 1 << 62       # room of what is not limited


class Limit(SparseTurns):
    """What waits in its rings is held back.

    Invariants: `started` is the sum of the counts in `window`, whose dates rise; a member is in `passed` exactly if it
    stands in its `places`; between entries nothing is held back if there is room, and `passed` is empty if there is
    none.
    """

    __slots__ = (
        "_touched",
        "concurrency",
        "date_ms",
        "members",
        "name",
        "passed",
        "period_ms",
        "running",
        "share",
        "started",
        "starts",
        "window",
    )

    def __init__(self, index: int, name: str, share: str, touched: "dict[int, Limit]") -> None:
        super().__init__(index)
        self.name = name
        self.share = share
        self.concurrency = 0        # 0 = any number, likewise `starts`
        self.starts = 0
        self.period_ms = 0
        self.running = 0
        self.started = 0
        self.window: list[tuple[int, int]] = []             # (date, starts that count until a period later)
        self.members: dict[int, Member] = {}                # by index
        self.passed: dict[int, Member] = {}                 # by index; served longest ago first
        self.date_ms = 0            # of its item among the timers; others are void. 0 = none
        self._touched = touched

    @property
    def holds_back(self) -> bool:
        return self.mask != 0

    @property
    def is_full_of_running(self) -> bool:
        """Something must end before more may start."""
        return 0 < self.concurrency <= self.running

    @property
    def is_bounded_by_rate(self) -> bool:
        """Its window is full: time is what it waits for. Asked right after `room`."""
        return 0 < self.starts <= self.started

    def room(self, now_ms: int) -> int:
        """How many more may start now; 0 or less: none."""
        room = self.concurrency - self.running if self.concurrency else ENDLESS
        if self.starts:
            window, period_ms = self.window, self.period_ms
            while window and window[0][0] + period_ms <= now_ms:
                self.started -= window.pop(0)[1]            # it is short
            room = min(room, self.starts - self.started)
        return room

    def agree(self, rule: LineRule) -> None:
        """These are its terms from now on."""
        if (self.concurrency, self.starts, self.period_ms) == (rule.concurrency, rule.starts, rule.period_ms):
            return
        self.concurrency, self.starts, self.period_ms = rule.concurrency, rule.starts, rule.period_ms
        if not self.starts:
            self.window.clear()
            self.started = 0
        self._touched[self.index] = self

    def wake(self, channel: Standing, priority: int) -> None:
        """A member that is held back gets its first message: perhaps there is room."""
        super().wake(channel, priority)
        self._touched[self.index] = self

    def start(self, member: Member, count: int, now_ms: int) -> None:
        """So many tasks of a member were handed out. If the limit is full now, all of its members are held back."""
        self.running += count
        if self.starts:
            self._count(count, now_ms)
        room = self.room(now_ms)
        assert room >= 0, f"too many tasks of {self.name} were handed out"
        if not room:
            self.close(member)
        elif len(self.passed) > 1:
            del self.passed[member.index]
            self.passed[member.index] = member

    def end(self, count: int) -> None:
        """So many are with workers no longer."""
        self.running -= count
        assert self.running >= 0
        if self.mask and self.concurrency:
            self._touched[self.index] = self

    def join(self, member: Member) -> None:
        """Another member, which stands nowhere yet."""
        self.members[member.index] = member
        member.pools = [self]

    def leave(self, member: Member) -> None:
        """A member in which nothing waits, and which is to be gone."""
        del self.members[member.index]
        self.passed.pop(member.index, None)
        self.forget(member)
        self._touched[self.index] = self

    def close(self, last: "Member | None" = None) -> None:
        """All are held back, those first that were served longest ago; `last` was served just now."""
        passed, self.passed = self.passed, {}
        for member in passed.values():
            if member is not last:
                stand(member, [self])
        if last is not None:
            stand(last, [self])
        self._touched[self.index] = self

    def shrink(self) -> None:
        """Nobody uses it: gives up its rings, which cost more than all else."""
        assert not self.mask and not self.passed
        self.ready = [NO_RING] * len(self.ready)
        self.members = {}
        self.passed = {}

    def let_through(self, count: int) -> bool:
        """Up to so many of those that are held back; False if there are none."""
        top = self.next_lane()
        if top is None:
            return False
        while top is not None and count > 0:
            member = self.members[top[0].index]
            self.passed[member.index] = member
            stand(member, member.places)
            count -= 1
            top = self.next_lane()
        return True

    def _count(self, count: int, now_ms: int) -> None:
        window = self.window
        date_ms = now_ms
        if self.starts > PARTS:
            part_ms = max(1, self.period_ms // PARTS)
            date_ms += part_ms - 1 - now_ms % part_ms
        if window and window[-1][0] >= date_ms:     # the same entry, the same part, or the parts were larger before
            date_ms, before = window.pop()
            window.append((date_ms, before + count))
        else:
            window.append((date_ms, count))
        self.started += count


class Limits:
    """All limits that are in use, or must be remembered."""

    __slots__ = ("_timers", "by_index", "by_name", "made", "touched")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.by_name: dict[tuple[str, str], Limit] = {}     # (name, share)
        self.by_index: dict[int, Limit] = {}
        self.made = 0                                       # so far; the last index given
        self.touched: dict[int, Limit] = {}                 # by index: changed in this entry; empty between entries

    def limit(self, name: str, share: str, rule: LineRule) -> Limit:
        """The limit, made if there is none, with the terms of this rule."""
        limit = self.known(name, share, rule)
        limit.agree(rule)
        return limit

    def known(self, name: str, share: str, rule: LineRule) -> Limit:
        """The limit as it is; made if there is none."""
        limit = self.by_name.get((name, share))
        if limit is None:
            self.made += 1
            limit = self.add(Limit(self.made, name, share, self.touched))
            limit.agree(rule)
        return limit

    def add(self, limit: Limit) -> Limit:
        self.by_name[limit.name, limit.share] = limit
        self.by_index[limit.index] = limit
        return limit

    def due(self, index: int, date_ms: int) -> None:
        """The item of a limit among the timers has come up."""
        limit = self.by_index.get(index)
        if limit is not None and limit.date_ms == date_ms:
            limit.date_ms = 0
            self.touched[index] = limit

    def let_through(self, now_ms: int) -> bool:
        """As many members of each limit as it has room for; False if nothing is held back that could go."""
        found = False
        for limit in list(self.touched.values()):
            room = limit.room(now_ms)
            if room > 0:
                found |= limit.let_through(room)
            elif limit.passed:
                limit.close()       # its terms are others than before
        return found

    def tidy(self, now_ms: int) -> None:
        """At the end of an entry: sets dates, and forgets what nobody uses."""
        for limit in self.touched.values():
            room = limit.room(now_ms)
            if not limit.members:
                assert not limit.running
                if limit.window:
                    limit.shrink()
                    end_ms = limit.window[-1][0] + limit.period_ms
                    self._remind(limit, end_ms + -end_ms % FORGOTTEN_EVERY_MS)
                else:
                    del self.by_name[limit.name, limit.share], self.by_index[limit.index]
            elif limit.mask:
                assert room <= 0
                if limit.is_bounded_by_rate:
                    self._remind(limit, self.next_start_ms(limit))
        self.touched.clear()

    @staticmethod
    def next_start_ms(limit: Limit) -> int:
        """When the first of the starts leaves its window that must, for another one."""
        surplus = limit.started - limit.starts      # more than none if the terms have changed
        for date_ms, count in limit.window:
            surplus -= count
            if surplus < 0:
                return date_ms + limit.period_ms
        raise AssertionError("a window that is full has starts")

    def _remind(self, limit: Limit, date_ms: int) -> None:
        if not limit.date_ms or limit.date_ms > date_ms:
            limit.date_ms = date_ms
            self._timers.add(date_ms, limit.index, 1, LIMIT)


def stand(member: Member, pools: list[Turns]) -> None:
    """It leaves where it stands, and stands there from now on."""
    for left in member.pools:
        left.forget(member)
    member.pools = pools
    for priority, lane in enumerate(member.lanes):
        if lane:
            for pool in pools:
                pool.wake(member, priority)
