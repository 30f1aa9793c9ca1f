"""Options of a task as users type them, and as they travel."""

import difflib
from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from cluster.backoff import Backoff
from cluster.durations import milliseconds
from cluster.state.commands import PRIORITY_MAX, RETRIES_MAX, Options

LABELS_MAX = 32
NAME_CHARACTERS_MAX = 255
FENCE_MAX = 2**63 - 1



def merge_options(base: Options, given: Mapping[str, object]) -> Options:
    """`base` with what was `given` under the names that users type. Raises TypeError and ValueError, naming
    the option.
    """
    changes: dict[str, object] = {}
    for name, value in given.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise unknown_option(name, _PARSERS)
        changes |= parser(name, value)
    merged = structs.replace(base, **changes) if changes else base
    if merged.soft_timeout_ms >= merged.timeout_ms:
        raise ValueError(
            f"soft_timeout: {merged.soft_timeout_ms / 1_000:g} s is no less than timeout, which is "
            f"{merged.timeout_ms / 1_000:g} s: nothing would be raised before the task is ended"
        )
    return merged


def take_fence(given: Mapping[str, object], default: int) -> tuple[int, dict[str, object]]:
    """The option `fence` of a call, or `default`, and the others. Raises TypeError and ValueError."""
    others = dict(given)
    fence = others.pop("fence", default)
    if not isinstance(fence, int) or isinstance(fence, bool):
        raise TypeError(f"fence: expected that of a lock that is held, lock.fence, not {fence!r}")
    if "fence" in given and not 0 < fence <= FENCE_MAX:
        raise ValueError(f"fence: {fence} is none; that of a lock that is held, lock.fence, is above 0")
    return fence, others


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


def _retry(what: str, value: object) -> dict[str, object]:
    """A number stands for as many retries, with the pauses of a `Backoff`."""
    if isinstance(value, Backoff):
        return {"retries": value.times, "retry": value.rule}
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: expected a number of retries or a Backoff, not {value!r}")
    return {"retries": _integer(RETRIES_MAX)(what, value), "retry": None}


def _field(field: str, parse: Callable[[str, object], object]) -> Callable[[str, object], dict[str, object]]:
    return lambda what, value: {field: parse(what, value)}


# What users type -> the fields of Options that it changes.
_PARSERS: dict[str, Callable[[str, object], dict[str, object]]] = {
    "timeout": _field("timeout_ms", _positive),
    "soft_timeout": _field("soft_timeout_ms", _positive),
    "retry": _retry,
    "priority": _field("priority", _integer(PRIORITY_MAX)),
    "queue": _field("queue", _name),
    "labels": _field("labels", _labels),
    "delay": _field("delay_ms", milliseconds),
    "expires": _field("expires_ms", _positive),
    "result_ttl": _field("result_ttl_ms", milliseconds),
}
