"""The times at which a schedule fires: its slots, as integer milliseconds since the epoch, UTC.

Problem: a cron expression speaks of what clocks on a wall show, and twice a year these jump. A time that does not come
must not be lost, one that comes twice must not run twice; but what runs every ten minutes must do so all night.

Idea: `cronsim` reads the expression and walks the calendar, in local times that know of no zone. Which instants such
a local time stands for is decided here, by the rule of Debian's cron (cron(8), the notes on changes of less than three
hours), which looks at how the expression is written:

- *Fixed*, if neither the minute nor the hour field begins with `*`: of two instants the first one counts; of none, the
  end of the gap does. Several times in one gap become one.
- *By the clock* otherwise: every instant at which the clocks show a time that matches; none in a gap, both of two.

Cost: a step of the calendar takes tens of microseconds, a search that finds nothing in 50 years tens of milliseconds.
That is why it is made once, where the schedule is defined (`cluster.schedules.parsing`).

Rejected: cronsim's own iteration with a zone. It keeps the rule for five fields only (`0 30 2 * * *` is lost in a gap
and runs twice in an overlap), and steps by whole hours: where clocks jump by half an hour, the half behind the jump is
lost. Seen with cronsim 2.8. Rejected too: jumping from slot to slot by a constant number of hours or days, which is
wrong twice a year.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim

from cluster.schedules.zones import SECOND, clock_change, instants, local_time, passes_again, zone_named

# No slot is further away than this. The longest wait of an expression is 40 years, for a 29 February on one day of the
# week around a century without that day; cronsim gives up after 50 as well.
SEARCH_YEARS_MAX = 50
# The calendar of Python ends with the year 9999, and a search needs room before that.
INSTANT_MS_MAX = 250_000_000_000_000       # in the year 9892
UPCOMING_MAX = 1_000


@dataclass(frozen=True, slots=True)
class CronTimes:
    """The slots of a cron expression in a zone; `cluster.schedules.parsing.cron` makes valid ones.

    Two values are equal if they are written alike. Where the zone is not known, every question raises ScheduleError:
    brokers may have other zones than the client that defined the schedule.
    """

    expression: str     # five fields, or six with the second first
    zone: str           # an IANA name, never an offset: an offset knows nothing of summers to come

    @property
    def is_fixed(self) -> bool:
        """Whether the rule for fixed times holds; see the head of the module."""
        minute, hour = self.expression.split()[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")

    def next_after(self, instant_ms: int) -> int | None:
        """The first slot behind an instant, None if there is none within 50 years."""
        if instant_ms >= INSTANT_MS_MAX:
            return None
        search = _next_fixed if self.is_fixed else _next_by_clock
        second = search(self.expression, zone_named(self.zone), instant_ms // 1_000)
        return None if second is None else second * 1_000

    def upcoming(self, instant_ms: int, count: int) -> list[int]:
        """The next slots behind an instant, at most `count` of them."""
        return _upcoming(self, instant_ms, count)


@dataclass(frozen=True, slots=True)
class EveryTimes:
    """The slots of an interval: `anchor_ms` plus any multiple of `period_ms`, so that they depend on nothing that
    happened: not on when a run began or ended, and not on who computes them."""

    period_ms: int
    anchor_ms: int = 0

    def next_after(self, instant_ms: int) -> int:
        """The first slot behind an instant."""
        return instant_ms + self.period_ms - (instant_ms - self.anchor_ms) % self.period_ms

    def upcoming(self, instant_ms: int, count: int) -> list[int]:
        """The next slots behind an instant, at most `count` of them."""
        return _upcoming(self, instant_ms, count)


Times = CronTimes | EveryTimes


def slots_after(times: Times, instant_ms: int) -> Iterator[int]:
    """All slots behind an instant, in order."""
    slot = times.next_after(instant_ms)
    while slot is not None:
        yield slot
        slot = times.next_after(slot)


def _upcoming(times: Times, instant_ms: int, count: int) -> list[int]:
    assert 0 <= count <= UPCOMING_MAX, f"{count} slots were asked for"
    return list(islice(slots_after(times, instant_ms), count))


def _next_fixed(expression: str, zone: ZoneInfo, after: int) -> int | None:
    """The first slot behind the second `after`, of an expression with fixed times."""
    local = local_time(zone, after)
    if local.fold:
        # Everything in the overlap had its turn in the first pass; go on from the last second of that.
        local = local_time(zone, clock_change(zone, local) - 1)
    match = _next_match(expression, local)
    if match is None:
        return None
    slot = next(iter(instants(zone, match)), None)
    if slot is None:
        slot = clock_change(zone, match)
    assert slot > after, f"{expression}: {slot} does not lie behind {after} in {zone.key}"
    return slot


def _next_by_clock(expression: str, zone: ZoneInfo, after: int) -> int | None:
    """The first slot behind the second `after`, of an expression with a wildcard for the minute or the hour."""
    local = local_time(zone, after)
    year_max = local.year + SEARCH_YEARS_MAX
    if passes_again(zone, local):
        back = clock_change(zone, local)
        match = _next_match(expression, local)
        if match is not None and (first := instants(zone, match)) and first[0] < back:
            return first[0]
        local = local_time(zone, back) - SECOND
    # A round for each gap that swallows a match, which is one a year.
    while (match := _next_match(expression, local)) is not None and match.year <= year_max:
        for second in instants(zone, match):
            if second > after:
                return second
        local = local_time(zone, clock_change(zone, match)) - SECOND
    return None


def _next_match(expression: str, local: datetime) -> datetime | None:
    """The first time of the calendar behind `local` that matches, None if none does within 50 years."""
    return next(CronSim(expression, local.replace(fold=0)), None)
