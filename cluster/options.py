"""Options of a task as users type them, and as they travel."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from msgspec import structs

from cluster.state.commands import PRIORITY_MAX, Options

Duration = timedelta | float | str

DURATION_MS_MAX = 10 * 365 * 24 * 3600 * 1000
RETRIES_MAX = 1_000
LABELS_MAX = 32
NAME_CHARACTERS_MAX = 255

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def milliseconds(what: str, value: object) -> int:
    """A duration as whole milliseconds, rounded up: a timedelta, a number of seconds, or text such as
    "1h30m".

    Raises TypeError for another type, ValueError for text that is no duration, and for one below 0 or above
    10 years.
    """
    if isinstance(value, timedelta):
        microseconds = value // timedelta(microseconds=1)
    elif isinstance(value, str):
        compact = value.replace(" ", "").lower()
        if compact.startswith("-") and _WHOLE.fullmatch(compact[1:]) is not None:
            raise _negative(what, value)
        if _WHOLE.fullmatch(compact) is None:
            raise ValueError(f'{what}: "{value}" is no duration; write for example "250ms", "5m" or "1h30m"')
        microseconds = round(
            sum(float(number) * _UNITS_MS[unit] * 1_000 for number, unit in _PART.findall(compact))
        )
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


def _negative(what: str, value: object) -> ValueError:
    return ValueError(f"{what}: {value!r} is negative; a duration counts from now: give 0 or more, up to 10 years")


def merge_options(base: Options, given: Mapping[str, object]) -> Options:
    """`base` with what was `given` under the names that users type. Raises TypeError and ValueError, naming
    the option.
    """
    changes: dict[str, object] = {}
    for name, value in given.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise unknown_option(name, _PARSERS)
        field, parse = parser
        changes[field] = parse(name, value)
    return structs.replace(base, **changes) if changes else base


def unknown_option(name: str, known: Iterable[str]) -> TypeError:
    """The error for an option that does not exist, with the nearest one that does."""
    if name == "name":
        return TypeError(
            "\"name\" is no option of a call: workers find a task by the name that it has where it is defined; "
            "give it there, with @task(name=...)"
        )
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names)}"
    return TypeError(f'unknown task option "{name}": {hint}')


def _positive(what: str, value: object) -> int:
    result = milliseconds(what, value)
    if result == 0:
        raise ValueError(f"{what}: must be above 0")
    return result


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


# What users type -> the field of Options and its parser.
_PARSERS: dict[str, tuple[str, Callable[[str, object], object]]] = {
    "timeout": ("timeout_ms", _positive),
    "retry": ("retries", _integer(RETRIES_MAX)),
    "priority": ("priority", _integer(PRIORITY_MAX)),
    "queue": ("queue", _name),
    "labels": ("labels", _labels),
    "delay": ("delay_ms", milliseconds),
    "expires": ("expires_ms", _positive),
    "result_ttl": ("result_ttl_ms", milliseconds),
}
