"""An image holds everything that decides: a machine restored from it goes on for ever as the one that was written."""

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import (
    PART_SLACK,
    ForgetfulStream,
    assert_equal,
    assert_goes_on_alike,
    assert_restored_before_every_entry,
    log_of,
    restore,
)
from random_stream import Stream
from state_rig import EPOCH_MS, Rig, encode_entry, outcome_of

from cluster.state import (
    credit,
    duplicates,
    evidence,
    homeless,
    keys,
    limits,
    lines,
    locks,
    needs,
    queues,
    retention,
    schedules,
    sessions,
    tables,
    tasks,
    turns,
)
from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    ROLE_CLIENT,
    ROLE_WORKER,
    Command,
    Complete,
    Failure,
    Formation,
    LineRule,
    Needs,
    Options,
    Outcome,
    Register,
    RetryRule,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import Effects
from cluster.state.image import PART_BYTES
from cluster.state.machine import Machine
from cluster.state.queues import STALE_MIN
from cluster.state.rebuilding import Rebuilding
from cluster.state.rows import Section, SpecRow

# -- the property --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_that_is_restored_before_every_entry_decides_as_one_that_never_stopped(seed):
    assert_restored_before_every_entry(log_of(seed, 130))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_due_to_be_forgotten_is_forgotten_at_the_same_entry(monkeypatch, seed):
    monkeypatch.setattr(evidence, "EVIDENCE_BYTES_MAX", 700)
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 40_000)
    machine = assert_restored_before_every_entry(log_of(seed, 130, ForgetfulStream))
    counters = machine.status()["counters"]
    assert min([counters[name] for name in ("evicted", "evicted_early", "blanked_attempts", "ignored_seen")]) > 0


@given(
    seed=st.integers(20_000, 90_000),
    entries=st.integers(20, 200),
    at=st.floats(0, 1),
    kind=st.sampled_from([Stream, ForgetfulStream]),
)
@settings(max_examples=40, deadline=None)
def test_a_machine_restored_anywhere_decides_as_one_that_never_stopped(seed, entries, at, kind):
    assert_goes_on_alike(log_of(seed, entries, kind), round(at * entries))


def test_two_machines_with_the_same_log_have_the_same_image_whether_they_led_or_were_restored():
    log = log_of(5, 120)
    led, followed, came_back = Machine(), Machine(), Machine()
    for index, payload in enumerate(log, 1):
        led.apply(index, 1, payload, Effects())
        followed.apply(index, 1, payload, None)
        if index % 7 == 0:
            came_back = restore(came_back.image())
        came_back.apply(index, 1, payload, None)
    assert list(led.image()) == list(followed.image()) == list(came_back.image())


def test_an_empty_machine_has_an_image():
    restored = restore(Machine().image())
    restored.check()
    assert_equal(restored, Machine())


def test_formation_stamp_and_reported_digest_survive(rig: Rig):
    rig.apply(Formation(b"cluster-id", ("b1", "b2", "b3")))
    client = rig.client()
    for _ in range(300):
        client.submit()
    restored = restore(rig.leader.image())
    assert (restored.cluster_id, restored.voters) == (b"cluster-id", ("b1", "b2", "b3"))
    assert restored.now_ms == EPOCH_MS
    assert restored.digest == rig.leader.digest != (0, 0)


def test_all_that_a_task_has_survives(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=4)
    client.submit("f", retries=2, retry=RetryRule(on=("E",)), soft_timeout_ms=77)
    assert worker.inbox[0].soft_timeout_ms == 77
    raised = msgspec.structs.replace(outcome_of(worker.inbox[0], OUTCOME_FAILED), error=Failure("E", "", kinds=("E",)))
    worker.report(raised)
    client.submit("f", 12, timeout_ms=1_234, result_ttl_ms=77, priority=8)
    for status in (OUTCOME_FAILED, OUTCOME_RETURNED, OUTCOME_CRASHED):
        worker.end(worker.inbox[0], status)
    worker.complete(worker.inbox[0])
    client.cancel(worker.inbox[1].task, worker.inbox[2].task)
    client.cancel(worker.inbox[0].task, grace_ms=77)
    assert client.replay(client.session << 24 | 2) == 1
    rig.worker("w2", prefetch=2)
    restored = restore(rig.leader.image())
    before = [msgspec.structs.asdict(task) for task in rig.leader._tables.tasks.in_order()]
    assert [msgspec.structs.asdict(task) for task in restored._tables.tasks.in_order()] == before
    for field in tasks.Task.__struct_fields__:
        assert len({repr(task[field]) for task in before}) > 1 or field == "spec", f"{field} is always the same here"


