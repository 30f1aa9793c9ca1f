"""The oracles find bugs that are planted, and are silent where there is none.

Each bug is looked for twice: by the sweep as it is, within a few seeds; and by a script of faults that aims at it,
with those oracles muted that look inside brokers, so that what users would see is judged as well.
"""

from functools import partial

import pytest

from actors import MILLISECOND, SECOND
from cluster.raft.messages import Role
from cluster.simulation import Course, Planted, Scenario
from cluster.simulation.launched import BrokerProcess

SCRIPTED = Course(tasks_min=0, rest_ns_max=60 * SECOND, total_ns_min=0)
SLOW_SYNC = 200                         # times 0.2 ms: what is acknowledged too early is lost for sure
ELECTIONS = 12
SEEDS_WITH_THREAD = (0, 1, 4, 5)        # their logs are synced off the loop


@pytest.mark.parametrize("planted", [planted for planted in Planted if planted is not Planted.WAITING_NOT_IN_SNAPSHOT])
def test_the_sweep_finds_a_planted_bug_within_a_few_seeds(planted: Planted):
    for seed in range(8):
        violations = Scenario(seed, planted=planted).run().violations
        if violations:
            assert violations[0].seed == seed
            assert violations[0].oracle in ("promise", "damage", "double dispatch", "snapshot", "compaction")
            return
    pytest.fail(f"not found in eight seeds: {planted.value}")


def blackout_under_load(seed: int, planted: Planted | None) -> Scenario:
    """All machines lose their power while syncs are slow and clients are busy."""
    scenario = Scenario(seed, SCRIPTED, planted)
    scenario.oracles.judge.muted = {"promise", "damage"}
    with scenario.world:
        scenario.run_for(4 * SECOND)
        for node in scenario.brokers:
            node.process.machine.disk_slowness = SLOW_SYNC
        scenario.run_for(2 * SECOND)
        # Now something has left for all of them that no disk has yet.
        under_way = [(node.peer.core.log, node.peer.wal) for node in scenario.brokers]
        assert scenario.world.run_until(
            lambda: all(log.last_index > wal.last_index for log, wal in under_way), 5 * SECOND
        )
        scenario.world.run_for(5 * MILLISECOND)
        scenario.faults.blackout()
        for node in scenario.brokers:
            node.process.machine.disk_slowness = 1
        scenario.settle()
    return scenario


def test_a_task_that_was_acknowledged_before_its_sync_is_missed_after_a_blackout():
    for seed in SEEDS_WITH_THREAD:
        violations = blackout_under_load(seed, Planted.ACK_BEFORE_SYNC).oracles.judge.violations
        found = {violation.oracle for violation in violations}
        if found & {"acknowledged", "result", "liveness", "leader completeness", "apply", "state machine safety"}:
            return
    pytest.fail("what was acknowledged was not missed in any of the seeds")


@pytest.mark.parametrize("seed", SEEDS_WITH_THREAD)
def test_a_blackout_under_load_loses_nothing_that_was_acknowledged(seed: int):
    scenario = blackout_under_load(seed, None)
    assert scenario.oracles.judge.violations == []
    assert len(scenario.workload.acknowledged) > 100


def kill_voters(seed: int, planted: Planted | None) -> Scenario:
    """Again and again: the leader is cut off; in the instant in which one of the other two leads, its voter crashes, it
    is cut off itself, and the former leader meets the voter that came back."""
    scenario = Scenario(seed, SCRIPTED, planted)
    scenario.oracles.judge.muted = {"promise"}
    world = scenario.world
    names = [node.name for node in scenario.brokers]
    cuts = []

    def cut_off(name: str) -> None:
        for cut in cuts:
            world.network.mend(cut)
        cuts[:] = [world.network.cut([name], [other for other in names if other != name])]

    def elected(node: BrokerProcess, voters: list[int]) -> None:
        cut_off(node.name)
        for number in voters:
            world.after(0, partial(world.restart, scenario.brokers[number - 1].process))

    with world:
        scenario.oracles.raft.on_leader.append(elected)
        scenario.run_until(lambda: scenario.oracles.raft.elections >= ELECTIONS, 120 * SECOND)
        scenario.oracles.raft.on_leader.clear()
        for cut in cuts:
            world.network.mend(cut)
        if not scenario.oracles.violated:
            scenario.run_for(10 * MILLISECOND)
            scenario.settle()
    return scenario


def test_two_leaders_of_one_term_are_seen_when_a_vote_is_forgotten():
    for seed in range(6):
        violations = kill_voters(seed, Planted.VOTE_NOT_PERSISTED).oracles.judge.violations
        if violations:
            assert violations[0].oracle == "election safety"
            return
    pytest.fail("nobody voted twice in six seeds")


@pytest.mark.parametrize("seed", range(3))
def test_a_voter_that_crashes_keeps_its_vote(seed: int):
    scenario = kill_voters(seed, None)
    assert scenario.oracles.judge.violations == []
    assert scenario.oracles.raft.elections >= ELECTIONS


# -- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", [Planted.OVERWRITTEN_ENTRY_PLANNED, Planted.LAST_ENTRY_NOT_PLANNED])
def test_nothing_that_a_wrong_plan_comes_to_is_ever_adopted_and_each_is_an_alarm(planted: Planted):
    """The compactor itself compares what it came to with what its broker has, and reads pieces that fit only."""
    for seed in range(8):
        scenario = cut_off_leaders(seed, planted)
        assert scenario.oracles.judge.violations == []
        alarms = scenario.oracles.snapshots.moments.alarms
        assert all("OtherState" in alarm or "UnreadablePiece" in alarm for alarm in alarms)
        if alarms:
            return
    pytest.fail("no plan was wrong in eight seeds")


def cut_off_leaders(seed: int, planted: Planted) -> Scenario:
    """What a leader takes from clients while it is cut off from the others is overwritten."""
    scenario = Scenario(seed, SCRIPTED, planted)
    scenario.oracles.judge.muted = {"compaction"}
    with scenario.world:
        scenario.run_for(4 * SECOND)
        for _ in range(6):
            leader = next(node for node in scenario.brokers if node.peer.core.role is Role.LEADER)
            others = [node.name for node in scenario.brokers if node is not leader]
            cut = scenario.world.network.cut([leader.name], others)
            scenario.run_for(3 * SECOND)
            scenario.world.network.mend(cut)
            scenario.run_for(4 * SECOND)
        scenario.settle()
    return scenario
