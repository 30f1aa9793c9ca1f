"""When a process collects its garbage: in idle moments, and now and then if there are none."""

import gc
from collections.abc import Iterator

import pytest

from actors import SECOND, Ports
from actors.runtime.process import BUSY_MAX, IDLE_LOOK, collect_when_idle
from actors.simulation import World


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    made: list[int] = []
    thresholds = gc.get_threshold()
    monkeypatch.setattr(gc, "collect", lambda: made.append(1))
    yield made
    gc.set_threshold(*thresholds)


def test_everything_is_collected_in_an_idle_moment_after_work_and_not_again(collections):
    world, work = World(1), [0]

    def start(ports: Ports) -> None:
        collect_when_idle(ports.clock, lambda: work[0])

    world.process("node", start)
    world.run_for(60 * SECOND)
    assert collections == [], "there was no work"
    for _ in range(20):
        work[0] += 1
        world.run_for(IDLE_LOOK // 2)
    assert collections == [], "there was no idle moment"
    world.run_for(600 * SECOND)
    assert collections == [1]


def test_without_an_idle_moment_it_happens_all_the_same_once_in_a_while(collections):
    world, work = World(1), [0]

    def start(ports: Ports) -> None:
        collect_when_idle(ports.clock, lambda: work[0])

    world.process("node", start)
    while world.now < 3 * BUSY_MAX:
        work[0] += 1
        world.run_for(IDLE_LOOK // 2)
    assert len(collections) == 2
