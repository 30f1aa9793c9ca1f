"""The tasks that the benchmarks run."""

from cluster import task


@task
def noop(payload: bytes) -> None:
    """Does nothing with its argument."""


@task
def echo(numbered: tuple[int, bytes]) -> int:
    """Returns the number that it was given."""
    return numbered[0]
