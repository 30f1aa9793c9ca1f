"""The oracles of dependencies find bugs that are planted: each by the sweep as it is, within a few seeds."""

import pytest
from planted_search import assert_found

from cluster.simulation import Planted, Scenario
from cluster.simulation.planted_needs import PlantedNeed

NEEDY_SEEDS = (2, 5, 8, 11)             # `workload.NEEDY_ONE_IN`
FOUND_BY = {
    PlantedNeed.COUNT_DOWN_LOST: {"liveness", "acknowledged"},
    PlantedNeed.LET_GO_EARLY: {"needs", "result"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", PlantedNeed)
def test_the_sweep_finds_a_bug_of_dependencies_within_a_few_seeds(planted: PlantedNeed):
    assert_found(planted, FOUND_BY[planted], NEEDY_SEEDS, lambda seed: Scenario(seed, needs=planted))


@pytest.mark.timeout(600)
def test_who_waits_is_missed_when_snapshots_do_not_hold_it():
    for seed in NEEDY_SEEDS:
        violations = Scenario(seed, planted=Planted.WAITING_NOT_IN_SNAPSHOT).run().violations
        if violations:
            assert violations[0].oracle in ("snapshot", "compaction"), violations[0]
            return
    pytest.fail("not found within these seeds")


@pytest.mark.timeout(600)
def test_small_graphs_are_run_and_judged_in_every_third_seed():
    scenario = Scenario(NEEDY_SEEDS[0])
    assert scenario.run().violations == []
    assert scenario.oracles.state.told > 10 and scenario.oracles.state.unmet > 5
