"""The oracles of locks find bugs that are planted: each by the sweep as it is, within a few seeds.

Oracles that would notice the same for another reason are muted, so that what is found is what locks promise.
"""

import pytest

from cluster.simulation import Scenario
from cluster.simulation.planted_locks import PlantedLock

OTHERS = {"invariant", "compaction", "snapshot", "digest"}
FOUND_BY = {
    PlantedLock.NOT_RECHECKED: {"dead session"},
    PlantedLock.STRANGER_RELEASES: {"stranger"},
    PlantedLock.LOST_WAKE_UP: {"lost wake-up"},
    PlantedLock.LOCAL_CLOCK: {"two holders"},
    PlantedLock.SHORT_TURNS: {"two holders"},
    PlantedLock.NO_FULL_LEASE: {"two holders"},
}


@pytest.mark.timeout(900)     # a dozen seeds, on a machine that has much else to do
@pytest.mark.parametrize("planted", PlantedLock)
def test_the_sweep_finds_a_bug_of_locks_within_a_few_seeds(planted: PlantedLock):
    for seed in range(12):
        scenario = Scenario(seed, locks=planted)
        scenario.oracles.judge.muted |= OTHERS
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle in FOUND_BY[planted], violations[0]
            return
    pytest.fail(f"not found in twelve seeds: {planted.value}")
