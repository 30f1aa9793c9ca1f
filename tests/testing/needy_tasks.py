"""Tasks that need others, for a cluster in memory."""

import asyncio
from dataclasses import dataclass

from cluster import Outcome, TaskActor, task

RUNS: dict[str, int] = {}


@dataclass
class Size:
    name: str
    count: int


@task
def size(name: str, count: int) -> Size:
    return Size(name, count)


@task
def number(value: int) -> int:
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


@task
def total(values: list[int], *, plus: int = 0) -> int:
    return sum(values) + plus


@task
async def total_in_a_loop(numbers: list[int]) -> int:
    return sum(numbers)


@task
def largest(sizes: list[Size]) -> Size:
    assert all(isinstance(one, Size) for one in sizes)
    return max(sizes, key=lambda one: one.count)


@task
def nested(tree: dict[str, list[int]], pair: tuple[int, str]) -> str:
    return f"{tree} {pair}"


@task
def judge(outcomes: list[Outcome[Size]]) -> list[str]:
    assert all(isinstance(one, Outcome) for one in outcomes)
    return [f"{one.state} {one.get().name}" if one.ok else f"{one.state} {one.error}" for one in outcomes]


@task
def plain(value, values=()):  # type: ignore[no-untyped-def]
    return [f"{type(one).__name__} {one.state if isinstance(one, Outcome) else one}" for one in (value, *values)]


@task
async def slowly(value: int) -> int:
    await asyncio.sleep(1)
    return value + 1


@task(retry=2)
def flaky(value: int) -> int:
    RUNS["flaky"] = RUNS.get("flaky", 0) + 1
    if RUNS["flaky"] < 2:
        raise OSError("not yet")
    return value


class Adder(TaskActor):
    def add(self, one: int, other: int) -> int:
        return one + other
