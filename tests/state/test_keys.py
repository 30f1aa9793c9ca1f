"""Tasks of an actor with a key go to the one slot that owns the key."""

import pytest
from image_rig import assert_equal, restore
from state_rig import Rig, Worker, outcome_of

from cluster.state import dispatch, keys
from cluster.state.commands import OUTCOME_CRASHED, OUTCOME_FAILED, OUTCOME_RETURNED, PREFETCH_AUTO, Options, TaskGroup
from cluster.state.effects import ANSWER_REFUSED
from cluster.state.keys import KeyedChannel

ACTOR = "m:Model"
PREDICT, TRAIN = "m:Model.predict", "m:Model.train"
BOTH = (PREDICT, TRAIN)


def of(key: str, **options: object) -> dict[str, object]:
    return {"key": key, "actor": ACTOR, **options}


def channel_of(rig: Rig, key: str) -> KeyedChannel | None:
    return rig.leader._tables.keys.by_key.get(("default", ACTOR, key, ()))


def slots(worker: Worker) -> dict[str, set[int]]:
    """Slots at which each key is."""
    found: dict[str, set[int]] = {}
    for assignment in worker.inbox:
        found.setdefault(assignment.key, set()).add(assignment.slot)
    return found


def drain_keys(worker: Worker) -> list[int]:
    """Completes all that a worker gets, one by one; returns it in order."""
    done: list[int] = []
    while worker.inbox:
        done.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    return done


def test_all_tasks_of_a_key_go_to_one_slot_and_keys_are_spread(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3, names=BOTH, prefetch=9)
    for key in ("a", "b", "c", "a", "b", "c"):
        client.submit(PREDICT, 2, **of(key))
    assert slots(worker) == {"a": {0}, "b": {1}, "c": {2}}
    assert [(a.actor, a.name) for a in worker.inbox] == [(ACTOR, PREDICT)] * 12
    assert {a.key: a.epoch for a in worker.inbox} == {"a": 1, "b": 2, "c": 3}


def test_a_key_keeps_its_home_while_it_has_no_tasks(rig: Rig) -> None:
    client = rig.client()
    workers = [rig.worker(name, slots=2, names=BOTH) for name in ("w1", "w2")]
    seen = set()
    for _ in range(6):
        client.submit(PREDICT, **of("a"))
        client.submit(PREDICT, **of("b"))
        for worker in workers:
            seen |= {(a.key, worker.name, a.slot, a.epoch) for a in worker.inbox}
            worker.complete(*worker.inbox)
    assert len(seen) == 2


def test_tasks_of_a_key_are_first_in_first_out_across_methods_within_a_priority(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=BOTH, prefetch=2)
    tasks = [client.submit(name, **of("a"))[0] for name in (PREDICT, TRAIN, TRAIN, PREDICT, TRAIN)]
    (urgent,) = client.submit(TRAIN, **of("a", priority=9))
    assert drain_keys(worker) == [*tasks[:2], urgent, *tasks[2:]]


def test_a_key_waits_for_its_home_though_other_slots_are_idle(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=BOTH)
    client.submit(PREDICT, 3, **of("a"))
    assert len(worker.inbox) == 1
    assert rig.queue()["parked"] == 0 and rig.queue()["ready"] == 2


