"""A simulated operator restarts and drains nodes while clients work; in calm weather every course comes to its end."""

import pytest

from actors import SECOND
from cluster.simulation import Course, Scenario
from cluster.simulation.scenario import ASKED_END

CALM = Course(tasks_min=0, rest_ns_max=60 * SECOND, total_ns_min=0)
BEGIN = 1      # courses that may fail: the cluster is being formed


@pytest.mark.parametrize("seed", [1, 3])
def test_in_calm_weather_every_course_ends_well_and_nothing_is_lost_or_late(seed):
    scenario = Scenario(seed, CALM)
    with scenario.world:
        operator = scenario.employ_operator()
        scenario.run_for(40 * SECOND)
        report = scenario.settle()
    assert not report.violations
    assert operator.courses >= 2 and len(operator.failures) <= BEGIN, operator.failures
    assert report.faults[ASKED_END] == operator.turns >= 5
    assert (report.lost, report.late_outcomes, report.duplicated_records) == (0, 0, 0)
