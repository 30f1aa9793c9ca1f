"""The sweep looks for a bug that is planted. Oracles that would notice the same for another reason are muted, so that
what is found is what the feature promises."""

from collections.abc import Callable, Iterable
from enum import Enum

import pytest

from cluster.simulation import Scenario

OTHERS = {"invariant", "compaction", "snapshot", "digest"}


def assert_found(
    planted: Enum, found_by: set[str], seeds: Iterable[int], scenario_of: Callable[[int], Scenario]
) -> None:
    """One of these oracles finds it within these seeds, before any other that is heard."""
    for seed in seeds:
        scenario = scenario_of(seed)
        scenario.oracles.judge.muted |= OTHERS - found_by
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle in found_by, violations[0]
            return
    pytest.fail(f"not found within these seeds: {planted.value}")
