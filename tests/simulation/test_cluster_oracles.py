"""Each oracle speaks up when what it looks at is tampered with; all are silent before."""

from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import replace

from actors import SECOND, Failed
from cluster.simulation import Course, Scenario
from cluster.simulation.state_oracle import WatchedMachine
from cluster.state.commands import ROLE_CLIENT as REGISTER_CLIENT
from cluster.state.commands import Drain, Failure, Options, Register
from cluster.state.effects import STATE_CANCELLED, STATE_COMPLETED, STATE_FAILED, Assignment, TaskResult

CALM = Course(tasks_min=0, rest_ns_max=60 * SECOND, total_ns_min=0)


@pytest.fixture
def settled() -> Iterator[Scenario]:
    """A cluster without faults, at rest after a few seconds of work."""
    scenario = Scenario(3, CALM)
    with scenario.world:
        scenario.run_for(4 * SECOND)
        assert scenario.settle().violations == []
        assert len(scenario.workload.acknowledged) > 50
        yield scenario


def judged(scenario: Scenario) -> set[str]:
    """The oracles that find something now."""
    workload = scenario.workload
    scenario.oracles.judge_end(workload.acknowledged, workload.refused, scenario.history)
    return {violation.oracle for violation in scenario.oracles.judge.violations}


def found(scenario: Scenario) -> set[str]:
    return {violation.oracle for violation in scenario.oracles.judge.violations}


