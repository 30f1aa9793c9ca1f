"""Durations as users type them."""

import re
from datetime import timedelta

Duration = timedelta | float | str

DURATION_MS_MAX = 10 * 365 * 24 * 3600 * 1000

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")

# Each unit at most once and in this order: of "5m5m" one 5 was meant to be another unit, or another number.
WRITTEN = "(?=[0-9])" + "".join(f"(?:{_NUMBER}{unit})?" for unit in _UNITS_MS)
WRITTEN_UNITS = "in the units d, h, m, s and ms, each at most once and in this order, in small letters"
_WHOLE = re.compile(WRITTEN)


def milliseconds(what: str, value: object) -> int:
    """A duration as whole milliseconds, rounded up: a timedelta, a number of seconds, or text such as
    "1h30m".

    Raises TypeError for another type, ValueError for text that is no duration, and for one below 0 or above
    10 years.
    """
    if isinstance(value, timedelta):
        microseconds = value // timedelta(microseconds=1)
    elif isinstance(value, str):
        compact = value.replace(" ", "")
        if compact.startswith("-") and _WHOLE.fullmatch(compact[1:]) is not None:
            raise _negative(what, value)
        if _WHOLE.fullmatch(compact) is None:
            raise ValueError(
                f'{what}: "{value}" is no duration; write for example "250ms", "5m" or "1h30m", {WRITTEN_UNITS}'
            )
        written_ms = sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(compact))
        microseconds = round(min(written_ms, DURATION_MS_MAX + 1) * 1_000)      # so many digits may be infinite
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or abs(value) > DURATION_MS_MAX:
            raise ValueError(f"{what}: {value} s is out of range, 0 to 10 years are allowed")
        microseconds = round(value * 1_000_000)
    else:
        raise TypeError(f"{what}: expected a timedelta, seconds or text such as \"5m\", not {value!r}")
    result = -(-microseconds // 1_000)
    if microseconds < 0:
        raise _negative(what, value)
    if result > DURATION_MS_MAX:
        raise ValueError(f"{what}: {value!r} is out of range, 0 to 10 years are allowed")
    return result


def seconds(what: str, value: object) -> float:
    """The same as seconds, in whole milliseconds."""
    return milliseconds(what, value) / 1_000


def timeout_seconds(value: object) -> float | None:
    """The argument `timeout`: how long somebody waits, None for as long as it takes. Raises as `milliseconds`."""
    return None if value is None else seconds("timeout", value)


def deadline_seconds(value: object) -> float:
    """The argument `deadline` of every request. Raises as `milliseconds`, and ValueError for 0: nothing is done in no
    time."""
    allowed = seconds("deadline", value)
    if not allowed:
        raise ValueError(f"deadline: {value!r} leaves no time for a request; write for example \"30s\" or 30")
    return allowed


def duration_text(ms: int) -> str:
    """Whole milliseconds as users write them, such as "1h30m"."""
    text = ""
    for unit, size in _UNITS_MS.items():
        count, ms = divmod(ms, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def waited_text(seconds: float) -> str:
    """How long somebody has waited: in whole seconds, or in milliseconds if it was less than one."""
    ms = round(seconds * 1_000)
    return duration_text(ms if ms < 1_000 else ms // 1_000 * 1_000)


def _negative(what: str, value: object) -> ValueError:
    return ValueError(f"{what}: {value!r} is negative; a duration counts from now and is 0 or more")
