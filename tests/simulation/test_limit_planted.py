"""The oracle of limits finds bugs that are planted: each by the sweep as it is, within a few seeds.

Oracles that would notice the same for another reason are muted, so that what is found is what limits promise.
"""

import pytest

from cluster.simulation import Scenario
from cluster.simulation.planted_limits import PlantedLimit

OTHERS = {"invariant", "compaction", "snapshot", "digest"}
FOUND_BY = {
    PlantedLimit.TUMBLING_WINDOW: {"rate"},
    PlantedLimit.ENDS_TWICE: {"concurrency"},
    PlantedLimit.LOST_NOT_COUNTED: {"liveness", "crash"},      # by an assertion of its own, if it is forgotten so
    PlantedLimit.DATE_IS_LOST: {"liveness"},
    PlantedLimit.KEY_WITHOUT_WINDOW: {"at most one"},
    PlantedLimit.SHARE_KEEPS_THE_TURN: {"turns"},
}
SEEDS = 8


@pytest.mark.parametrize("planted", PlantedLimit)
def test_the_sweep_finds_a_bug_of_limits_within_a_few_seeds(planted: PlantedLimit):
    for seed in range(SEEDS):
        scenario = Scenario(seed, limits=planted)
        scenario.oracles.judge.muted |= OTHERS
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle in FOUND_BY[planted], violations[0]
            return
    pytest.fail(f"not found within these seeds: {planted.value}")