def entry(command: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode([(command.__struct_config__.tag, 1, [command])])


def test_a_cluster_at_rest_is_judged_well_twice(settled: Scenario):
    assert judged(settled) == set()


def test_an_acknowledged_task_without_a_record_is_lost(settled: Scenario):
    task = next(iter(settled.workload.acknowledged.values()))
    del settled.oracles.state.terminal[task]
    assert judged(settled) >= {"acknowledged", "liveness"}
    assert settled.oracles.lost == 1


def test_records_that_the_state_forgets_are_not_lost(settled: Scenario):
    tasks = list(settled.workload.acknowledged.values())
    settled.run_for(70 * SECOND)
    settled.run_until(lambda: settled.is_at_rest, 5 * SECOND)
    assert sum(settled.oracles.state.is_forgotten(task) for task in tasks) > len(tasks) // 2
    assert judged(settled) == set()


def test_a_broker_that_forgot_a_record_by_itself_is_seen(settled: Scenario):
    task = next(iter(settled.workload.acknowledged.values()))
    peer = settled.brokers[1].peer
    assert peer is not None
    del peer.machine._tables.tasks.shard(task >> 10)[task]
    assert judged(settled) == {"acknowledged", "digest"}


def test_an_acknowledged_task_that_no_log_has_is_seen_at_once(settled: Scenario):
    settled.oracles.acknowledged(key=1_000_000, task=7)
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["acknowledged"]


def test_a_result_of_another_call_is_seen(settled: Scenario):
    terminal = settled.oracles.state.terminal
    key, task = next((k, t) for k, t in settled.workload.acknowledged.items() if terminal[t].state == 0)
    terminal[task] = TaskResult(task, 0, 1, msgspec.msgpack.encode(key + 1))
    assert judged(settled) == {"result"}


def test_a_client_that_was_told_something_else_is_seen(settled: Scenario):
    operation = next(one for one in settled.history.of("result") if one.value == ("failed", None))
    operation.value = ("cancelled", None)
    assert judged(settled) == {"result"}


def test_a_refused_call_that_is_in_the_log_is_seen(settled: Scenario):
    settled.workload.refused.append(next(iter(settled.workload.acknowledged)))
    assert judged(settled) == {"refused"}


def test_a_broker_that_applies_another_entry_is_seen(settled: Scenario):
    peer = settled.brokers[0].peer
    other = settled.brokers[1].peer
    index, term = peer.machine.applied_index + 1, peer.core.term
    peer.machine.apply(index, term, entry(Register("someone", 1, REGISTER_CLIENT)), None)
    other.machine.apply(index, term, entry(Register("somebody", 1, REGISTER_CLIENT)), None)
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["state machine safety"]


def test_a_worker_that_begins_or_is_given_a_task_while_it_drains_is_seen(settled: Scenario):
    state, worker = settled.oracles.state, settled.oracles.state.reference.worker_sessions()[0]
    (task, attempt), _ = next((pair, session) for pair, session in state._given.items() if session == worker.id)
    state._ran.remove((task, attempt))
    index = state.reference.applied_index + 1
    state.applied("b1", WatchedMachine(state, "b1"), index, 1, entry(Drain(worker.id, worker.next_seq, 1)))
    settled.oracles.judge.violations.clear()        # that b1 is far behind is not the point
    state.ran(task, attempt)
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["drain"]
    state._give(index, worker.id, (max(state.terminal) + 1, 1))
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["drain"] * 2


def test_a_second_leader_of_a_term_is_seen():
    scenario = Scenario(3, CALM)
    scenario.oracles.raft.leaders.update(dict.fromkeys(range(1, 10), "somebody"))
    with scenario.world:
        scenario.run_for(4 * SECOND)
    assert scenario.oracles.judge.violations[0].oracle == "election safety"


def test_a_broker_that_is_quarantined_without_damage_is_seen():
    scenario = Scenario(3, CALM)
    with scenario.world:
        scenario.run_for(3 * SECOND)
        node = scenario.brokers[2]
        node.peer.wal.quarantine("for no reason")
        scenario.world.run_for(SECOND)
        scenario.world.restart(node.process)
        scenario.run_for(3 * SECOND)
    assert scenario.oracles.judge.violations[0].oracle == "damage"


def test_a_flipped_bit_is_noticed_by_its_broker_and_healed_by_the_others():
    scenario = Scenario(5, CALM)
    faults, world = scenario.faults, scenario.world
    with world:
        scenario.run_for(3 * SECOND)
        node = scenario.brokers[1]
        disk = node.process.machine.disk
        path, offset, bit = faults.flip(disk, world.stream("test"))
        world.crash(node.process)
        disk.flip_bit(path, offset, bit)
        scenario.oracles.raft.damaged.add(node.name)
        scenario.oracles.raft.undetected.add(node.name)
        world.restart(node.process)
        scenario.run_until(lambda: node.name not in scenario.oracles.raft.undetected, 5 * SECOND)
        assert node.peer.wal.quarantined
        report = scenario.settle()
        assert report.violations == []
        assert not node.peer.wal.quarantined


@pytest.mark.parametrize("kind", ["WalFailed", "NoRoom"])
def test_a_broker_that_a_full_disk_ends_with_a_spare_at_hand_is_seen(settled: Scenario, kind: str):
    name = settled.brokers[0].name
    disk = settled.world.machine(name).disk
    disk.faults["no_space"] = 1
    settled.oracles.ended(name, Failed(kind, "[Errno 28] No space left on device"))
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["full disk"]


def test_a_broker_that_a_full_disk_ends_without_a_spare_is_counted(settled: Scenario):
    name = settled.brokers[0].name
    disk = settled.world.machine(name).disk
    disk.faults["no_space"] = 1
    for path in disk.paths():
        if path.endswith(".spare"):
            disk.overwrite(path, b"")
    settled.oracles.ended(name, Failed("WalFailed", "[Errno 28] No space left on device"))
    assert settled.oracles.judge.violations == []
    assert settled.oracles.no_room == {"writing": 1}


def test_a_retry_before_the_end_of_its_pause_and_one_that_nobody_asked_for_are_seen(settled: Scenario):
    state = settled.oracles.state
    state._give(1, 1, (1 << 40, 1))
    state._held.clear()
    assert found(settled) == set()
    state._not_before[1 << 40] = state.reference.now_ms + 1
    state._give(1, 1, (1 << 40, 2))
    state._held.clear()
    assert found(settled) == {"retry"}


def test_a_task_that_failed_with_retries_left_is_seen(settled: Scenario):
    state = settled.oracles.state
    task = next(task for task, result in state.terminal.items() if result.state == STATE_FAILED)
    failure = Failure("E", "", kinds=("E",))
    state._judge_failure(1, task, failure)
    assert found(settled) == set()
    state._options[task] = Options(retries=1)
    state._judge_failure(1, task, failure)
    assert found(settled) == {"retry"}


def test_a_second_end_without_a_replay_is_seen_and_one_with_a_replay_is_not(settled: Scenario):
    state = settled.oracles.state
    ended_once = (item for item in state.terminal.items() if len(state.records[item[0]]) == 1)
    task, result = next((task, result) for task, result in ended_once if result.state == STATE_FAILED)
    state._replays[task] = 1
    state._begin_anew(1, [task])
    assert task not in state.terminal
    state._end(1, replace(result, state=STATE_CANCELLED), set(), set())
    assert found(settled) == set()
    state._end(1, replace(result, state=STATE_CANCELLED), set(), set())
    assert found(settled) == {"one terminal record"}


def test_a_replay_of_what_has_a_result_or_has_not_ended_is_seen(settled: Scenario):
    state = settled.oracles.state
    task = next(task for task, result in state.terminal.items() if result.state == STATE_COMPLETED)
    state._replays[task] = state._replays[1 << 40] = 1
    state._begin_anew(1, [task, 1 << 40])
    assert [violation.oracle for violation in settled.oracles.judge.violations] == ["replay", "replay"]


def test_a_replayed_task_that_does_not_end_again_is_lost(settled: Scenario):
    state = settled.oracles.state
    task = next(task for task in settled.workload.acknowledged.values() if state.terminal[task].state == STATE_FAILED)
    state._replays[task] = state._replays.get(task, 0) + 1
    state._begin_anew(1, [task])
    assert judged(settled) >= {"acknowledged", "liveness"}


def test_a_task_that_was_told_to_stop_and_goes_on_elsewhere_is_seen(settled: Scenario):
    state = settled.oracles.state
    state._stopped.add(1 << 40)
    state._give(1, 1, (1 << 40, 2))
    state._held.clear()
    assert found(settled) == {"cancel"}


# -- snapshots --------------------------------------------------------------------------------------------------------


def test_a_restored_state_that_nobody_planned_or_that_differs_is_seen(settled: Scenario):
    state, peer = settled.oracles.state, settled.brokers[0].peer
    assert peer is not None
    state.planned("b1", peer.machine, peer.machine.applied_index, None)
    state.restored("b1", peer.machine)
    assert found(settled) == set()
    # The rolling digest says nothing of it.
    peer.machine._tables.sessions.last_id += 1
    state.restored("b1", peer.machine)
    assert found(settled) == {"snapshot"}


def test_a_checkpoint_that_says_something_else_than_was_applied_is_an_alarm(settled: Scenario):
    state, peer = settled.oracles.state, settled.brokers[0].peer
    assert peer is not None
    noted = peer.snapshots.checkpoints.newest
    assert noted is not None
    state.planned("b1", peer.machine, noted.meta.index, noted.meta)
    assert found(settled) == set()
    state.planned("b1", peer.machine, noted.meta.index, replace(noted.meta, rolling=noted.meta.rolling ^ 1))
    assert found(settled) == {"digest"}


def test_a_copy_of_another_state_is_an_alarm(settled: Scenario):
    reason = "this replica was in another state at that entry"
    settled.oracles.snapshots.on_log(settled.brokers[0], "snapshot_refused", {"index": 7, "reason": reason})
    assert found(settled) == {"snapshot"}


def test_a_compaction_that_comes_to_another_state_is_an_alarm(settled: Scenario):
    watch = settled.oracles.snapshots
    watch.on_log(settled.brokers[0], "compaction_failed", {"reason": "it ended with code None, signal 9: "})
    watch.on_log(settled.brokers[0], "compaction_failed", {"reason": "OSError: [Errno 28] No space left on device"})
    assert found(settled) == set()
    watch.on_log(settled.brokers[0], "compaction_failed", {"reason": "OtherState: replay came to entry 7"})
    assert found(settled) == {"compaction"}
    assert len(watch.moments.alarms) == 1


def test_a_damaged_snapshot_is_seen_if_nothing_damaged_it_and_if_nobody_notices(settled: Scenario):
    watch, node = settled.oracles.snapshots, settled.brokers[0]
    watch.flipped("b1", 7)
    settled.oracles.raft.damaged.add("b1")
    watch.on_log(node, "snapshot_damaged", {"index": 7, "reason": "a bit"})
    watch.on_log(node, "broker_started", {})
    assert found(settled) == set()
    watch.flipped("b1", 8)
    watch.on_log(node, "broker_started", {})
    assert found(settled) == {"snapshot"}
    settled.oracles.judge.violations.clear()
    watch.on_log(settled.brokers[1], "snapshot_damaged", {"index": 7, "reason": "a bit"})
    assert found(settled) == {"snapshot"}


def test_a_task_at_a_worker_that_lacks_its_label_is_seen(settled: Scenario):
    state, task = settled.oracles.state, 1 << 40
    plain, labelled = sorted(state.reference.worker_sessions(), key=lambda session: session.name)
    state._options[task] = Options(labels=("gpu",))
    state._give(1, labelled.id, (task, 1))
    assert found(settled) == set()
    state._held.clear()
    state._give(1, plain.id, (task, 2))
    assert found(settled) == {"labels"}


@pytest.mark.parametrize(
    ("slot", "epoch", "key", "seen"),
    [(0, 10**9, "k", False), (1, 10**9, "k", True), (0, 10**9 - 1, "k", True), (1, 10**9 + 1, "k", True),
     (0, 10**9, "", True)],
    ids=["same slot", "same epoch", "old epoch", "two slots", "no key"],
)  # fmt: skip
def test_a_key_at_two_slots_or_in_an_epoch_that_is_over_is_seen(
    settled: Scenario, slot: int, epoch: int, key: str, seen: bool
):
    state = settled.oracles.state
    session = state.reference.worker_sessions()[0].id
    for task, given in ((1 << 40, (0, 10**9, "k")), (1 << 41, (slot, epoch, key))):
        state._options[task] = Options(key="k", actor="A")
        state._held[task] = (session, 1)
        state._own(1, session, Assignment(task, 1, given[0], 1, 1, "f", b"", actor="A", key=given[2], epoch=given[1]))
    assert found(settled) == ({"keys"} if seen else set())
