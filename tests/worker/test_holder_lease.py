"""The holder's half of a lease."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.lease import LEASE_NS, MARGIN_NS, Lease


def test_a_lease_counts_from_when_the_answered_heartbeat_was_sent():
    lease = Lease(sent=100)
    assert not lease.has_ended(100 + LEASE_NS - MARGIN_NS - 1)
    assert lease.has_ended(100 + LEASE_NS - MARGIN_NS)
    lease.answered(sent=5_000, now=6_000)
    assert lease.until == 5_000 + LEASE_NS - MARGIN_NS


def test_a_lease_that_has_ended_is_not_revived_by_a_late_answer():
    lease = Lease(sent=0)
    lease.answered(sent=LEASE_NS - MARGIN_NS - 1, now=LEASE_NS - MARGIN_NS)
    assert lease.has_ended(LEASE_NS - MARGIN_NS)


@given(st.lists(st.integers(0, 10**12), min_size=1), st.integers(0, 10**9))
def test_the_holder_stops_before_the_leader_may_expire_it(sent: list[int], transit: int):
    """The leader counts a whole lease from when it heard the last heartbeat, which is after it was sent."""
    lease = Lease(sent[0])
    for time in sent[1:]:
        lease.answered(time, now=time)
    heard_last = max(sent) + transit
    assert lease.has_ended(heard_last + LEASE_NS)
    assert lease.until + MARGIN_NS <= heard_last + LEASE_NS
