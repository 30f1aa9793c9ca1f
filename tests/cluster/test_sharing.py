"""Which snapshots serve every broker: what one plans, whom it waits for, and which copies it wants."""

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from actors import SECOND, Nanos
from cluster.compaction.policy import CompactionLimits
from cluster.peer.checkpoints import CHECKPOINTS_KEPT_MAX, Checkpoints
from cluster.peer.sharing import NEWS_AGE_MAX, Sharing
from cluster.state.machine import Machine

LIMITS = CompactionLimits(log_bytes_min=1_000, stagger_ppm_max=100, checkpoint_entries=4)
ENTRY_BYTES = 100


class Time:
    """A clock in the test's hands."""

    def __init__(self) -> None:
        self.ns: Nanos = 0

    def now(self) -> Nanos:
        return self.ns


@dataclass
class Replica:
    """One that applied empty entries, 100 bytes of log each."""

    time: Time = field(default_factory=Time)
    machine: Machine = field(default_factory=Machine)
    limits: CompactionLimits = LIMITS

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.machine, self.limits.checkpoint_entries)
        self.sharing = Sharing(self.time, self.limits, self.checkpoints)  # type: ignore[arg-type]

    def apply(self, entries: int) -> None:
        for index in range(self.machine.applied_index + 1, self.machine.applied_index + entries + 1):
            self.machine.apply(index, 3, b"", None)
            if index % self.checkpoints.interval == 0:
                self.checkpoints.add(3, index * ENTRY_BYTES)

    @property
    def applied_bytes(self) -> int:
        return self.machine.applied_index * ENTRY_BYTES


@pytest.fixture
def replica():
    return Replica()


# -- the line ---------------------------------------------------------------------------------------------------------


def test_the_leader_is_the_last_in_line(replica):
    assert [replica.sharing.stagger_ppm(node, 1, (1, 2, 3)) for node in (2, 3, 1)] == [0, 50, 100]
    assert [replica.sharing.stagger_ppm(node, 3, (1, 2, 3)) for node in (1, 2, 3)] == [0, 50, 100]


def test_who_made_the_last_one_stands_behind_the_others_that_follow(replica):
    replica.sharing.made_by(2)
    assert [replica.sharing.stagger_ppm(node, 1, (1, 2, 3)) for node in (3, 2, 1)] == [0, 50, 100]
    assert [replica.sharing.stagger_ppm(node, 2, (1, 2, 3)) for node in (1, 3, 2)] == [0, 50, 100]


def test_without_a_leader_and_alone_there_is_a_line_as_well(replica):
    assert [replica.sharing.stagger_ppm(node, 0, (1, 2, 3)) for node in (1, 2, 3)] == [0, 50, 100]
    assert replica.sharing.stagger_ppm(1, 1, (1,)) == 0


def test_one_without_a_vote_stands_behind_all(replica):
    assert replica.sharing.stagger_ppm(4, 1, (1, 2, 3)) == 100


# -- who is waited for ------------------------------------------------------------------------------------------------


def test_one_that_makes_a_newer_snapshot_is_waited_for_while_it_says_so(replica):
    assert not replica.sharing.is_expected(0)
    replica.sharing.heard(2, 8)
    assert replica.sharing.is_expected(0) and replica.sharing.is_expected(7)
    assert not replica.sharing.is_expected(8), "it is here"
    replica.time.ns += NEWS_AGE_MAX
    assert replica.sharing.is_expected(0)
    replica.time.ns += 1
    assert not replica.sharing.is_expected(0), "nothing was heard of it for too long"
    replica.sharing.heard(2, 8)
    assert replica.sharing.is_expected(0)
    replica.sharing.heard(2, 0)
    assert not replica.sharing.is_expected(0), "it has ended"


def test_of_several_at_work_one_is_enough(replica):
    replica.sharing.heard(2, 8)
    replica.sharing.heard(3, 0)
    assert replica.sharing.is_expected(4)
    assert NEWS_AGE_MAX >= 2 * SECOND, "one word may be lost"


