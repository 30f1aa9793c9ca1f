"""Who is silent."""

from dataclasses import dataclass

from actors import SECOND
from cluster.broker.lease_table import CLIENT_LEASE, WORKER_LEASE, LeaseTable


@dataclass
class View:
    """A session as leases see it."""

    worker: object | None


WORKER, CLIENT = 1, 2
SESSIONS = {WORKER: View(worker="spec"), CLIENT: View(worker=None)}


def table(now: int = 0) -> LeaseTable:
    leases: LeaseTable = LeaseTable()
    leases.restart(now, list(SESSIONS))
    return leases


def test_a_worker_is_silent_after_10_seconds_and_a_client_after_an_hour():
    leases = table()
    assert leases.silent(WORKER_LEASE - 1, SESSIONS.get) == []
    assert leases.silent(WORKER_LEASE, SESSIONS.get) == [WORKER]
    assert leases.silent(CLIENT_LEASE - 1, SESSIONS.get) == [WORKER]
    assert leases.silent(CLIENT_LEASE, SESSIONS.get) == [CLIENT]


def test_whoever_is_heard_has_a_full_lease_from_then_on():
    leases = table()
    leases.heard(WORKER, 9 * SECOND)
    assert leases.silent(9 * SECOND + WORKER_LEASE - 1, SESSIONS.get) == []
    assert leases.silent(9 * SECOND + WORKER_LEASE, SESSIONS.get) == [WORKER]


def test_a_new_leader_gives_everyone_a_full_lease():
    leases = table()
    leases.restart(50 * SECOND, list(SESSIONS))
    assert leases.silent(50 * SECOND + WORKER_LEASE - 1, SESSIONS.get) == []


def test_a_silent_session_is_named_once_per_lease():
    """The proposal to end it may be lost; asking at each look would fill the log."""
    leases = table()
    assert leases.silent(WORKER_LEASE, SESSIONS.get) == [WORKER]
    assert leases.silent(WORKER_LEASE + SECOND, SESSIONS.get) == []
    assert leases.silent(2 * WORKER_LEASE, SESSIONS.get) == [WORKER]


def test_a_session_that_ended_is_forgotten():
    leases = table()
    leases.forget(WORKER)
    leases.forget(77)
    assert leases.silent(WORKER_LEASE, SESSIONS.get) == []


def test_a_session_that_the_state_does_not_know_is_named_after_the_shorter_lease():
    leases = table()
    leases.heard(9, 0)
    assert sorted(leases.silent(WORKER_LEASE, SESSIONS.get)) == [WORKER, 9]


def test_what_the_leader_slept_through_is_nobodys_silence():
    """Stopped for a minute, on a machine that slept: the heartbeats of that minute are read after this look."""
    leases = table()
    assert leases.looks(SECOND) == 0
    assert leases.looks(61 * SECOND) == 60 * SECOND
    assert leases.silent(60 * SECOND + WORKER_LEASE - 1, SESSIONS.get) == []
    assert leases.silent(60 * SECOND + WORKER_LEASE, SESSIONS.get) == [WORKER]


def test_looks_that_follow_each_other_add_nothing():
    leases = table()
    for half_second in range(1, 21):
        leases.looks(half_second * SECOND // 2)
    assert leases.silent(WORKER_LEASE, SESSIONS.get) == [WORKER]


def test_nobody_was_heard_in_the_future():
    leases = table()
    leases.heard(WORKER, 9 * SECOND)
    leases.looks(10 * SECOND)
    assert leases.silent(10 * SECOND + WORKER_LEASE - 1, SESSIONS.get) == []
    assert leases.silent(10 * SECOND + WORKER_LEASE, SESSIONS.get) == [WORKER]
