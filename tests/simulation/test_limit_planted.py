"""The oracle of limits finds bugs that are planted: each by the sweep as it is, within a few seeds."""

import pytest
from planted_search import assert_found

from cluster.simulation import Scenario
from cluster.simulation.planted_limits import PlantedLimit

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
    assert_found(planted, FOUND_BY[planted], range(SEEDS), lambda seed: Scenario(seed, limits=planted))
