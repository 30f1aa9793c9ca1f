"""`retry=` as users type it, and as it travels."""

from datetime import timedelta

import pytest

from cluster import Backoff, task
from cluster.errors import TaskNotFound, error_name
from cluster.state.commands import Options, RetryRule


class Mine(ValueError):
    class Inner(Exception):
        """One that lives in another."""


@task
def plain() -> None: ...


def test_a_number_stands_for_as_many_retries_with_the_pauses_of_a_backoff():
    assert plain.options(retry=4).wire_options == Options(retries=4)
    assert Backoff().rule == RetryRule()
    assert plain.options(retry=0).wire_options is None


def test_a_backoff_says_when_and_for_what():
    backoff = Backoff(times=5, first="500ms", cap=timedelta(minutes=2), factor=3, jitter=False, on=(OSError, Mine))
    rule = RetryRule(500, 120_000, 3, False, ("OSError", f"{__name__}.Mine"))
    assert plain.options(retry=backoff).wire_options == Options(retries=5, retry=rule)


def test_the_order_and_repetition_of_types_make_no_difference():
    assert Backoff(on=(OSError, KeyError, OSError)).rule == Backoff(on=(KeyError, OSError)).rule


def test_another_retry_replaces_all_of_the_one_before():
    assert plain.options(retry=Backoff(2, "5s")).options(retry=1).wire_options == Options(retries=1)


def test_names_of_exceptions_are_those_of_records():
    assert error_name(OSError) == "OSError"
    assert error_name(TaskNotFound) == "TaskNotFound"
    assert error_name(Mine.Inner) == f"{__name__}.Mine.Inner"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"times": "3"}, "times: expected an integer, not '3'"),
        ({"times": True}, "times: expected an integer"),
        ({"factor": 1.5}, "factor: expected an integer, not 1.5"),
        ({"first": []}, "first: expected a timedelta"),
        ({"cap": None}, "cap: expected a timedelta"),
        ({"jitter": 1}, "jitter: expected True or False, not 1"),
        ({"on": OSError}, "on: expected a tuple of exception types"),
        ({"on": ("OSError",)}, "on: 'OSError' is no type of exception"),
        ({"on": (int,)}, "is no type of exception"),
        ({"on": (BaseException,)}, "is no type of exception"),
    ],
)
def test_a_field_of_another_type_is_a_type_error_that_names_it(fields, text):
    with pytest.raises(TypeError, match="Backoff: ") as caught:
        Backoff(**fields)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"times": -1}, "times: -1 is out of range, 0 to 1000"),
        ({"times": 1_001}, "times: 1001 is out of range"),
        ({"factor": 0}, "factor: 0 is out of range, 1 to 10"),
        ({"first": -1}, "first: -1 is negative"),
        ({"first": "soon"}, "is no duration"),
        ({"first": "2m", "cap": "1m"}, "cap: '1m' is less than first, which is '2m'"),
        ({"on": (OSError,) * 33}, "at most 32"),
    ],
)
def test_a_field_out_of_range_is_a_value_error_that_names_it(fields, text):
    with pytest.raises(ValueError, match="Backoff: ") as caught:
        Backoff(**fields)
    assert text in str(caught.value)


def test_a_soft_time_limit_that_is_no_less_than_the_hard_one_is_refused():
    with pytest.raises(ValueError, match="soft_timeout: 3600 s is no less than timeout, which is 1800 s"):
        plain.options(soft_timeout="1h")
    with pytest.raises(ValueError, match="soft_timeout: 60 s is no less than timeout, which is 60 s"):
        plain.options(soft_timeout="59s").options(soft_timeout=60, timeout="1m")
    assert plain.options(soft_timeout="1h", timeout="2h").settings.soft_timeout_ms == 3_600_000


@pytest.mark.parametrize("delay", ["1h", "90m"])
def test_what_would_expire_before_it_may_start_is_refused(delay: str):
    plain = task(len)
    with pytest.raises(ValueError, match=r"expires: 1h is no longer than delay, which is 1h(30m)?: it would expire"):
        plain.options(delay=delay).options(expires="1h")
    assert plain.options(delay="59m", expires="1h").settings.expires_ms == 3_600_000


def test_something_else_is_a_type_error_that_names_the_option():
    with pytest.raises(TypeError, match="retry: expected a number of retries or a Backoff, not 'often'"):
        plain.options(retry="often")  # type: ignore[arg-type]
