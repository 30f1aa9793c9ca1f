"""Schedules as users write them. All that cannot be is refused here, where a schedule is defined, and not at the
leader in the night: with what is wrong, where, and what would be right."""

from datetime import datetime

from cronsim import CronSim, CronSimError

from cluster.durations import DURATION_MS_MAX, WRITTEN_UNITS, Duration, milliseconds
from cluster.errors import ScheduleError
from cluster.schedules.times import CronTimes, EveryTimes
from cluster.schedules.zones import zone_named

EXPRESSION_CHARACTERS_MAX = 256
PERIOD_MS_MIN = 1_000
PERIOD_MS_MAX = DURATION_MS_MAX

# The fields, in order; an expression of five leaves the first one out, which is 0 then. With the greatest step, since a
# greater one would do nothing but look like it: `*/90` for the minute is once an hour.
FIELDS = (
    ("second", 59, "0 to 59"),
    ("minute", 59, "0 to 59"),
    ("hour", 23, "0 to 23"),
    ("day-of-month", 31, "1 to 31, L (the last day) and LW (the last one of Monday to Friday)"),
    ("month", 12, "1 to 12 and JAN to DEC"),
    (
        "day-of-week", 7,
        "0 to 7 (0 and 7 are Sunday), SUN to SAT, 5L (the last Friday of the month) and MON#2 (its second Monday)",
    ),
)  # fmt: skip
FORMS = "*, lists (1,2), ranges (1-5), steps (*/5, 1-9/2)"

# Names that crontab(5) has for expressions: one way of writing each is enough.
NAMED = {
    "@HOURLY": "0 * * * *",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@WEEKLY": "0 0 * * 0",
    "@MONTHLY": "0 0 1 * *",
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
}

# Whether an expression ever matches is asked from here on: there is no clock in a definition, and none is needed, since
# the calendar repeats itself, and a zone's latest rules hold on.
FIRST_ASKED_MS = 1_767_225_600_000      # 1 January 2026
_ANY_DAY = datetime(2026, 1, 1)


def cron(expression: str, zone: str) -> CronTimes:
    """A schedule by a cron expression: minute, hour, day of month, month, day of week; of six fields the first is the
    second. `zone` is an IANA name.

    Raises ScheduleError for what is no expression, never comes, or for an unknown zone; TypeError for what is no text.
    """
    for what, value in (("cron", expression), ("tz", zone)):
        if not isinstance(value, str):
            raise TypeError(f"{what}: expected text, not {value!r}")
    fields = expression.upper().split()
    if len(expression) > EXPRESSION_CHARACTERS_MAX:
        allowed = f"at most {EXPRESSION_CHARACTERS_MAX} characters are allowed"
        raise ScheduleError("cron", expression, "is too long", allowed)
    if same := NAMED.get(" ".join(fields)):
        raise ScheduleError("cron", expression, "is a name that is not taken here", f'write "{same}"')
    if len(fields) not in (5, 6):
        raise ScheduleError(
            "cron", expression, f"has {len(fields)} field{'s' if len(fields) != 1 else ''}",
            'allowed are five (minute, hour, day-of-month, month, day-of-week), as in "0 21 * * MON-FRI", '
            "and six, with the second in front",
        )  # fmt: skip
    for index, field in enumerate(fields, start=len(FIELDS) - len(fields)):
        for term in field.split(","):
            _check_term(index, field, term)
    zone_named(zone)
    times = CronTimes(" ".join(fields), zone)
    if not _is_valid(times.expression) or times.next_after(FIRST_ASKED_MS) is None:
        raise ScheduleError(
            "cron", times.expression, "never comes",
            f"no time in {zone} has all of this at once: there is no 31 February, and no time in a gap of the clocks",
        )  # fmt: skip
    return times


def every(period: Duration, anchor_ms: int = 0) -> EveryTimes:
    """A schedule by an interval of 1 s to 10 years: a timedelta, seconds, or text such as "15m".

    Raises ScheduleError for a period that is no duration or out of range, TypeError for another type.
    """
    allowed = f'allowed are 1 s to 3650 d, for example "15m" or "1h30m", {WRITTEN_UNITS}'
    try:
        period_ms = milliseconds("every", period)
    except ValueError:
        raise ScheduleError("every", str(period), "is no period", allowed) from None
    if not PERIOD_MS_MIN <= period_ms <= PERIOD_MS_MAX:
        raise ScheduleError("every", str(period), "is too short", allowed)
    return EveryTimes(period_ms, anchor_ms)


def _check_term(index: int, field: str, term: str) -> None:
    """One part of the list that a field is."""
    name, step_max, values = FIELDS[index]
    allowed = f"allowed are {values}, and {FORMS}"
    base, slash, step = term.partition("/")
    if not term:
        raise ScheduleError(name, field, "has an empty part", allowed)
    first, dash, last = base.partition("-")
    if not _fits(index, term):
        if dash and first and last and _fits(index, first) and _fits(index, last):
            hint = '; Sunday at the end of a range is 7' if name == "day-of-week" else ""
            raise ScheduleError(name, term, "ends before it begins", f'write two ranges, as in "22-23,0-5"{hint}')
        raise ScheduleError(name, term, "is not known", allowed)
    if slash and base in ("L", "LW"):
        raise ScheduleError(name, term, "is a step of a single day", f"write {base}")
    if slash and dash and _fits(index, f"{last}-{first}"):
        # cronsim takes the range for a single value, from which steps go on to the end of the field.
        hint = f"write {first}, or {first}/{step} to go on from there"
        raise ScheduleError(name, term, "is a step of a single value", hint)
    if slash and int(step) > step_max:
        raise ScheduleError(name, term, "is a step out of the field", f"{step_max} is the greatest one")


def _fits(index: int, term: str) -> bool:
    """Whether a term is known in its field: the rest of the expression is anything."""
    return _is_valid(" ".join(term if other == index else "*" for other in range(len(FIELDS))))


def _is_valid(expression: str) -> bool:
    try:
        CronSim(expression, _ANY_DAY)
    except CronSimError:
        return False
    return True

