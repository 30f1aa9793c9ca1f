"""The property of test_image is sharp: an image that forgets any of these is found out."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import msgspec
import pytest
from image_rig import (
    ForgetfulStream,
    assert_goes_on_alike,
    log_of,
)
from limited_stream import LimitedStream, TightStream
from needy_stream import NeedyStream, RivalStream
from random_stream import Stream

from cluster.state import dependencies, image, queues
from cluster.state.commands import LineRule
from cluster.state.rows import Order, Row, Section

Change = Callable[[int, Row], Row | None]


def _forget_refusals(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, refusals=[]) if section == Section.SESSIONS else row


def _forget_the_order_of(*whats: Order) -> Change:
    def change(section: int, row: Row) -> Row | None:
        if section != Section.ORDERS or row.what not in whats:
            return row
        return msgspec.structs.replace(row, items=sorted(row.items, reverse=True))

    return change


def _forget_all(what: Order) -> Change:
    return lambda section, row: None if section == Section.ORDERS and row.what is what else row


def _forget_estimates(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, estimate_us=queues.ESTIMATE_UNKNOWN_US) if section == Section.NAMES else row


def _forget_ended_names(section: int, row: Row) -> Row | None:
    return None if section == Section.ENDED else row


def _forget_ended_incarnations(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, ended=[]) if section == Section.SESSIONS else row


def _forget_the_dirty(section: int, row: Row) -> Row | None:
    return None if section == Section.ORDERS and row.what is Order.DIRTY else row


def _forget_epochs(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, epochs=0) if section == Section.HEAD else row


def _forget_fences(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, fences=0) if section == Section.HEAD else row


def _forget_claims(section: int, row: Row) -> Row | None:
    return None if section == Section.CLAIMS else row


def _forget_who_holds(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, fence=0) if section == Section.CLAIMS else row


def _forget_numbers_of_claims(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, last_claim=0) if section == Section.SESSIONS else row


def _forget_open_slots(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, slots_open=0) if section == Section.SESSIONS else row


def _forget_versions(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, versions=0) if section == Section.HEAD else row


def _forget_numbers_of_runs(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, run_number=0) if section == Section.HEAD else row


def _forget_sessions_of_runs(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, run_sessions=()) if section == Section.HEAD else row


def _forget_schedules(section: int, row: Row) -> Row | None:
    return None if section == Section.SCHEDULES else row


def _forget_of_schedules(**fields: object) -> Change:
    def change(section: int, row: Row) -> Row | None:
        return msgspec.structs.replace(row, **fields) if section == Section.SCHEDULES else row

    return change


def _forget_whose_runs_they_are(section: int, row: Row) -> Row | None:
    if section != Section.TASKS:
        return row
    return msgspec.structs.replace(row, specs=[msgspec.structs.replace(spec, schedule="") for spec in row.specs])


def _forget_void_ids(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, ids=row.ids[-row.known :]) if section == Section.LOTS else row


def _forget_what_was_seen(section: int, row: Row) -> Row | None:
    return None if section == Section.RANGES else row


def _forget_who_died_first(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, tasks=row.tasks[::-1]) if section == Section.DEAD else row


def _forget_replays(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, replays=None) if section == Section.TASKS else row


def _forget_the_order_of_evidence(section: int, row: Row) -> Row | None:
    if section != Section.EVIDENCE:
        return row
    triples = [row.attempts[start : start + 3] for start in range(0, len(row.attempts), 3)]
    return msgspec.structs.replace(row, attempts=[*chain.from_iterable(triples[::-1])])


def _forget_how_many_limits_there_were(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, limits_made=0) if section == Section.HEAD else row


def _forget_in_limits(**fields: object) -> Change:
    return lambda section, row: msgspec.structs.replace(row, **fields) if section == Section.LIMITS else row


def _forget_the_parts_of_windows(section: int, row: Row) -> Row | None:
    """As if all had started with the last one."""
    if section != Section.LIMITS or not row.window:
        return row
    return msgspec.structs.replace(row, window=[row.window[-2], sum(row.window[1::2])])


def _forget_the_lines_of_specs(section: int, row: Row) -> Row | None:
    if section != Section.TASKS:
        return row
    other = LineRule("other")
    specs = [msgspec.structs.replace(spec, line=other if spec.line is not None else None) for spec in row.specs]
    return msgspec.structs.replace(row, specs=specs)


def _forget_keys_of_work(section: int, row: Row) -> Row | None:
    return None if section == Section.KEYS else row


def _forget_windows_of_keys(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, until_ms=0) if section == Section.KEYS else row


def _forget_the_keys_of_specs(section: int, row: Row) -> Row | None:
    if section != Section.TASKS:
        return row
    specs = [msgspec.structs.replace(spec, dedup="other" if spec.dedup else "") for spec in row.specs]
    return msgspec.structs.replace(row, specs=specs)


def _forget_in_dependents(**fields: object) -> Change:
    return lambda section, row: msgspec.structs.replace(row, **fields) if section == Section.DEPENDENTS else row


def _forget_needs_that_are_kept(section: int, row: Row) -> Row | None:
    return None if section == Section.DEPENDENTS and not row.is_live else row


def _forget_who_waits(section: int, row: Row) -> Row | None:
    return None if section == Section.WAITED else row


def _forget_who_waited_first(section: int, row: Row) -> Row | None:
    return msgspec.structs.replace(row, waiting=row.waiting[::-1]) if section == Section.WAITED else row


OMISSIONS: dict[str, Change] = {
    "refusals": _forget_refusals,
    "order of a lane": _forget_the_order_of(Order.LANE),
    "estimates": _forget_estimates,
    "turn of slots": _forget_the_order_of(Order.IDLE_RING, Order.OPEN_RING),
    "turn of channels": _forget_the_order_of(Order.READY_RING),
    "order of what is held": _forget_the_order_of(Order.HELD_TASKS),
    "dirty pools": _forget_the_dirty,
    "epochs": _forget_epochs,
    "fences": _forget_fences,
    "claims": _forget_claims,
    "who holds": _forget_who_holds,
    "numbers of claims": _forget_numbers_of_claims,
    "open slots": _forget_open_slots,
    "ended names": _forget_ended_names,
    "ended incarnations": _forget_ended_incarnations,
    "versions of schedules": _forget_versions,
    "numbers of runs": _forget_numbers_of_runs,
    "sessions of runs": _forget_sessions_of_runs,
    "schedules": _forget_schedules,
    "what has begun": _forget_of_schedules(begun=[]),
    "what waits for a run": _forget_of_schedules(waiting=[]),
    "next slots": _forget_of_schedules(next_ms=0),
    "decided slots": _forget_of_schedules(passed_ms=0),
    "pauses": _forget_of_schedules(is_paused=False),
    "histories": _forget_of_schedules(history=[]),
    "alarms": _forget_of_schedules(alarm=0),
    "whose runs they are": _forget_whose_runs_they_are,
    "void ids of lots": _forget_void_ids,
    "what was seen": _forget_what_was_seen,
    "who died first": _forget_who_died_first,
    "replays": _forget_replays,
    "order of evidence": _forget_the_order_of_evidence,
}


OMISSIONS_OF_LIMITS: dict[str, Change] = {
    "turn of lines": _forget_the_order_of(Order.LINE_RING),
    "who is held back first": _forget_the_order_of(Order.LIMIT_RING),
    "who was served last": _forget_the_order_of(Order.PASSED),
    "who is not held back": _forget_all(Order.PASSED),
    "how many limits there were": _forget_how_many_limits_there_were,
    "what is with workers": _forget_in_limits(running=0),
    "starts": _forget_in_limits(window=[]),
    "dates of starts": _forget_the_parts_of_windows,
    "dates of limits": _forget_in_limits(date_ms=0),
    "lines of specs": _forget_the_lines_of_specs,
    "keys of work": _forget_keys_of_work,
    "windows of keys": _forget_windows_of_keys,
    "keys of specs": _forget_the_keys_of_specs,
}


OMISSIONS_OF_NEEDS: dict[str, Change] = {
    "who is behind another": _forget_in_dependents(behind=0),
    "who was not known": _forget_in_dependents(unknown=0),
    "delays of those that wait": _forget_in_dependents(delay_ms=0),
    "needs that are kept": _forget_needs_that_are_kept,
    "who waits": _forget_who_waits,
    "who waited first": _forget_who_waited_first,
    "ends that are to be told": _forget_all(Order.ENDS),
}


@pytest.mark.parametrize("omission", OMISSIONS)
def test_the_property_notices_what_an_image_forgets(monkeypatch, omission):
    logs = (log_of(seed, 120, kind) for seed in range(40) for kind in (Stream, ForgetfulStream))
    assert_noticed(monkeypatch, omission, OMISSIONS[omission], logs)


@pytest.mark.parametrize("omission", OMISSIONS_OF_LIMITS)
def test_the_property_notices_what_an_image_forgets_of_limits(monkeypatch, omission):
    logs = (log_of(seed, 120, kind) for seed in range(40) for kind in (TightStream, LimitedStream))
    assert_noticed(monkeypatch, omission, OMISSIONS_OF_LIMITS[omission], logs)


@pytest.mark.parametrize("omission", OMISSIONS_OF_NEEDS)
def test_the_property_notices_what_an_image_forgets_of_needs(monkeypatch, omission):
    monkeypatch.setattr(dependencies, "SETTLED_MAX", 2)
    logs = (log_of(seed, 120, kind) for seed in range(40) for kind in (RivalStream, NeedyStream))
    assert_noticed(monkeypatch, omission, OMISSIONS_OF_NEEDS[omission], logs)


def assert_noticed(monkeypatch, omission: str, change: Change, logs: Iterable[list[bytes]]) -> None:
    whole = image._sections

    def sections(*args: object) -> Iterator[tuple[int, Iterable[Row]]]:
        for section, rows in whole(*args):
            yield section, (changed for row in rows if (changed := change(section, row)) is not None)

    for log in logs:
        for cut in (60, 80, 100):
            with monkeypatch.context() as planted:
                planted.setattr(image, "_sections", sections)
                try:
                    assert_goes_on_alike(log, cut)
                    continue
                except AssertionError:
                    pass
            assert_goes_on_alike(log, cut)
            return
    pytest.fail(f"nobody misses: {omission}")