def test_equal_specs_that_are_two_objects_stay_two(rig: Rig):
    """An estimate is bounded whenever the spec object changes, so merging equal ones would change estimates."""
    client, worker = rig.client(), rig.worker(prefetch=4)
    groups = [TaskGroup("f", 1, [b""]), TaskGroup("f", 2, [b""], Options()), TaskGroup("f", 3, [b""])]
    rig.apply(Submit(client.session, 1, 1, groups))
    rig.apply(Submit(client.session, 2, 2, [TaskGroup("f", 4, [b""])]))
    first, second, third, fourth = rig.leader._tables.tasks.in_order()
    assert first.spec == second.spec and first.spec is not second.spec and first.spec is third.spec is fourth.spec
    restored = restore(rig.leader.image())
    first, second, third, fourth = restored._tables.tasks.in_order()
    assert first.spec == second.spec and first.spec is not second.spec and first.spec is third.spec is fourth.spec
    specs = restored._tables.queues.specs
    assert specs["f", None] is first.spec and specs["f", Options()] is second.spec
    assert len(worker.inbox) == 4


@pytest.mark.parametrize("merged", [False, True])
def test_which_tasks_share_a_spec_decides_an_estimate(monkeypatch, merged):
    """The planted omission of the identity of specs: the machine then differs in what it estimates."""
    rig = Rig()
    client, worker = rig.client(), rig.worker(prefetch=8)
    for number in range(1, 80):         # until the estimate is as low as it gets
        rig.apply(Submit(client.session, number, number, [TaskGroup("f", number, [b""])]))
        worker.complete(*worker.inbox, run_us=0)
    options = [None, Options()]
    groups = [TaskGroup("f", 100 + place, [b""], options[place]) for place in range(2)]
    rig.apply(Submit(client.session, 80, 80, groups))
    if merged:
        make = Rebuilding._spec

        def merge(rebuilding: Rebuilding, row: SpecRow) -> None:
            make(rebuilding, row)
            rebuilding._specs[-1] = rebuilding._specs[rebuilding._specs.index(rebuilding._specs[-1])]

        monkeypatch.setattr(Rebuilding, "_spec", merge)
    restored = restore(rig.leader.image())
    outcomes = [
        Outcome(given.task, 1, OUTCOME_COMPLETED, EPOCH_MS, run_us, b"")
        for given, run_us in zip(worker.inbox, (0, 9), strict=True)
    ]
    worker.report(*outcomes)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    estimates = [machine._tables.queues.names["f"].estimate_us for machine in (rig.leader, restored)]
    assert (estimates[0] != estimates[1]) == merged
    assert (restored.full_digest() != rig.leader.full_digest()) == merged


def test_a_lane_keeps_its_stale_entries_and_what_they_count(rig: Rig):
    """How long a lane is decides how many idle slots take part in a round."""
    client = rig.client()
    waiting = client.submit(count=100)
    client.cancel(*waiting[10:50])
    restored = restore(rig.leader.image())
    (channel,) = restored._tables.queues.channels.values()
    assert (channel.waiting, channel.stale) == (60, 40)
    assert [message.id for message in channel.lanes[5] or ()] == waiting
    rig.worker(slots=64)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)


def test_a_stale_entry_outlives_its_task(rig: Rig):
    """A cancelled task may be forgotten while its entry still waits in the lane."""
    client = rig.client()
    waiting = client.submit(count=3, result_ttl_ms=1_000)
    client.cancel(waiting[1])
    rig.pass_time(3_000)
    assert rig.leader.state_of(waiting[1]) is None
    restored = restore(rig.leader.image())
    restored.check()
    assert list(restored.image()) == list(rig.leader.image())
    worker = rig.worker(prefetch=3)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)
    assert worker.tasks() == [waiting[0], waiting[2]]


