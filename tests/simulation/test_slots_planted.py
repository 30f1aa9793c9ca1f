"""The oracles find bugs that are planted in slots which a worker opens and shuts: each by the sweep as it is, within a
few seeds."""

import pytest

from cluster.simulation import Scenario
from cluster.simulation.planted_slots import PlantedSlot

SEEDS = (7, 9, 11, 13)                   # in odd ones there are keys
OTHERS = {"invariant", "compaction", "snapshot", "digest"}      # that would notice the same for another reason
FOUND_BY = {
    PlantedSlot.NEVER_SHUT: {"shut slot"},
    PlantedSlot.HOMES_STAY: {"invariant"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", PlantedSlot)
def test_the_sweep_finds_a_bug_of_slots_within_a_few_seeds(planted: PlantedSlot):
    for seed in SEEDS:
        scenario = Scenario(seed, slots=planted)
        scenario.oracles.judge.muted |= OTHERS - FOUND_BY[planted]
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle in FOUND_BY[planted], violations[0]
            return
    pytest.fail(f"not found within these seeds: {planted.value}")


@pytest.mark.timeout(600)
def test_one_of_the_workers_opens_and_shuts_slots_in_the_sweep():
    reports = [Scenario(seed).run() for seed in (1, 2)]
    assert not any(report.violations for report in reports)
    assert sum(report.resizes for report in reports) >= 4
