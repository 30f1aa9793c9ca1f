"""The tasks that the benchmarks run."""

import time

from cluster import current, task


@task
def noop(payload: bytes) -> None:
    """Does nothing with its argument."""


@task
def echo(numbered: tuple[int, bytes]) -> int:
    """Returns the number that it was given."""
    return numbered[0]


@task
def nap(milliseconds: float) -> tuple[float, float]:
    """Sleeps; when it began and ended, in seconds of a clock that all processes share."""
    start = time.monotonic()
    time.sleep(milliseconds / 1e3)
    return start, time.monotonic()


@task
def fails_once(payload: bytes) -> None:
    """Raises in its first attempt."""
    if current().attempt == 1:
        raise OSError("the first attempt")