def test_a_log_waits_until_it_is_twice_as_long_as_it_should_be(replica):
    assert replica.sharing.has_patience(2_000, 0)
    assert not replica.sharing.has_patience(2_001, 0)
    assert replica.sharing.has_patience(4_000, 1_000)


# -- what is planned --------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_planned(replica):
    replica.apply(10)
    planned = replica.sharing.to_plan(0, 0, replica.applied_bytes)
    assert planned is not None
    assert (planned.meta.index, planned.meta.term, planned.log_bytes) == (8, 3, 800)


def test_a_checkpoint_says_what_the_state_was_there(replica):
    replica.apply(4)
    then = replica.checkpoints.now(3)
    replica.apply(5)
    found = replica.checkpoints.find(4)
    assert found is not None and found.meta == then
    assert replica.checkpoints.now(3) != then


@pytest.mark.parametrize(("entries", "base", "is_planned"), [(3, 0, False), (4, 4, False), (7, 0, True), (7, 3, False)])
def test_a_checkpoint_is_not_planned_if_it_leaves_out_most_of_the_log(replica, entries, base, is_planned):
    replica.apply(entries)
    planned = replica.sharing.to_plan(base, base * ENTRY_BYTES, replica.applied_bytes)
    assert (planned is not None) is is_planned


# -- which copies are wanted ------------------------------------------------------------------------------------------


def test_a_copy_of_what_this_replica_was_is_wanted_if_it_stands_for_enough_log(replica):
    other = Replica()
    for one in (replica, other):
        one.apply(12)
    offered = other.checkpoints.find(8)
    assert offered is not None
    assert replica.sharing.find_wanted(offered.meta, 0, 0) == replica.checkpoints.find(8)
    assert replica.sharing.find_wanted(offered.meta, 300, 0) is not None
    assert replica.sharing.find_wanted(offered.meta, 301, 0) is None, "less than half of the trigger"
    assert replica.sharing.find_wanted(offered.meta, 0, 800) is not None
    assert replica.sharing.find_wanted(offered.meta, 0, 801) is None, "of a trigger that grows with the state"


@pytest.mark.parametrize(
    "change",
    [{"rolling": 1}, {"term": 2}, {"now_ms": 5}, {"machine_version": 9}, {"cluster_id": b"x"}, {"voters": ("b9",)}],
    ids=lambda change: next(iter(change)),
)
def test_a_copy_of_anything_else_is_not_and_that_is_noticed(replica, change):
    replica.apply(8)
    meta = replica.checkpoints.now(3)
    assert not replica.sharing.differs(meta)
    assert replica.sharing.differs(replace(meta, **change))
    assert replica.sharing.find_wanted(replace(meta, **change), 0, 0) is None


def test_a_copy_that_cannot_be_compared_is_not_wanted_and_no_difference(replica):
    replica.apply(8)
    meta = replica.checkpoints.now(3)
    for index in (6, 12):       # no checkpoint; not applied yet
        assert not replica.sharing.differs(replace(meta, index=index))
        assert replica.sharing.find_wanted(replace(meta, index=index), 0, 0) is None


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_checkpoints_that_a_snapshot_stands_for_are_dropped(replica):
    replica.apply(16)
    replica.checkpoints.drop(9)
    assert [index for index in range(17) if replica.checkpoints.find(index)] == [12, 16]
    replica.checkpoints.drop(16)
    assert replica.checkpoints.newest is None


def test_the_oldest_go_when_there_are_too_many():
    replica = Replica(limits=CompactionLimits(checkpoint_entries=1))
    replica.apply(CHECKPOINTS_KEPT_MAX + 2)
    assert replica.checkpoints.find(2) is None
    assert replica.checkpoints.find(3) is not None
    newest = replica.checkpoints.newest
    assert newest is not None and newest.meta.index == CHECKPOINTS_KEPT_MAX + 2