def test_lanes_are_rebuilt_at_the_same_entry(rig: Rig):
    client = rig.client()
    waiting = client.submit(count=2 * STALE_MIN)
    client.cancel(*waiting[:STALE_MIN])
    restored = restore(rig.leader.image())
    client.cancel(waiting[STALE_MIN])
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)
    assert restored._tables.queues.channels[0].stale == 0


def test_a_draining_worker_whose_pool_is_gone_keeps_what_it_holds(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    client.submit(count=2)
    worker.drain()
    assert not rig.leader._tables.credit.pools
    restored = restore(rig.leader.image())
    restored.check()
    worker.complete(*worker.inbox)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    restored.check()
    assert_equal(restored, rig.leader)


# -- replace, sharing ----------------------------------------------------------------------------------------


def test_replace_takes_over_everything_and_handlers_go_on_with_it(rig: Rig):
    client = rig.client()
    client.submit(count=5)
    old = Machine()
    old.apply(1, 1, encode_entry(Formation(b"old", ()), now_ms=EPOCH_MS), None)
    donor = restore(rig.leader.image())
    old.replace(donor)
    assert_equal(old, rig.leader)
    assert donor.applied_index == 0 and donor.full_digest() == Machine().full_digest()
    rig.worker()
    old.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(old, rig.leader)


def test_the_state_that_was_replaced_is_freed_a_part_at_a_time(rig: Rig):
    client = rig.client()
    for _ in range(40):
        client.submit(count=1_000)
    tasks = len(rig.leader._tables.tasks)
    freed: list[int] = []
    shards = rig.leader._tables.tasks.shards
    for _ in rig.leader.replace(Machine()):
        freed.append(tasks - sum(len(shard) for shard in shards))
    assert freed[-1] == tasks
    assert max(after - earlier for earlier, after in pairwise(freed)) < tasks / 20


def test_tasks_share_specs_and_names_after_a_restore_as_before():
    rig = Rig()
    client, worker = rig.client(), rig.worker(slots=2, prefetch=20)
    for _ in range(20):
        client.submit("f", 50)
        worker.complete(*worker.inbox[:10])
        worker.end(worker.inbox[0], OUTCOME_FAILED)
    restored = restore(rig.leader.image())
    kept = list(restored._tables.tasks.in_order())
    (specs,) = {id(task.spec): task.spec for task in kept}.values()
    assert specs is restored._tables.queues.specs["f", None]
    (channel,) = restored._tables.queues.channels.values()
    assert specs.name is channel.name.name and specs.queue is channel.queue.name
    name = restored.worker_sessions()[0].name
    assert {id(task.worker) for task in kept if task.worker} == {id(name)}
    assert {id(attempt.worker) for task in kept for attempt in task.attempts or ()} == {id(name)}


def test_workers_that_offer_the_same_are_written_once(rig: Rig):
    names = tuple(f"name-{number}" for number in range(2_000))
    for number in range(30):
        rig.worker(f"w{number}", names=names)
    assert sum(map(len, rig.leader.image())) < 2 * sum(map(len, names)) + 30 * 200


# -- sizes ---------------------------------------------------------------------------------------------------


def test_parts_are_bounded_and_a_larger_task_is_a_part_of_its_own(rig: Rig):
    client = rig.client()
    random = Random(1)
    sizes = [random.choice((0, 100, 100, 3_000, 90_000, 262_144, 1 << 20, 2 << 20)) for _ in range(120)]
    for seq, size in enumerate(sizes, 1):
        rig.apply(Submit(client.session, seq, seq, [TaskGroup("f", seq, [b"x" * size])]))
    parts = list(rig.leader.image())
    for part in parts:
        section, _, rows = msgspec.msgpack.decode(part)
        if len(part) > PART_BYTES + PART_SLACK:
            assert section == Section.TASKS and len(rows) == 1 and len(rows[0][2]) == 1
    assert len(parts) > len([size for size in sizes if size > PART_BYTES])
    assert_equal(restore(parts), rig.leader)


def test_parts_are_bounded_however_long_lanes_rings_and_evidence_are():
    machine = Machine()
    effects = Effects()

    def apply(*commands: Command) -> None:
        machine.apply(machine.applied_index + 1, 1, encode_entry(*commands), effects)

    apply(Register("c", 1, ROLE_CLIENT))
    for number in range(20):
        apply(Register(f"w{number}" * 50, 1, ROLE_WORKER, WorkerSpec(1_024, ("default",), ("g",))))
    apply(Register("failing", 1, ROLE_WORKER, WorkerSpec(1, ("default",), ("f",), 300)))
    failing = effects.registered[-1].session
    for seq in range(1, 60):
        apply(Submit(1, seq, seq, [TaskGroup("f", 1_024 * seq, [b""] * 1_024)]))
    long = "x" * 16_000
    error = Failure(long, long, long, stderr=long)
    given = effects.assignments[failing][:300]
    apply(Complete(failing, 1, 1, [Outcome(a.task, a.attempt, OUTCOME_FAILED, EPOCH_MS, 5, b"", error) for a in given]))
    parts = list(machine.image())
    assert max(map(len, parts)) <= PART_BYTES + PART_SLACK
    assert len(parts) > 30
    assert_equal(restore(parts), machine)


@pytest.mark.parametrize(
    "own",
    [
        lambda text: {"actor": "A", "key": text},
        lambda text: {"line": LineRule(text, "limit", 1_000_000)},
        lambda text: {"dedup": text, "dedup_ms": 60_000, "retry": RetryRule(on=(text,) * 20)},
        lambda text: {"retry": RetryRule(on=(text,) * 20), "expires_ms": 60_000},
    ],
    ids=["keys", "lines", "keys of work", "dates of their own"],
)
def test_parts_are_bounded_whatever_tasks_say_of_themselves_and_need(
    rig: Rig, own: Callable[[str], dict[str, object]]
):
    """Each has a spec that no other one has, with long texts, and a long list of needs."""
    client = rig.client()
    members = [task for _ in range(4) for task in client.submit("f", 1_024)]
    labels = tuple(f"{number}" * 200 for number in range(40))
    for number in range(60):
        client.submit("g", 1, [Needs(members)], labels=labels, **own(f"{number}" * 200))
    parts = list(rig.leader.image())
    assert max(map(len, parts)) <= PART_BYTES + PART_SLACK
    assert_equal(restore(parts), rig.leader)


def test_parts_are_made_as_they_are_asked_for_and_notice_an_entry_in_between(rig: Rig):
    client = rig.client()
    client.submit()
    parts = rig.leader.image()
    next(parts)
    client.submit()
    with pytest.raises(AssertionError, match="within the image"):
        next(parts)


# What of each record is written or follows from what is written. Whoever adds a field decides which, adds it to
# `rows`, `image` and `restoration` in the first case, and to this list.
KNOWN_FIELDS = {
    tables.Tables: (
        "cluster_id counters credit dependencies duplicates evidence keys ledger limits lines locks machine_version "
        "now_ms queues retention schedules sessions tasks timers voters"
    ),
    tasks.Task: (
        "id spec body state attempt holder estimate_us alone worker started_ms run_us crashes attempts lot failures "
        "grace_ms replays"
    ),
    queues.Spec: (
        "queue name channel priority timeout_ms result_ttl_ms expires_at_ms retries retry soft_timeout_ms actor key "
        "labels schedule slot_ms line dedup"
    ),
    queues.Queue: "delayed ended name ready running",
    queues.Name: "estimate_us name",
    queues.Channel: "alone index key labels lanes name pools queue stale waiting",
    queues.Queues: "_pools_serving bundles by_key channels made names queues specs",
    credit.Credit: "dirty dirty_homes made pools touched",
    credit.Pool: "_dirty _labels _names _queues idle is_loop key open prefetch sessions",
    credit.Slot: "closed count draining held home index key load_us place pool session touched yields",
    turns.Turns: "index mask ready",
    turns.SparseTurns: "",
    keys.Home: "_dirty channels slot",
    keys.KeyedChannel: "_keys epoch held home unfinished",
    keys.Keys: "_pools_serving _queues by_key emptied epochs homeless homes idle",
    homeless.Homeless: "by_head by_index",
    lines.Line: "_emptied bundle limit places rule share under unfinished",
    lines.Bundle: "labels lanes limit lines name places pools queue",
    lines.Lines: "_limits _pools_serving _queues bundles emptied",
    limits.Limit: "_touched concurrency date_ms members name passed period_ms running share started starts window",
    limits.Limits: "_timers by_index by_name made touched",
    sessions.Session: (
        "id name incarnation role worker draining next_seq kept_from refusals last_number unsaid last_claim slots held "
        "ended slots_open"
    ),
    sessions.Sessions: "by_id by_owner ended last_id",
    locks.Locks: "_ledger _sessions bounded by_fence by_name by_session claims fences rests",
    locks.Lock: "holders limit name taken waiting",
    locks.Claim: "at_most_ms fence hold_ms id is_wanted lock note rest_ms session since_ms terms units",
    schedules.Schedules: "_ledger announced by_name by_task disputed freed made number offers session sessions stirred",
    schedules.Schedule: (
        "alarm alarm_ms begun history is_paused next_ms owed_ms passed_ms paused_ms since_ms spec version waiting"
    ),
    retention.Retention: (
        "_dependencies _seconds buckets bytes dead dead_bytes ended ended_bytes lots lots_made overdue_bytes"
    ),
    retention.Bucket: "lots ranges",
    retention.Lot: "ids known number second",
    evidence.Evidence: "attempts bytes",
    duplicates.Duplicates: "_dates buckets by_scope by_task over",
    duplicates.Taken: "behind is_over scope task until_ms",
    needs.Dependencies: "by_task counted ends kept pins taken waited",
    needs.Dependent: "at_ms behind delay_ms missing needs unknown",
}


def test_every_field_of_the_state_is_in_the_image_or_follows_from_it():
    found = {
        tables.Tables: set(tables.Tables.__slots__),
        tasks.Task: set(tasks.Task.__struct_fields__),
        queues.Spec: set(queues.Spec.__struct_fields__),
        queues.Queue: set(queues.Queue.__slots__),
        queues.Name: set(queues.Name.__slots__),
        queues.Channel: set(queues.Channel.__slots__),
        queues.Queues: set(queues.Queues.__slots__),
        credit.Credit: set(credit.Credit.__slots__),
        credit.Pool: set(credit.Pool.__slots__),
        credit.Slot: set(credit.Slot.__slots__),
        turns.Turns: set(turns.Turns.__slots__),
        turns.SparseTurns: set(turns.SparseTurns.__slots__),
        keys.Home: set(keys.Home.__slots__),
        keys.KeyedChannel: set(keys.KeyedChannel.__slots__),
        keys.Keys: set(keys.Keys.__slots__),
        homeless.Homeless: set(homeless.Homeless.__slots__),
        lines.Line: set(lines.Line.__slots__),
        lines.Bundle: set(lines.Bundle.__slots__),
        lines.Lines: set(lines.Lines.__slots__),
        limits.Limit: set(limits.Limit.__slots__),
        limits.Limits: set(limits.Limits.__slots__),
        sessions.Session: {field.name for field in fields(sessions.Session)},
        sessions.Sessions: set(sessions.Sessions.__slots__),
        locks.Locks: set(locks.Locks.__slots__),
        locks.Lock: {field.name for field in fields(locks.Lock)},
        locks.Claim: {field.name for field in fields(locks.Claim)},
        schedules.Schedules: set(schedules.Schedules.__slots__),
        schedules.Schedule: {field.name for field in fields(schedules.Schedule)},
        retention.Retention: set(retention.Retention.__slots__),
        retention.Bucket: set(retention.Bucket.__slots__),
        retention.Lot: set(retention.Lot.__slots__),
        evidence.Evidence: set(evidence.Evidence.__slots__),
        duplicates.Duplicates: set(duplicates.Duplicates.__slots__),
        duplicates.Taken: set(duplicates.Taken.__slots__),
        needs.Dependencies: set(needs.Dependencies.__slots__),
        needs.Dependent: set(needs.Dependent.__slots__),
    }
    assert found == {known: set(names.split()) for known, names in KNOWN_FIELDS.items()}
