"""Who is silent, and whose heartbeat may be answered."""

from dataclasses import dataclass

from actors import SECOND
from cluster.broker.lease_table import CLIENT_LEASE, WORKER_LEASE, LeaseTable


@dataclass
class View:
    """A session as leases see it."""

    worker: object | None


WORKER, CLIENT = 1, 2
SESSIONS = {WORKER: View(worker="spec"), CLIENT: View(worker=None)}


def table(now: int = 0) -> LeaseTable[str]:
    leases: LeaseTable[str] = LeaseTable()
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


def test_the_first_heartbeat_asks_for_a_round_and_is_answered_by_it():
    leases = table()
    assert leases.owe_ack("w1", WORKER, 5)
    leases.seal(1)
    assert leases.confirmed(1) == [("w1", WORKER, 5)]
    assert leases.confirmed(1) == []


def test_what_arrives_during_a_round_waits_for_the_next():
    """A majority answered a heartbeat that was sent before this one arrived: that proves nothing for it."""
    leases = table()
    assert leases.owe_ack("w1", WORKER, 5)
    leases.seal(1)
    assert not leases.owe_ack("c1", CLIENT, 6)
    assert leases.confirmed(1) == [("w1", WORKER, 5)]
    assert leases.waiting
    leases.seal(2)
    assert leases.confirmed(2) == [("c1", CLIENT, 6)]
    assert not leases.waiting


def test_one_round_serves_everyone_who_came_before_it():
    leases = table()
    leases.owe_ack("w1", WORKER, 5)
    leases.owe_ack("c1", CLIENT, 6)
    leases.owe_ack("w1", WORKER, 7)
    leases.seal(1)
    assert leases.confirmed(1) == [("w1", WORKER, 5), ("c1", CLIENT, 6), ("w1", WORKER, 7)]


def test_a_round_of_an_earlier_term_confirms_nothing():
    leases = table()
    leases.owe_ack("w1", WORKER, 5)
    leases.seal(7)
    leases.restart(0, list(SESSIONS))
    assert leases.confirmed(7) == []
    leases.owe_ack("w1", WORKER, 6)
    leases.seal(1)
    assert leases.confirmed(7) == []
    assert leases.confirmed(1) == [("w1", WORKER, 6)]