def test_what_a_slot_owns_and_what_its_pool_has_take_turns(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", PREDICT))
    keyed = client.submit(PREDICT, 3, **of("a"))
    others = client.submit("f", 4)
    assert drain_keys(worker) == [keyed[0], others[0], keyed[1], others[1], keyed[2], *others[2:]]


def test_the_higher_priority_comes_first_whoever_has_it(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", PREDICT))
    keyed = client.submit(PREDICT, 3, **of("a"))
    others = client.submit("f", 2, priority=9)
    urgent = client.submit(PREDICT, 2, **of("a", priority=9))
    low = client.submit("f", 2, priority=1)
    assert drain_keys(worker) == [keyed[0], others[0], urgent[0], others[1], urgent[1], *keyed[1:], *low]


def test_a_key_that_is_never_done_keeps_no_other_key_from_the_only_slot(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH)
    client.submit(PREDICT, 50, **of("busy"))
    others = client.submit(PREDICT, **of("a")) + client.submit(PREDICT, **of("b"))
    for _ in range(8):
        client.submit(PREDICT, **of("busy"))
        worker.complete(*worker.inbox)
    assert [rig.leader.state_of(task) for task in others] == ["completed"] * 2


def test_the_home_with_the_fewest_keys_is_chosen(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3, names=BOTH)
    owned: list[int] = []
    for number in range(9):
        client.submit(PREDICT, **of(f"k{number}"))
        owned.append(worker.inbox[0].slot)
        worker.complete(worker.inbox[0])
    assert [owned.count(slot) for slot in range(3)] == [3, 3, 3]


def test_a_key_whose_worker_was_lost_gets_another_home_and_epoch(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH, prefetch=3)
    tasks = client.submit(PREDICT, 5, **of("a"))
    other = rig.worker("other", slots=2, names=BOTH)
    assert other.inbox == []
    worker.expire()
    (first,) = other.inbox
    assert (first.task, first.attempt, first.epoch, first.alone) == (tasks[0], 2, 2, True)
    assert drain_keys(other) == tasks


def test_a_key_of_a_draining_worker_waits_until_nothing_of_it_runs_there(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH, prefetch=2)
    tasks = client.submit(PREDICT, 4, **of("a"))
    other = rig.worker("other", names=BOTH, prefetch=9)
    worker.drain()
    assert other.inbox == [] and rig.queue()["parked"] == 0
    running, waiting = worker.inbox
    worker.report(outcome_of(waiting, OUTCOME_RETURNED))
    assert other.inbox == [], "two instances of a key would run at once"
    worker.complete(running)
    assert other.tasks() == tasks[1:]
    assert {a.epoch for a in other.inbox} == {2}


def test_a_key_that_nobody_serves_is_parked_until_somebody_does(rig: Rig) -> None:
    client = rig.client()
    tasks = client.submit(PREDICT, 2, **of("a"))
    (row,) = rig.leader.status()["parked"]
    assert row["why"] == f"no worker announces {PREDICT} for queue default, which is next for key a of {ACTOR}"
    assert (row["name"], row["ready"], rig.queue()["parked"]) == (PREDICT, 2, 2)
    assert rig.worker(names=BOTH, prefetch=3).tasks() == tasks
    assert rig.leader.status()["parked"] == []


def test_the_name_of_what_is_next_decides_who_may_own_a_key(rig: Rig) -> None:
    """A deployment that rolls: the new workers have a method that the old ones lack."""
    client, old = rig.client(), rig.worker("old", names=(PREDICT,), prefetch=5)
    (first,) = client.submit(PREDICT, **of("a"))
    assert old.tasks() == [first]
    new = rig.worker("new", names=BOTH, prefetch=5)
    (second,) = client.submit(TRAIN, **of("a"))
    (third,) = client.submit(PREDICT, **of("a"))
    assert old.tasks() == [first] and new.inbox == []
    old.complete(old.inbox[0])
    assert old.inbox == [] and new.tasks() == [second, third]
    assert {a.epoch for a in new.inbox} == {2}


def test_behind_a_cancelled_task_that_its_home_does_not_announce_a_key_goes_on(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=(PREDICT,), prefetch=4)
    (first,) = client.submit(PREDICT, **of("a"))
    (unannounced,) = client.submit(TRAIN, **of("a"))
    (second,) = client.submit(PREDICT, **of("a"))
    assert worker.tasks() == [first]
    client.cancel(unannounced)
    assert worker.tasks() == [first, second]


def test_the_same_when_it_was_one_of_many_that_were_cancelled(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=(PREDICT,), prefetch=4)
    (first,) = client.submit(PREDICT, **of("a"))
    unannounced = client.submit(TRAIN, 100, **of("a"))
    (second,) = client.submit(PREDICT, **of("a"))
    client.cancel(*unannounced[1:])
    assert worker.tasks() == [first]
    client.cancel(unannounced[0])
    assert worker.tasks() == [first, second]


def test_what_comes_back_to_the_front_of_a_key_goes_before_what_its_home_does_not_announce(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=(PREDICT,), prefetch=4)
    _, returned = client.submit(PREDICT, 2, **of("a"))
    client.submit(TRAIN, **of("a"))
    worker.end(worker.inbox[1], OUTCOME_RETURNED)
    worker.complete(worker.inbox[0])
    assert worker.tasks() == [returned]


def test_nothing_of_lower_priority_overtakes_what_a_home_does_not_announce(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=(PREDICT,), prefetch=4)
    (first,) = client.submit(PREDICT, **of("a"))
    client.submit(TRAIN, **of("a", priority=9))
    client.submit(PREDICT, **of("a"))
    assert worker.tasks() == [first], "or the one that is next might never get a home"


def test_labels_of_a_keyed_task_count(rig: Rig) -> None:
    client, plain = rig.client(), rig.worker("plain", names=BOTH)
    client.submit(PREDICT, **of("a", labels=("gpu",)))
    assert plain.inbox == []
    worker = rig.worker("gpu", names=BOTH, labels=("gpu",))
    assert len(worker.inbox) == 1


def test_a_keyed_task_that_goes_alone_waits_until_its_home_is_idle(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", PREDICT), prefetch=4)
    tasks = client.submit(PREDICT, 2, **of("a"))
    others = client.submit("f", 5)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    for left in (2, 1):
        worker.complete(worker.inbox[0])
        assert len(worker.inbox) == left and tasks[0] not in worker.tasks()
    worker.complete(worker.inbox[0])
    assert worker.tasks() == [tasks[0]] and worker.inbox[0].alone
    worker.complete(worker.inbox[0])
    assert set(worker.tasks()) <= set(others)


def test_a_task_that_goes_alone_is_not_overtaken_by_a_key_that_is_never_done(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", PREDICT), prefetch=2)
    client.submit(PREDICT, 60, **of("busy"))
    (task,) = client.submit("f")
    for _ in range(10):
        found = [a for a in worker.inbox if a.task == task]
        if found and found[0].attempt == 1:
            worker.end(found[0], OUTCOME_CRASHED)
        elif found:
            break
        else:
            worker.complete(worker.inbox[0])
    assert found[0].alone and worker.tasks() == [task]


def test_a_task_of_a_key_that_is_tried_again_comes_back_to_its_home(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=BOTH)
    client.submit(PREDICT, **of("a"))
    (first,) = worker.inbox
    worker.end(first, OUTCOME_RETURNED)
    (again,) = worker.inbox
    assert (again.slot, again.epoch, again.attempt) == (first.slot, first.epoch, 2)
    worker.end(again, OUTCOME_FAILED)
    assert worker.inbox == [] and rig.queue()["failed"] == 1


def test_a_channel_without_tasks_and_home_is_freed(rig: Rig) -> None:
    client = rig.client()
    tasks = client.submit(PREDICT, 3, **of("a"))
    client.submit(PREDICT, **of("b", delay_ms=1_000))
    client.cancel(*tasks)
    assert channel_of(rig, "a") is None and channel_of(rig, "b") is not None
    worker = rig.worker(names=BOTH)
    rig.pass_time(2_000)
    worker.complete(*worker.inbox)
    assert channel_of(rig, "b") is not None
    worker.drain()
    assert channel_of(rig, "b") is None
    assert rig.leader._tables.queues.channels == {}


def test_of_too_many_homes_the_one_that_was_idle_for_longest_goes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "HOMES_MAX", 2)
    monkeypatch.setattr(dispatch, "HOMES_MAX", 2)
    client, worker = rig.client(), rig.worker(slots=1, names=BOTH)
    for key in ("a", "b", "a", "c"):
        client.submit(PREDICT, **of(key))
        worker.complete(*worker.inbox)
    assert [channel_of(rig, key) is not None for key in ("a", "b", "c")] == [True, False, True]
    client.submit(PREDICT, **of("b"))
    assert worker.inbox[0].epoch == 4


def test_homes_with_tasks_are_not_evicted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "HOMES_MAX", 1)
    monkeypatch.setattr(dispatch, "HOMES_MAX", 1)
    client, worker = rig.client(), rig.worker(slots=3, names=BOTH)
    for key in ("a", "b", "c"):
        client.submit(PREDICT, 2, **of(key))
    assert rig.leader._tables.keys.homes == 3
    while worker.inbox:
        worker.complete(*worker.inbox)
    assert rig.leader._tables.keys.homes == 1


def test_an_actor_without_a_key_is_just_a_task(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=BOTH)
    client.submit(PREDICT, 2, actor=ACTOR)
    assert {a.slot for a in worker.inbox} == {0, 1}
    assert {(a.actor, a.key, a.epoch) for a in worker.inbox} == {("", "", 0)}


@pytest.mark.parametrize("wrong", [{"key": "k"}, {"key": "x" * 513, "actor": "A"}, {"actor": "x" * 513}])
def test_keys_without_an_actor_or_too_long_are_refused(rig: Rig, wrong: dict[str, object]) -> None:
    client = rig.client()
    assert client.send(client.submit_command(**wrong)).code == ANSWER_REFUSED


def test_what_a_worker_holds_is_told_again_as_it_was_told(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH, prefetch=5)
    client.submit(TRAIN, 3, **of("a"))
    assert rig.leader.held_by(worker.session) == worker.inbox
    worker.drain()
    assert rig.leader.held_by(worker.session) == worker.inbox


def test_short_methods_of_a_key_are_handed_out_ahead(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH, prefetch=PREFETCH_AUTO)
    for _ in range(40):
        client.submit(PREDICT, **of("a"))
        worker.complete(*worker.inbox, run_us=100)
    client.submit(TRAIN, 50, **of("a"))
    assert len(worker.inbox) > 20


def test_keys_survive_an_image_whose_tasks_outlive_their_channel(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=BOTH)
    for key in ("a", "b"):
        client.submit(PREDICT, 3, **of(key, result_ttl_ms=60_000))
    worker.complete(*worker.inbox)
    client.cancel(*client.submit(TRAIN, **of("gone")))
    restored = restore(rig.leader.image())
    restored.check()
    assert_equal(restored, rig.leader)
    assert list(restored.image()) == list(rig.leader.image())
    worker.complete(*worker.inbox)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)


def test_keys_of_one_slot_take_turns_also_after_an_image(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=BOTH)
    for key in ("b", "a", "c"):
        client.submit(PREDICT, 3, **of(key))
    served: list[str] = []
    restored = restore(rig.leader.image())
    while worker.inbox:
        served.append(worker.inbox[0].key)
        worker.complete(*worker.inbox)
        restored.apply(len(rig.log), 1, rig.log[-1], None)
        assert_equal(restored, rig.leader)
        restored = restore(restored.image())
    assert sorted(served) == sorted("abc" * 3)
    assert set(served[3:6]) == set("abc"), "in turn, when all have their home"


def test_one_command_may_use_many_keys(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=4, names=BOTH, prefetch=200)
    command = client.submit_command(PREDICT, 1, **of("k0"))
    for number in range(1, 300):
        command.groups.append(TaskGroup(PREDICT, number + 1, [b""], Options(key=f"k{number}", actor=ACTOR)))
    rig.apply(command)
    assert len(worker.inbox) == 300 and all(len(found) == 1 for found in slots(worker).values())


@pytest.mark.parametrize("labels", [(), ("gpu",)])
def test_a_keyed_task_is_replayed_though_its_channel_was_freed(rig: Rig, labels: tuple[str, ...]) -> None:
    client, worker = rig.client(), rig.worker(slots=1, names=BOTH, labels=labels)
    (task,) = client.submit(PREDICT, **of("a", labels=labels))
    (given,) = worker.inbox
    worker.end(given, OUTCOME_FAILED)
    worker.drain()
    assert not rig.leader._tables.keys.by_key
    assert client.replay(task) == 1
    again = rig.worker("w2", slots=1, names=BOTH, labels=labels)
    (given,) = again.inbox
    assert (given.task, given.key, given.attempt, given.epoch) == (task, "a", 2, 2)
    assert_equal(rig.leader, restore(rig.leader.image()))
    again.complete(given)
    assert rig.leader.state_of(task) == "completed"
