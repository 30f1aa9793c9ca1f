"""The local time of a zone and instants, both ways.

An instant is a whole number of seconds since the epoch; a local time is a datetime without a zone. One local time
stands for no instant where the clocks are put forward (a gap), for two where they are put back (an overlap, which is
passed twice), and for one everywhere else.
"""

import difflib
from bisect import bisect_left
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cluster.errors import ScheduleError

SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1)
# What lies among the zones of a machine and is none of the world's: it differs from one machine to the next, stands for
# nothing, or counts leap seconds.
NO_ZONES = ("Factory", "localtime", "posixrules")
NO_ZONES_UNDER = ("posix/", "right/")
NAME_CHARACTERS_MAX = 64        # of a name that is compared with all known ones; the longest of these has 32


def zone_named(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises ScheduleError for all other names, with the nearest known one."""
    if name not in NO_ZONES and not name.startswith(NO_ZONES_UNDER):
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):      # unknown, no path, a folder of zones or another file
            pass
    near = _nearest(name)
    hint = f'did you mean "{near}"?' if near else "allowed are names such as \"Europe/Berlin\" and \"UTC\""
    raise ScheduleError("tz", name, "is no time zone by its IANA name", hint)


def local_time(zone: ZoneInfo, second: int) -> datetime:
    """What the clocks show; its `fold` is 1 in the second pass of an overlap."""
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None)


def instants(zone: ZoneInfo, local: datetime) -> tuple[int, ...]:
    """When the clocks show this local time: once, twice (ascending), or never."""
    first, second = _readings(zone, local)
    if first == second:
        return (first,)
    return (first, second) if first < second else ()


def passes_again(zone: ZoneInfo, local: datetime) -> bool:
    """Whether this is the first pass of an overlap, so that the clocks will show the same once more."""
    first, second = _readings(zone, local)
    return not local.fold and first < second


def clock_change(zone: ZoneInfo, local: datetime) -> int:
    """The first instant behind the gap that swallows `local`, or that of the second pass of the overlap around it."""
    before, after = sorted(_readings(zone, local))
    assert before < after, f"no clock of {zone.key} is put forward or back at {local}"
    # The readings are those with the offsets of both sides, so they lie on both sides: no further apart than the clocks
    # jump, and not a second change in between.
    offset = _offset(zone, before)
    return before + bisect_left(range(before, after), True, key=lambda second: _offset(zone, second) != offset)


def _readings(zone: ZoneInfo, local: datetime) -> tuple[int, int]:
    """A local time taken with the offset before a change of the clocks, and with the one behind it. The first is the
    greater one in a gap, the smaller one in an overlap, and both are the same everywhere else (PEP 495)."""
    seconds = (local - EPOCH) // SECOND
    before, after = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None and after is not None
    return seconds - before // SECOND, seconds - after // SECOND


def _offset(zone: ZoneInfo, second: int) -> int:
    return (local_time(zone, second) - EPOCH) // SECOND - second


def _nearest(name: str) -> str | None:
    """The known name that somebody meant: in other letters, a city without its continent, or mistyped."""
    known = {zone.lower(): zone for zone in sorted(available_timezones()) if zone not in NO_ZONES}
    meant = name[:NAME_CHARACTERS_MAX].lower().replace(" ", "_")
    for lower, zone in known.items():
        if meant in (lower, lower.rpartition("/")[2]):
            return zone
    # Abbreviations are no hints: whoever writes KST does not mean EST.
    near = difflib.get_close_matches(meant, [lower for lower in known if "/" in lower], n=1)
    return known[near[0]] if near else None
