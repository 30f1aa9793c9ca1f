"""A simulated operator restarts and drains nodes while clients work; in calm weather every course comes to its end."""

import pytest

from actors import SECOND
from cluster.simulation import Course, Scenario
from cluster.simulation.operator import ONE_IN
from cluster.simulation.scenario import ASKED_END

CALM = Course(tasks_min=0, rest_ns_max=60 * SECOND, total_ns_min=0)
BEGIN: int = 1      # courses that may fail: the cluster is being formed
SEEDS = [seed for seed in range(1, 8) if seed % ONE_IN][:2]


@pytest.mark.parametrize("seed", SEEDS)
def test_in_calm_weather_every_course_ends_well_and_nothing_is_lost_or_late(seed):
    scenario = Scenario(seed, CALM)
    with scenario.world:
        scenario.run_for(40 * SECOND)
        report = scenario.settle()
    operator = scenario.operator
    assert operator is not None and not report.violations
    assert operator.courses >= 2 and len(operator.failures) <= BEGIN, operator.failures
    assert report.faults[ASKED_END] == operator.turns >= 5
    assert (report.lost, report.late_outcomes, report.duplicated_records) == (0, 0, 0)


def test_every_other_seed_has_an_operator():
    assert [Scenario(seed).operator is not None for seed in range(4)] == [False, True, False, True]
