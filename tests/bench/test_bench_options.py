"""What `make bench-options` measures is what it says."""

import msgspec
import pytest
from rich.console import Console

from bench.options import MIXES, STEP_TASKS, STEPS, Course, Figure, Mix, measure_all, table

PENDING = 800


def test_every_mix_is_measured_at_every_size_in_a_row_of_its_own():
    figures = measure_all((40, 80), 1, Console(quiet=True))
    assert [(figure.pending, figure.mix) for figure in figures] == [(size, mix) for size in (40, 80) for mix in MIXES]
    assert all(0 < spent < 10_000 for figure in figures for spent in figure.rounds)
    assert len(table(figures, (40, 80)).rows) == len(MIXES) == 16
    assert msgspec.json.decode(msgspec.json.encode(figures), type=list[Figure]) == figures


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_so_many_wait_all_the_time_and_each_step_ends_what_was_submitted(mix: Mix):
    course = Course(mix, PENDING)
    status = course.machine.status()["queues"][0]
    assert status["ready"] + status["delayed"] + status["running"] == PENDING
    assert status["delayed"] == (PENDING if mix.delay else 0)
    course.measure()
    after = course.machine.status()["queues"][0]
    assert after["ready"] + after["delayed"] + after["running"] >= PENDING - STEP_TASKS
    assert after["completed"] >= (2 * STEPS - 2) * STEP_TASKS


@pytest.mark.parametrize("shares", [False, True])
def test_with_a_rate_limits_are_full_at_the_end_of_each_step(shares: bool):
    course = Course(Mix(priority=False, shares=shares, delay=False, rate=True), PENDING)
    course.measure()
    limits = course.machine.status()["limits"]
    assert len(limits) == (100 if shares else 1) and all(row["until_ms"] > 0 for row in limits)
