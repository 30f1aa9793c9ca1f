"""What a worker says that a retry may be for: the names of an exception's types, as `Backoff(on=)` names them."""

import asyncio
import json

import pytest

from cluster import Backoff, SoftTimeLimit
from cluster.state.commands import KINDS_MAX
from cluster.worker.executor import failure_of


class Refused(ConnectionError):
    """One of the user's own."""


def kinds(exception: BaseException) -> tuple[str, ...]:
    return failure_of(exception, may_retry=True).kinds


def test_they_are_the_type_and_its_bases_up_to_exception_with_their_modules():
    assert kinds(Refused("no")) == (f"{__name__}.Refused", "ConnectionError", "OSError", "Exception")


@pytest.mark.parametrize(
    ("on", "exception", "is_named"),
    [
        (Refused, Refused(), True),
        (OSError, Refused(), True),
        (Exception, Refused(), True),
        (Refused, ConnectionError(), False),
        (json.JSONDecodeError, json.JSONDecodeError("no", "", 0), True),
        (ValueError, json.JSONDecodeError("no", "", 0), True),
        (TimeoutError, SoftTimeLimit("late"), True),
        (Exception, asyncio.CancelledError(), False),
    ],
)
def test_a_backoff_names_types_as_a_failure_does(on: type[Exception], exception: BaseException, is_named: bool):
    rule = Backoff(on=(on,)).rule
    assert any(kind in rule.on for kind in kinds(exception)) is is_named


def test_what_no_retry_is_for_has_none():
    assert kinds(asyncio.CancelledError()) == ()
    assert failure_of(ValueError("arguments that do not fit")).kinds == ()


def test_of_a_long_line_of_bases_there_are_as_many_as_are_looked_at():
    kind: type[Exception] = Exception
    for number in range(KINDS_MAX + 8):
        kind = type(f"Kind{number}", (kind,), {})
    assert len(kinds(kind())) == KINDS_MAX
