"""Options of a task as users type them, and as they travel."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from msgspec import structs

from cluster.backoff import Backoff
from cluster.durations import WRITTEN, WRITTEN_UNITS, duration_text, milliseconds
from cluster.state.commands import (
    CONCURRENCY_MAX,
    DATE_MS_MAX,
    PERIOD_MS_MAX,
    PERIOD_MS_MIN,
    PRIORITY_MAX,
    RETRIES_MAX,
    STARTS_MAX,
    LineRule,
    Options,
)

LABELS_MAX = 32
NAME_CHARACTERS_MAX = 255
FENCE_MAX = 2**63 - 1
LINE_BYTES_MAX = 255                # of a share, of a limit's name, and of a key of work, in UTF-8
NO_LINE = LineRule()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What other systems call these.
OTHER_WORDS = {
    "eta": "at",
    "countdown": "delay",
    "rate_limit": "rate",
    "max_concurrency": "concurrency",
    "max_runs": "concurrency",
    "group": "share",
    "tenant": "share",
    "partition": "share",
    "fairness_key": "share",
    "limit_name": "limit",
    "unique": "dedup",
    "unique_key": "dedup",
    "dedup_key": "dedup",
    "deduplication_id": "dedup",
    "idempotency_key": "dedup",
    "job_id": "dedup",
    "unique_for": "dedup_window",
    "dedup_ttl": "dedup_window",
}
LIMITED_KEY = (
    "rate, concurrency, share and limit are not for calls with a key: tasks of a key wait in a line of their own, for "
    "the one slot that owns the key; leave these options out, or give them to calls without a key"
)

_RATE = re.compile(rf"([0-9]+)/({WRITTEN}|ms|s|m|h|d)")


def merge_options(base: Options, given: Mapping[str, object]) -> Options:
    """`base` with what was `given` under the names that users type. Raises TypeError and ValueError, naming
    the option.
    """
    changes: dict[str, object] = {}
    line_changes: dict[str, object] = {}
    if "delay" in given and "at" in given:
        raise ValueError("delay, at: both say when it may start; leave one of them out")
    for name, value in given.items():
        if name in _LINE_PARSERS:
            line_changes |= _LINE_PARSERS[name](name, value)
        elif name in _PARSERS:
            changes |= _PARSERS[name](name, value)
        else:
            raise unknown_option(name, (*_PARSERS, *_LINE_PARSERS))
    line = structs.replace(base.line or NO_LINE, **line_changes) if line_changes else base.line
    if line_changes:
        changes["line"] = _checked_line(line)
    merged = structs.replace(base, **changes) if changes else base
    if merged.key and merged.line is not None:
        raise ValueError(LIMITED_KEY)
    if merged.soft_timeout_ms >= merged.timeout_ms:
        raise ValueError(
            f"soft_timeout: {merged.soft_timeout_ms / 1_000:g} s is no less than timeout, which is "
            f"{merged.timeout_ms / 1_000:g} s: nothing would be raised before the task is ended"
        )
    if 0 < merged.expires_ms <= merged.delay_ms:
        raise ValueError(
            f"expires: {duration_text(merged.expires_ms)} is no longer than delay, which is "
            f"{duration_text(merged.delay_ms)}: it would expire before it may start"
        )
    return merged


def check_dates(options: Options, now_ms: int) -> None:
    """For a call that is submitted `now_ms`, in Unix time. Raises ValueError if it could not start before it expires:
    nobody knows that earlier, since `at` is a date and `expires` counts from then on."""
    if options.at_ms and 0 < options.expires_ms <= options.at_ms - now_ms:
        at = EPOCH + timedelta(milliseconds=options.at_ms)
        raise ValueError(
            f"expires: {duration_text(options.expires_ms)} is no longer than until at, which is {at}, in "
            f"{duration_text(options.at_ms - now_ms)}: it would expire before it may start"
        )


def take_fence(given: Mapping[str, object], default: int) -> tuple[int, dict[str, object]]:
    """The option `fence` of a call, or `default`, and the others. Raises TypeError and ValueError."""
    others = dict(given)
    fence = others.pop("fence", default)
    if not isinstance(fence, int) or isinstance(fence, bool):
        raise TypeError(f"fence: expected that of a lock that is held, lock.fence, not {fence!r}")
    if "fence" in given and not 0 < fence <= FENCE_MAX:
        raise ValueError(f"fence: {fence} is none; that of a lock that is held, lock.fence, is above 0")
    return fence, others


def define_options(given: Mapping[str, object]) -> Options:
    """Those of a definition. Raises TypeError and ValueError, as `merge_options`."""
    if "at" in given:
        raise TypeError(
            '"at" is no option of a definition: a date comes once; give it to a call, with task.options(at=...), or '
            "write a schedule with @cron or @every"
        )
    return merge_options(Options(), given)


def unknown_option(name: str, known: Iterable[str]) -> TypeError:
    """The error for an option that does not exist, with the nearest one that does."""
    if name == "name":
        return TypeError(
            "\"name\" is no option of a call: workers find a task by the name that it has where it is defined; "
            "give it there, with @task(name=...)"
        )
    if name == "fence":
        return TypeError(
            '"fence" is no option of a definition: locks are held for a time, and a fence of when the module was '
            "imported would be of none that is held; give it to a call, with task.options(fence=lock.fence)"
        )
    names = sorted(known)
    near = [OTHER_WORDS[name]] if name in OTHER_WORDS else difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names)}"
    return TypeError(f'unknown task option "{name}": {hint}')


def _positive(what: str, value: object) -> int:
    result = milliseconds(what, value)
    if result == 0:
        raise ValueError(f"{what}: must be above 0")
    return result


def _delay(what: str, value: object) -> dict[str, object]:
    return {"delay_ms": milliseconds(what, value), "at_ms": 0}


def _date(what: str, value: object) -> dict[str, object]:
    """A date in the place of a delay; one that is over is right away."""
    if not isinstance(value, datetime):
        raise TypeError(f"{what}: expected a datetime with a time zone, not {value!r}")
    if value.utcoffset() is None:
        raise ValueError(
            f"{what}: {value} has no time zone, so it is another moment on another machine; write for example "
            'datetime(2026, 3, 1, 9, tzinfo=ZoneInfo("Europe/Berlin")), or .astimezone() for that of this machine'
        )
    milliseconds_since = -((EPOCH - value) // timedelta(milliseconds=1))      # rounded up
    return {"delay_ms": 0, "at_ms": max(0, min(milliseconds_since, DATE_MS_MAX))}


def _name(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a name, not {value!r}")
    if not 0 < len(value) <= NAME_CHARACTERS_MAX:
        raise ValueError(f"{what}: a name has 1 to {NAME_CHARACTERS_MAX} characters")
    return value


def _integer(maximum: int) -> Callable[[str, object], int]:
    def parse(what: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{what}: expected an integer, not {value!r}")
        if not 0 <= value <= maximum:
            raise ValueError(f"{what}: {value} is out of range, 0 to {maximum} are allowed")
        return value

    return parse


def _labels(what: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{what}: expected a list of names, not {value!r}")
    labels = tuple(sorted({_name(what, label) for label in value}))
    if len(labels) > LABELS_MAX:
        raise ValueError(f"{what}: at most {LABELS_MAX} are allowed")
    return labels


def _retry(what: str, value: object) -> dict[str, object]:
    """A number stands for as many retries, with the pauses of a `Backoff`."""
    if isinstance(value, Backoff):
        return {"retries": value.times, "retry": value.rule}
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: expected a number of retries or a Backoff, not {value!r}")
    return {"retries": _integer(RETRIES_MAX)(what, value), "retry": None}


def _field(field: str, parse: Callable[[str, object], object]) -> Callable[[str, object], dict[str, object]]:
    return lambda what, value: {field: parse(what, value)}


def _rate(what: str, value: object) -> dict[str, object]:
    """How many in how many milliseconds; None is any number."""
    if value is None:
        return {"starts": 0, "period_ms": 0}
    if not isinstance(value, str):
        raise TypeError(f'{what}: expected text such as "100/m", not {value!r}')
    found = _RATE.fullmatch(value.replace(" ", ""))
    if found is None:
        raise ValueError(
            f'{what}: "{value}" is no rate; write how many in which time, for example "100/m", "5/s" or "3/10s", '
            f"{WRITTEN_UNITS}"
        )
    number, period = found.groups()
    starts = int(number) if len(number) < 20 else STARTS_MAX + 1
    if not 1 <= starts <= STARTS_MAX:
        raise ValueError(f'{what}: "{value}" is out of range, 1 to {STARTS_MAX:,} in a period are allowed')
    try:
        period_ms = milliseconds(what, period if period[0].isdigit() else f"1{period}")
    except ValueError:                  # more than any duration may have
        period_ms = PERIOD_MS_MAX + 1
    if not PERIOD_MS_MIN <= period_ms <= PERIOD_MS_MAX:
        raise ValueError(f'{what}: "{value}" is out of range, periods of {PERIOD_MS_MIN}ms to 366d are allowed')
    return {"starts": starts, "period_ms": period_ms}


def _concurrency(what: str, value: object) -> dict[str, object]:
    """How many at a time; None is any number."""
    if value is None:
        return {"concurrency": 0}
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: expected how many at a time, not {value!r}")
    if not 1 <= value <= CONCURRENCY_MAX:
        raise ValueError(f"{what}: {value} is out of range, 1 to {CONCURRENCY_MAX:,} at a time are allowed")
    return {"concurrency": value}


def _share(what: str, value: object) -> dict[str, object]:
    return {"share": "" if value is None else _line_name(what, value)}


def _limit(what: str, value: object) -> dict[str, object]:
    name = "" if value is None else _line_name(what, value)
    if _RATE.fullmatch(name):
        raise ValueError(f'{what}: "{name}" is a rate: write rate="{name}"; {what} is the name of a limit')
    return {"limit": name}


def _dedup(what: str, value: object) -> dict[str, object]:
    return {"dedup": "" if value is None else _line_name(what, value)}


def _dedup_window(what: str, value: object) -> dict[str, object]:
    return {"dedup_ms": 0 if value is None else milliseconds(what, value)}


def _line_name(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a str, not {value!r}; write str(...) around it, the same way everywhere")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what}: {value!r} is no valid Unicode") from None
    if not 0 < size <= LINE_BYTES_MAX:
        raise ValueError(f"{what}: 1 to {LINE_BYTES_MAX} bytes of UTF-8 are allowed, not {size}")
    return value


def _checked_line(line: LineRule | None) -> LineRule | None:
    if line is None or line == NO_LINE:
        return None
    if line.limit and not line.concurrency and not line.starts:
        raise ValueError(f'limit: "{line.limit}" is a name; say with rate or concurrency what the limit is')
    return line


# What users type -> the fields of Options that it changes.
_PARSERS: dict[str, Callable[[str, object], dict[str, object]]] = {
    "timeout": _field("timeout_ms", _positive),
    "soft_timeout": _field("soft_timeout_ms", _positive),
    "retry": _retry,
    "priority": _field("priority", _integer(PRIORITY_MAX)),
    "queue": _field("queue", _name),
    "labels": _field("labels", _labels),
    "delay": _delay,
    "at": _date,
    "expires": _field("expires_ms", _positive),
    "result_ttl": _field("result_ttl_ms", milliseconds),
    "dedup": _dedup,
    "dedup_window": _dedup_window,
}

# Likewise, of its LineRule.
_LINE_PARSERS: dict[str, Callable[[str, object], dict[str, object]]] = {
    "rate": _rate,
    "concurrency": _concurrency,
    "share": _share,
    "limit": _limit,
}
