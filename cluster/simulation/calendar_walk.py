"""The schedules that a simulated year lives by, and their slots, found the slow way.

Each minute of the time is looked at, as the daemon does whose rule is followed (cron(8) of Debian). Nothing here knows
of `cluster.schedules`: an expression stands beside the values that it means, so that no parser is needed, and clocks
are those of Python's `zoneinfo`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import structs

from actors import MILLISECOND, SECOND, Nanos
from cluster.state.commands import Options, ScheduleSpec

SHORT: Nanos = 100 * MILLISECOND         # most runs: not what they do is of interest
MINUTE_S = 60
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
EMPTY_CALL = b"\x92\x90\x80"            # [[], {}]
# Records are forgotten in the moments after a run and not at a date of their own: each would end a leap.
OPTIONS = Options(result_ttl_ms=1_000, timeout_ms=4 * 60 * MINUTE_MS)
ANY = frozenset(range(60))


@dataclass(frozen=True, slots=True)
class Rule:
    """What an expression means; days of the week are 0 (Sunday) to 6. `is_fixed`: neither its minute nor its hour
    begins with `*`."""

    minutes: frozenset[int]
    hours: frozenset[int]
    is_fixed: bool
    weekdays: frozenset[int] = ANY
    days: frozenset[int] = ANY
    seconds: tuple[int, ...] = (0,)

    def matches(self, local: datetime) -> bool:
        return (
            local.minute in self.minutes
            and local.hour in self.hours
            and local.day in self.days
            and local.isoweekday() % 7 in self.weekdays
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """A schedule that workers of the year announce; a run takes `work`. Of one of an interval `rule` is None."""

    spec: ScheduleSpec
    rule: Rule | None
    work: Nanos = SHORT

    @property
    def times(self) -> tuple[str, str, int, int]:
        """When it fires; schedules of one name with other times have other slots."""
        return times_in(self.spec)

    @property
    def runs_all(self) -> bool:
        """Whether each of its slots is owed a run."""
        return self.spec.misfire == "all"


def _cron(
    name: str, expression: str, zone: str, rule: Rule, misfire: str, on_busy: str = "skip", *,
    exclusive: bool = True, work: Nanos = SHORT,
) -> Kept:  # fmt: skip
    spec = ScheduleSpec(
        name, f"simulated:{name}", expression, zone, 0, 0, misfire, on_busy, exclusive, EMPTY_CALL, OPTIONS
    )
    return Kept(spec, rule, work)


def _every(name: str, period_ms: int, anchor_ms: int, misfire: str, on_busy: str) -> Kept:
    spec = ScheduleSpec(
        name, f"simulated:{name}", "", "", period_ms, anchor_ms, misfire, on_busy, True, EMPTY_CALL, OPTIONS
    )
    return Kept(spec, None)


def _of(*values: int) -> frozenset[int]:
    return frozenset(values)


SUNDAYS, SATURDAYS, WORKDAYS = _of(0), _of(6), _of(1, 2, 3, 4, 5)

# Five that are owed each of their slots, three of them in the hours in which clocks change; and all policies beside.
SCHEDULES: tuple[Kept, ...] = (
    _cron("nightly", "30 2 * * *", "Europe/Berlin", Rule(_of(30), _of(2), True), "all", "queue"),
    _cron(
        "closing", "15 30 1 * * *", "America/New_York", Rule(_of(30), _of(1), True, seconds=(15,)), "all",
        exclusive=False,
    ),
    _cron(
        "tides", "*/15 1,2 * * SUN", "Australia/Lord_Howe",
        Rule(_of(0, 15, 30, 45), _of(1, 2), False, SUNDAYS), "all", "queue",
    ),
    _cron("noon", "0 12 * * MON,THU", "Asia/Seoul", Rule(_of(0), _of(12), True, _of(1, 4)), "all", "queue"),
    _every("shifts", 17 * 60 * MINUTE_MS, 5 * MINUTE_MS, "all", "queue"),
    _cron(
        "beats", "*/20 59 1 * * SUN", "Europe/Berlin", Rule(_of(59), _of(1), True, SUNDAYS, seconds=(0, 20, 40)),
        "skip", work=25 * SECOND,
    ),
    _cron("office", "0 9-17/8 * * MON-FRI", "Asia/Seoul", Rule(_of(0), _of(9, 17), True, WORKDAYS), "once"),
    _cron("audit", "*/30 1-3 * * SUN", "America/New_York", Rule(_of(0, 30), _of(1, 2, 3), False, SUNDAYS), "once"),
    _cron(
        "long", "*/20 3 * * SAT", "Europe/Berlin", Rule(_of(0, 20, 40), _of(3), False, SATURDAYS),
        "once", "wait", work=50 * 60 * SECOND,
    ),
    _cron(
        "newest", "*/20 4 * * SAT", "Europe/Berlin", Rule(_of(0, 20, 40), _of(4), False, SATURDAYS),
        "skip", "replace", work=50 * 60 * SECOND,
    ),
    _cron(
        "backlog", "*/10 5 * * SAT", "Asia/Seoul", Rule(_of(0, 10, 20, 30, 40, 50), _of(5), False, SATURDAYS),
        "once", "queue", work=25 * 60 * SECOND,
    ),
    _cron("rent", "0 0 1,15 * *", "America/New_York", Rule(_of(0), _of(0), True, days=_of(1, 15)), "once"),
    _every("checks", 25 * 60 * MINUTE_MS, 0, "skip", "skip"),
)  # fmt: skip


def _other(name: str, rule: Rule | None = None, **terms: object) -> Kept:
    """The schedule of that name with other terms; the rule is the same unless given."""
    (kept,) = [kept for kept in SCHEDULES if kept.spec.name == name]
    return replace(kept, spec=structs.replace(kept.spec, **terms), rule=rule or kept.rule)


# What another version of the program says of each: other times, another zone, another policy. How runs of one schedule
# follow each other (`on_busy`, `exclusive`) is the same in both.
OTHERS: tuple[Kept, ...] = (
    _other("nightly", misfire="once"),
    _other("closing", zone="Europe/Berlin"),
    _other("tides", Rule(_of(0, 20, 40), _of(0, 1, 2), False, SUNDAYS), expression="*/20 0-2 * * SUN"),
    _other("noon", zone="Australia/Lord_Howe"),
    _other("shifts", period_ms=11 * 60 * MINUTE_MS, anchor_ms=0),
    _other(
        "beats", Rule(_of(59), _of(1), True, SUNDAYS, seconds=(0, 30)), expression="*/30 59 1 * * SUN", misfire="once"
    ),
    _other("office", misfire="skip"),
    replace(_other("audit", expression="", zone="", period_ms=13 * 60 * MINUTE_MS), rule=None),
    _other("long", zone="Asia/Seoul"),
    _other("newest", misfire="once"),
    _other("backlog", Rule(_of(0, 15, 30, 45), _of(5), False, SATURDAYS), expression="*/15 5 * * SAT"),
    _other("rent", Rule(_of(0), _of(12), True, days=_of(1, 15)), expression="0 12 1,15 * *"),
    _other("checks", anchor_ms=30 * MINUTE_MS, misfire="once"),
)  # fmt: skip
assert [kept.spec.name for kept in OTHERS] == [kept.spec.name for kept in SCHEDULES]


def times_in(spec: ScheduleSpec) -> tuple[str, str, int, int]:
    """All that says when it fires; not asked of the state, which is judged by it."""
    return spec.expression, spec.zone, spec.period_ms, spec.anchor_ms


class Slots:
    """All slots of one schedule between two dates, ascending, in milliseconds."""

    __slots__ = ("_known", "all")

    def __init__(self, slots: Sequence[int]) -> None:
        self.all = slots
        self._known = frozenset(slots)

    def __contains__(self, slot_ms: object) -> bool:
        return slot_ms in self._known

    def after(self, instant_ms: int) -> int:
        """The first one behind an instant; a date that never comes if the walk has ended before."""
        place = bisect_right(self.all, instant_ms)
        return self.all[place] if place < len(self.all) else 1 << 60

    def between(self, first_ms: int, end_ms: int) -> Sequence[int]:
        """Those from `first_ms` on and before `end_ms`."""
        return self.all[bisect_left(self.all, first_ms) : bisect_left(self.all, end_ms)]

    def then(self, last_ms: int, others: "Slots", since_ms: int) -> "Slots":
        """These until `last_ms`, and `others` behind `since_ms`."""
        return Slots([*self.between(0, last_ms + 1), *others.between(since_ms + 1, 1 << 60)])


def walk(start_ms: int, end_ms: int) -> dict[str, Slots]:
    """The slots of all SCHEDULES, by name. `start_ms` is a whole minute at which no clock has just been put back."""
    return {kept.spec.name: slots for kept, slots in zip(SCHEDULES, _walked(start_ms, end_ms), strict=False)}


def walk_others(start_ms: int, end_ms: int) -> dict[str, Slots]:
    """The same of OTHERS."""
    slots = _walked(start_ms, end_ms)[len(SCHEDULES) :]
    return {kept.spec.name: slots for kept, slots in zip(OTHERS, slots, strict=True)}


@lru_cache(maxsize=8)
def _walked(start_ms: int, end_ms: int) -> list[Slots]:
    """Of SCHEDULES, and of OTHERS behind them."""
    every = [(kept, list[int]()) for kept in (*SCHEDULES, *OTHERS)]
    for zone in dict.fromkeys(kept.spec.zone for kept, _ in every if kept.rule is not None):
        rules = [(kept.rule, slots) for kept, slots in every if kept.rule and kept.spec.zone == zone]
        _walk_zone(zone, start_ms // 1_000, end_ms // 1_000, rules)
    for kept, slots in every:
        if kept.rule is None:
            period, anchor = kept.spec.period_ms, kept.spec.anchor_ms
            first = -(-(start_ms - anchor) // period) * period + anchor
            slots += range(first, end_ms, period)
    return [Slots(slots) for _, slots in every]


def _walk_zone(zone: str, start: int, end: int, rules: Sequence[tuple[Rule, list[int]]]) -> None:
    """A fixed time counts when the clock first shows it, or jumps over it; while it shows some again, the daemon waits
    for the first that it has not shown. Others count whenever the clock shows them."""
    tz, minute = ZoneInfo(zone), timedelta(minutes=1)
    shown = _clock(start, tz) - minute
    for second in range(start, end, MINUTE_S):
        local = _clock(second, tz)
        new = []                        # minutes that count for fixed times now
        while shown < local:
            shown += minute
            new.append(shown)
        for rule, slots in rules:
            if not rule.is_fixed:
                if rule.matches(local):
                    slots += [(second + offset) * 1_000 for offset in rule.seconds]
            elif any(rule.matches(late) for late in new[:-1]):
                slots.append(second * 1_000)        # caught up with, once for all that were jumped over
            elif new and rule.matches(local):
                slots += [(second + offset) * 1_000 for offset in rule.seconds]


def changes(start_ms: int, end_ms: int) -> list[int]:
    """When the clocks of any of the zones change, ascending."""
    found = set()
    for zone in dict.fromkeys(kept.spec.zone for kept in SCHEDULES if kept.rule is not None):
        tz, before = ZoneInfo(zone), None
        for second in range(start_ms // 1_000, end_ms // 1_000, 30 * MINUTE_S):
            offset = datetime.fromtimestamp(second, tz).utcoffset()
            if before is not None and offset != before:
                found.add(second * 1_000)
            before = offset
    return sorted(found)


def _clock(second: int, tz: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(second, tz).replace(tzinfo=None, fold=0)


def text_of(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1_000, UTC):%Y-%m-%d %H:%M:%S}"
