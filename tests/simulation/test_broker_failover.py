"""A leader that dies: whoever is left does not wait for a timeout, and does not split the vote."""

import pytest
from recovery_rig import RecoveryRig

from actors import MILLISECOND
from cluster.peer.ticker import TICK
from cluster.raft.election import HURRY_TICKS
from cluster.raft.messages import Role

TURNS = 2                   # of three brokers, two are left
SYNCS_AND_HOPS = 60 * MILLISECOND


@pytest.mark.parametrize("seed", range(12))
def test_one_election_follows_a_death_at_once(seed):
    with RecoveryRig(seed) as rig:
        rig.submit(30)
        rig.settle()
        rig.world.run_for((100 + 17 * seed) * MILLISECOND)      # somewhere in the calm between two looks at the ticks
        leader = rig.leader
        term, died = leader.core.term, rig.world.now
        rig.stop(leader)
        rig.until(lambda: rig.leading() not in (None, leader))
        assert rig.leader.core.term == term + 1
        assert rig.world.now - died < TURNS * HURRY_TICKS * TICK + SYNCS_AND_HOPS


@pytest.mark.parametrize("seed", range(6))
def test_whose_turn_is_second_waits_for_the_first_however_long_it_was_calm_before(seed):
    with RecoveryRig(seed) as rig:
        rig.submit(30)
        rig.settle()
        rig.world.run_for((100 + 17 * seed) * MILLISECOND)
        leader = rig.leader
        first, second = sorted(rig.followers(), key=lambda broker: broker.core.id)
        died = rig.world.now
        rig.stop(first)
        rig.stop(leader)
        rig.until(lambda: second.core.role is Role.PRE_CANDIDATE)
        assert HURRY_TICKS * TICK <= rig.world.now - died < TURNS * HURRY_TICKS * TICK + SYNCS_AND_HOPS
