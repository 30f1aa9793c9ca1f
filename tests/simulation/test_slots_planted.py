"""The oracles find bugs that are planted in slots which a worker opens and shuts: each by the sweep as it is, within a
few seeds."""

import pytest
from planted_search import assert_found

from cluster.simulation import Scenario
from cluster.simulation.planted_slots import PlantedSlot

SEEDS = (7, 9, 11, 13)                   # in odd ones there are keys
FOUND_BY = {
    PlantedSlot.NEVER_SHUT: {"shut slot"},
    PlantedSlot.HOMES_STAY: {"invariant"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", PlantedSlot)
def test_the_sweep_finds_a_bug_of_slots_within_a_few_seeds(planted: PlantedSlot):
    assert_found(planted, FOUND_BY[planted], SEEDS, lambda seed: Scenario(seed, slots=planted))


@pytest.mark.timeout(600)
def test_one_of_the_workers_opens_and_shuts_slots_in_the_sweep():
    reports = [Scenario(seed).run() for seed in (1, 2)]
    assert not any(report.violations for report in reports)
    assert sum(report.resizes for report in reports) >= 4
