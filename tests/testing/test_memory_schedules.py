"""Schedules in a cluster in memory: what a user's test of a nightly job sees."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from memory_tasks import add

from cluster import cron, current, every, task
from cluster.testing import MemoryCluster

BERLIN = ZoneInfo("Europe/Berlin")
RAN: list[str] = []


@task(name="memory:nightly", result_ttl="2d")
def nightly() -> str:
    RAN.append(nightly.name)
    scheduled = current().scheduled
    assert scheduled is not None
    return f"{scheduled.astimezone(BERLIN):%Y-%m-%d}"


@task(name="memory:often")
def often() -> None:
    RAN.append(often.name)


@pytest.fixture(autouse=True)
def schedules() -> None:
    """They are there for this test only."""
    RAN.clear()
    cron("30 2 * * *", tz="Europe/Berlin")(nightly)
    every("6h", name="often")(often)
    cron("0 20 * * *", name="strict", misfire="skip")(often)


def test_a_day_that_is_let_pass_has_one_nightly_run(memory_cluster):
    memory_cluster.advance("1d")
    assert RAN.count(nightly.name) == 1 and RAN.count(often.name) == 4 + 1
    (slot,) = memory_cluster.history(nightly.name)
    assert f"{slot.slot:%H:%M %Z}" == "02:30 CET" and slot.outcome == "completed"
    assert memory_cluster.handle(slot.task).result() == "2026-01-01"


@pytest.mark.parametrize(
    ("day", "shown"),
    [(datetime(2026, 3, 29, tzinfo=BERLIN), "03:00 CEST"), (datetime(2031, 10, 26, tzinfo=BERLIN), "02:30 CEST")],
)
def test_the_clocks_begin_with_the_date_that_a_test_wants(make_memory_cluster, day, shown):
    cluster = make_memory_cluster(now=day)
    assert timedelta() <= cluster.now() - day < timedelta(seconds=1)
    cluster.advance("23h")
    (slot,) = cluster.history(nightly.name)
    assert f"{slot.slot:%H:%M %Z}" == shown and RAN.count(nightly.name) == 1


def test_what_runs_there_sees_that_date_too(make_memory_cluster):
    cluster = make_memory_cluster(now=datetime(2028, 2, 29, 12, tzinfo=UTC))
    handle = cluster.submit(add, 1, 2)
    assert handle.result() == 3
    (attempt,) = cluster.task(handle.id).attempts
    assert attempt.started_at.date().isoformat() == "2028-02-29"


@pytest.mark.parametrize("broker", ["leader", "worker"])
def test_a_night_without_a_leader_or_a_worker_is_made_up_for(make_memory_cluster, broker):
    cluster = make_memory_cluster(now=datetime(2026, 5, 1, 2, 20, tzinfo=BERLIN))
    node = "b1" if broker == "leader" else "w1"
    cluster.kill(node)
    cluster.advance("20m")
    assert RAN == []
    cluster.restart(node)
    cluster.advance("1m")
    assert RAN.count(nightly.name) == 1


def test_a_slot_comes_by_the_time_of_the_cluster_though_its_clocks_have_jumped(make_memory_cluster):
    """Clocks are two hours ahead: the cluster's time runs faster by a twentieth, and a job that is not made up for must
    not be late and missed while somebody leads."""
    cluster = make_memory_cluster()
    cluster.advance("1h")
    assert cluster._made is not None
    for machine in cluster._made.machines.values():
        machine.jump_wall_clock(2 * 3_600 * 1_000)
    cluster.advance("2d")
    slots = cluster.history("strict")
    assert [slot.outcome for slot in slots] == ["completed"] * 2
    assert all(slot.ended_at - slot.slot < timedelta(seconds=5) for slot in slots)


@pytest.mark.parametrize(
    ("now", "error", "says"),
    [
        ("2026-03-29", TypeError, "expected a datetime, not '2026-03-29'"),
        (datetime(2026, 3, 29), ValueError, "has no time zone"),
        (datetime(4000, 1, 1, tzinfo=UTC), ValueError, "too far away; allowed is 1971 to 3000"),
    ],
)
def test_a_date_that_cannot_be_is_refused(now, error, says):
    with pytest.raises(error, match=says):
        MemoryCluster(now=now)
