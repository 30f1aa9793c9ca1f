"""Slots found the slow way: every minute or second is looked at, as the daemon does whose rule is followed.

Nothing here knows of `cluster.schedules`. An expression is drawn with the values that it stands for, so that no parser
is needed.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MINUTE_S = 60

Field = tuple[str, frozenset[int]]


@dataclass(frozen=True)
class Expression:
    """An expression, and what each of its fields allows; days of the week are 0 to 6."""

    minutes: Field
    hours: Field
    days: Field
    months: Field
    weekdays: Field
    seconds: Field | None = None

    @property
    def text(self) -> str:
        five = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(field[0] for field in ((self.seconds, *five) if self.seconds else five))

    @property
    def is_fixed(self) -> bool:
        """cron(8): jobs with a `*` in the hour or minute specifier are run by the new time immediately."""
        return not (self.minutes[0].startswith("*") or self.hours[0].startswith("*"))

    def matches(self, local: datetime) -> bool:
        """crontab(5): if both days are restricted (do not start with `*`), one of them is enough."""
        day = local.day in self.days[1]
        weekday = local.isoweekday() % 7 in self.weekdays[1]
        either = not (self.days[0].startswith("*") or self.weekdays[0].startswith("*"))
        return (
            local.second in (self.seconds[1] if self.seconds else {0})
            and local.minute in self.minutes[1]
            and local.hour in self.hours[1]
            and local.month in self.months[1]
            and ((day or weekday) if either else (day and weekday))
        )


def walked(expression: Expression, zone: str, start: int, end: int) -> list[int]:
    """The slots in seconds, `start` <= slot < `end`, of which `start` is a whole minute outside of any overlap.

    Debian's cron goes from minute to minute. Jobs by the clock run if what the clock shows matches. For fixed jobs it
    counts the minutes that the clock has shown: those that it jumps over are caught up with, those that it shows again
    are waited for.
    """
    step = MINUTE_S if expression.seconds is None else 1
    unit = timedelta(seconds=step)
    tz = ZoneInfo(zone)
    slots = []
    shown = clock(start, tz) - unit
    for second in range(start, end, step):
        local = clock(second, tz)
        if not expression.is_fixed:
            fires = expression.matches(local)
        else:
            fires = False
            while shown < local:
                shown += unit
                fires = fires or expression.matches(shown)
        if fires:
            slots.append(second)
    return slots


def clock(second: int, tz: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(second, UTC).astimezone(tz).replace(tzinfo=None)


def ms(text: str) -> int:
    """Milliseconds of a date with an offset, such as 2026-03-29T03:00+02:00."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def fields(low: int, high: int, names: list[str] | None = None, name_first: int = 0) -> st.SearchStrategy[Field]:
    """A field, with its values; sometimes with names instead of numbers."""

    def written(value: int, named: bool) -> str:
        return names[value - name_first] if named and names is not None else str(value)

    @st.composite
    def ranges(draw: st.DrawFn) -> Field:
        first = draw(st.integers(low, high - 1))
        last = draw(st.integers(first + 1, high))
        named = draw(st.booleans())
        step = draw(st.integers(1, max(1, (high - low) // 2)))
        text = f"{written(first, named)}-{written(last, named)}"
        return (text if step == 1 else f"{text}/{step}"), frozenset(range(first, last + 1, step))

    @st.composite
    def lists(draw: st.DrawFn) -> Field:
        values = draw(st.lists(st.integers(low, high), min_size=1, max_size=3))
        named = draw(st.booleans())
        return ",".join(written(value, named) for value in values), frozenset(values)

    @st.composite
    def steps(draw: st.DrawFn) -> Field:
        step = draw(st.integers(1, max(1, (high - low) // 2)))
        return f"*/{step}", frozenset(range(low, high + 1, step))

    return st.one_of(st.just(anything(low, high)), lists(), ranges(), steps())


def anything(low: int, high: int) -> Field:
    return "*", frozenset(range(low, high + 1))


# Days are free more often than not: what the clock does is of interest on the few days on which it jumps.
_DAYS = st.one_of(st.just(anything(1, 31)), fields(1, 31))
_MONTHS = st.one_of(st.just(anything(1, 12)), st.just(anything(1, 12)), fields(1, 12, MONTHS, 1))
# Steps of days of the week count on to 7, which is Sunday once more; drawn are those that do not get there.
_WEEKDAYS = st.one_of(
    st.just(anything(0, 6)), fields(0, 6, DAYS).filter(lambda field: not field[0].startswith("*/"))
)


def expressions(seconds: bool = False) -> st.SearchStrategy[Expression]:
    """Those that no definition would refuse: no 31 February."""
    drawn = st.builds(
        Expression, fields(0, 59), fields(0, 23), _DAYS, _MONTHS, _WEEKDAYS,
        fields(0, 59) if seconds else st.none(),
    )  # fmt: skip
    return drawn.filter(lambda each: min(each.days[1]) <= max(monthrange(2024, month)[1] for month in each.months[1]))


def around_the_change(seconds: bool = False) -> st.SearchStrategy[Expression]:
    """Expressions of which much is to be seen in the small hours of any day."""
    small_hours = fields(0, 4).filter(lambda field: not field[0].startswith("*"))
    every_other = ("*/2", frozenset(range(0, 24, 2)))
    return st.builds(
        Expression, fields(0, 59), st.one_of(st.just(anything(0, 23)), st.just(every_other), small_hours),
        st.just(anything(1, 31)), st.just(anything(1, 12)), st.just(anything(0, 6)),
        fields(0, 59) if seconds else st.none(),
    )  # fmt: skip
