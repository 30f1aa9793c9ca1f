"""The tasks that the benchmarks run."""

from cluster import task


@task
def noop(payload: bytes) -> None:
    """Does nothing with its argument."""
