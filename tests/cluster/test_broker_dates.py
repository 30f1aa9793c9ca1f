"""A timer at a date of the cluster's time of day, which runs faster or slower than the clock of the machine."""

import pytest

from actors import MILLISECOND, SECOND, Nanos
from cluster.broker.dates import DateTimer
from cluster.peer.stamp import StampClock

HOUR_MS = 3_600_000
EPOCH_MS = 1_767_225_600_000


class Machine:
    """A clock, the stamps of its leader, and one timer."""

    def __init__(self) -> None:
        self.now: Nanos = 0
        self.wall_ms = EPOCH_MS
        self.stamps = StampClock(EPOCH_MS, EPOCH_MS, 0)
        self.rings_at: Nanos | None = None
        self.armed = 0
        self.timer = DateTimer(lambda: self.now, self._until, self._arm, self._disarm)

    def _until(self, date_ms: int) -> Nanos:
        return self.stamps.wait(date_ms, self.now, self.wall_ms)

    def _arm(self, wait: Nanos) -> None:
        self.rings_at = self.now + wait
        self.armed += 1

    def _disarm(self) -> None:
        self.rings_at = None

    def pass_time(self, span: Nanos) -> None:
        self.now += span
        self.wall_ms += span // MILLISECOND

    @property
    def stamp_ms(self) -> int:
        return self.stamps.read(self.now, self.wall_ms)

    def ring(self) -> int:
        """Lets time pass until the timer comes; returns the stamp then."""
        assert self.rings_at is not None
        self.pass_time(self.rings_at - self.now)
        return self.stamp_ms


@pytest.mark.parametrize("jump_ms", [0, 2 * HOUR_MS, -2 * HOUR_MS, 10_000])
def test_it_comes_at_its_date_though_clocks_have_jumped_before(jump_ms):
    machine = Machine()
    machine.wall_ms += jump_ms
    date_ms = EPOCH_MS + 24 * HOUR_MS
    machine.timer.set(date_ms)
    assert date_ms <= machine.ring() <= date_ms + 2
    assert machine.timer.rung() == date_ms and machine.timer.date_ms == 0


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_who_looks_notices_that_clocks_have_jumped_since_it_was_set(jump_ms):
    machine = Machine()
    date_ms = EPOCH_MS + 6 * HOUR_MS
    machine.timer.set(date_ms)
    machine.pass_time(3_600 * SECOND)
    machine.wall_ms += jump_ms
    machine.timer.look()
    assert date_ms <= machine.ring() <= date_ms + 2


def test_while_nothing_jumps_it_is_set_once():
    machine = Machine()
    machine.timer.set(EPOCH_MS + HOUR_MS)
    for _ in range(100):
        machine.pass_time(SECOND)
        machine.timer.look()
        machine.timer.set(EPOCH_MS + HOUR_MS)
    assert machine.armed == 1


def test_it_is_taken_away_and_set_anew():
    machine = Machine()
    machine.timer.set(EPOCH_MS + 5_000)
    machine.timer.set(0)
    assert machine.rings_at is None
    machine.timer.look()
    assert machine.rings_at is None
    machine.timer.set(EPOCH_MS + 5_000)
    assert machine.ring() == EPOCH_MS + 5_000


def test_a_date_that_has_passed_comes_at_once():
    machine = Machine()
    machine.timer.set(EPOCH_MS - HOUR_MS)
    assert machine.rings_at == MILLISECOND
