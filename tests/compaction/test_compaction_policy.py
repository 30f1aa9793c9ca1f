"""When the log is long enough to become a snapshot."""

import pytest

from cluster.compaction.policy import CompactionLimits, Pressure, pressure, stagger_ppm

LIMITS = CompactionLimits(log_bytes_min=1_000, state_factor=2, urgent_factor=4, closed_factor=8)


@pytest.mark.parametrize(
    ("log_bytes", "snapshot_bytes", "stagger_ppm", "expected"),
    [
        (0, 0, 0, Pressure.NONE),
        (1_000, 0, 0, Pressure.NONE),
        (1_001, 0, 0, Pressure.DUE),
        (1_001, 500, 0, Pressure.DUE),
        (1_001, 501, 0, Pressure.NONE),
        (1_250, 0, 250_000, Pressure.NONE),
        (1_251, 0, 250_000, Pressure.DUE),
        (4_000, 0, 0, Pressure.DUE),
        (4_001, 0, 0, Pressure.URGENT),
        (4_001, 0, 250_000, Pressure.URGENT),
        (8_000, 0, 0, Pressure.URGENT),
        (8_001, 0, 0, Pressure.CLOSED),
        (8_001, 5_000, 0, Pressure.NONE),
        (80_001, 5_000, 0, Pressure.CLOSED),
    ],
)
def test_pressure_grows_with_the_log_and_falls_with_the_size_of_the_state(
    log_bytes, snapshot_bytes, stagger_ppm, expected
):
    assert pressure(LIMITS, log_bytes, snapshot_bytes, stagger_ppm) is expected


def test_what_stops_giving_way_comes_before_clients_wait_and_both_behind_the_trigger():
    limits = CompactionLimits()
    assert 1 < limits.urgent_factor < limits.closed_factor
    assert limits.stagger_ppm_max < (limits.urgent_factor - 1) * 1_000_000


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (3, [0, 125_000, 250_000]), (5, [0, 62_500, 125_000, 187_500, 250_000])],
)
def test_places_in_line_are_equally_far_apart(count, expected):
    assert [stagger_ppm(CompactionLimits(), place, count) for place in range(count)] == expected
