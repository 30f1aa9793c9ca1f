"""Whole clusters in the simulated world, a minute of faults each. `make simulate` runs fifty of these."""

from collections import Counter

import pytest

from actors import SECOND
from cluster.simulation import Report, Scenario
from cluster.simulation.faults import DISK_KINDS

# Every kind of damage with both ways of syncing, and blackouts in 0 and 5.
SEEDS = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module", params=SEEDS)
def report(request: pytest.FixtureRequest) -> Report:
    return Scenario(request.param).run()


def test_no_promise_is_broken(report: Report):
    assert [str(violation) for violation in report.violations] == []
    assert report.lost == 0
    assert report.duplicated_records == 0


def test_it_is_a_minute_of_real_work(report: Report):
    assert report.simulated_ns >= 60 * SECOND
    assert report.acknowledged >= 500
    assert report.runs + report.duplicates >= report.acknowledged, "some run again after a crash"
    assert report.elections >= 1
    assert report.limited >= 100 and report.full_limits >= 20, "limits are in use, and are full now and then"
    assert report.duplicates >= 5


def test_something_of_everything_breaks(report: Report):
    crashes = ("crash", "voter_crash", "leader_crash")
    assert any(report.faults.get(kind) for kind in crashes)
    assert report.faults["partition"] >= 1
    assert report.faults["drain"] >= 1
    assert report.faults[DISK_KINDS[report.seed % 3]] >= 1


def test_full_disks_end_no_broker_that_has_a_spare_and_are_survived():
    """An oracle looks at what those had that are ended: a reserve was used up, or they died of something else before
    they had a spare again."""
    reports = [Scenario(seed).run() for seed in (8, 14, 107)]
    assert [str(violation) for report in reports for violation in report.violations] == []
    assert all(report.faults["all_disks_full"] for report in reports)
    assert any(report.no_room for report in reports)


@pytest.mark.parametrize("seed", [20056, 20066, 20156])
def test_brokers_that_start_on_a_full_disk_go_on_with_the_segments_that_they_have(seed):
    """The first of them once came to a last segment that had outgrown its spare; the others start without one."""
    report = Scenario(seed).run()
    assert [str(violation) for violation in report.violations] == []
    assert report.faults.get("full_disk") or report.faults.get("all_disks_full")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_comes_to_every_hard_moment_of_a_snapshot():
    """Compaction, a crash during it, copies, transfers that break off, states refetched in quarantine, failed syncs."""
    seen: Counter[str] = Counter()
    for seed in range(100, 160):
        report = Scenario(seed).run()
        assert [str(violation) for violation in report.violations] == []
        moments = report.moments
        seen["snapshots"] += report.snapshots
        seen["restorations"] += report.restorations
        seen["crashes in compaction"] += moments.crashes_in_compaction
        seen["copies"] += moments.copies
        seen["transfers"] += moments.transfers
        seen["interrupted transfers"] += moments.interrupted_transfers
        seen["refetches"] += moments.refetches
        seen["failed syncs"] += report.faults.get("sync_error", 0)
        if all(seen.values()):
            return
    pytest.fail(f"not seen in sixty seeds: {[what for what, count in seen.items() if not count]}")
