"""What a user hears of a task while it lives: events, progress, its log. A world of three brokers behind it."""

import asyncio
from typing import Any

import msgspec
import pytest
from client_world import MS, ClientWorld, Parcel, pause, unserved, work

from actors import SECOND, Ports
from cluster import Backoff, Client, Event, Handle, TaskNotFound, Unavailable
from cluster.broker.link import Link, Links
from cluster.broker.watching import Watching
from cluster.client import watching
from cluster.client.succession import SessionLimits
from cluster.state.commands import (
    MACHINE_VERSION,
    ROLE_CLIENT,
    ROLE_WORKER,
    TASK_NUMBER_BITS,
    Command,
    Register,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.wire import Events, Follow, Progress

LONG = 4_000 * MS
WORKER = WorkerSpec(2, ("default",), ("f",))


def encode_entry(command: Command) -> bytes:
    return msgspec.msgpack.encode([[command.__struct_config__.tag, MACHINE_VERSION, [command]]])


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


async def all_of(handle: Handle[Any]) -> list[Event]:
    return [event async for event in handle.watch()]


async def follow(cluster: Client, ports: Ports) -> list[Event]:
    return await all_of(await cluster.submit(work, Parcel(1), LONG))


def test_a_watcher_sees_a_task_wait_start_go_on_and_end():
    rig = ClientWorld()
    rig.steps = 8
    events = rig.run(follow)
    assert kinds(events)[:2] == ["queued", "started"] and kinds(events)[-1] == "finished"
    steps = [(event.done, event.total) for event in events if event.kind == "progress"]
    assert len(steps) > 4 and steps == sorted(set(steps)) and {total for _, total in steps} == {8}
    assert (events[-1].text, events[-1].attempt, events[-1].worker) == ("completed", 1, "w1")
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert events[0].done is None and events[0].at.utcoffset() is not None


def test_progress_comes_twice_a_second_at_most():
    rig = ClientWorld()
    rig.steps = 400
    events = rig.run(follow)
    assert kinds(events).count("progress") <= 9


def test_a_task_that_has_ended_has_one_event():
    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), fate="raise")
        await handle.wait()
        return [(event.kind, event.text) for event in await all_of(cluster.handle(handle.id))]

    assert ClientWorld().run(user) == [("finished", "failed")]


def test_an_unknown_task_cannot_be_watched():
    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(TaskNotFound, match="no record of task 77"):
            await all_of(cluster.handle(77))
        with pytest.raises(TaskNotFound):
            await cluster.handle(78).progress()
        return True

    assert ClientWorld().run(user)


def test_retries_and_crashes_are_told_with_their_reasons():
    async def user(cluster: Client, ports: Ports) -> Any:
        patient = work.options(retry=Backoff(times=1, first="2s", jitter=False))
        raises = await cluster.submit(patient, Parcel(1), 1_000 * MS, "raise")
        dies = await cluster.submit(work, Parcel(2), 1_000 * MS, "die")
        return await asyncio.gather(all_of(raises), all_of(dies))

    raises, dies = ClientWorld().run(user)
    assert kinds(raises) == ["queued", "started", "retrying", "started", "finished"]
    assert (raises[2].text, raises[2].attempt, raises[2].worker) == ("ValueError: parcel 1", 1, "w1")
    assert (raises[-1].text, raises[-1].attempt) == ("failed", 2)
    assert kinds(dies) == ["queued", *["started", "requeued"] * 2, "started", "finished"]
    assert dies[2].text == "ChildExited: its process ended with exit code 3"
    assert dies[-1].text == "dead"


def test_a_task_of_a_lost_worker_is_requeued():
    rig = ClientWorld(workers=2, slots=1)
    name = rig.start(follow)
    rig.until(lambda: rig.runs)
    rig.world.run_for(2 * SECOND)
    machine = rig.actor(rig.leader).machine
    (loser,) = [session.name for session in machine.sessions_open() if session.held]
    rig.world.crash(rig.workers[loser])
    events = rig.finish(name)
    assert kinds(events) == ["queued", "started", "requeued", "started", "finished"]
    assert {events[1].worker, events[3].worker} == {"w1", "w2"}
    assert "WorkerLost" in events[2].text


@pytest.mark.parametrize("seed", range(6))
def test_a_watcher_outlives_its_leader_and_hears_the_end_once(seed):
    rig = ClientWorld(seed, workers=2)
    rig.steps = 20
    name = rig.start(follow)
    rig.until(lambda: rig.runs)
    rig.world.run_for(SECOND * (seed + 1) // 2)
    old = rig.leader
    rig.world.crash(rig.brokers[old])
    rig.until(lambda: rig.leader not in ("", old))
    events = rig.finish(name)
    assert kinds(events).count("finished") == 1 and kinds(events)[-1] == "finished"
    assert kinds(events).count("progress") > 3
    assert "queued" not in kinds(events)[1:], "what runs does not wait"
    steps = [event.done for event in events if event.done is not None]
    assert steps == sorted(steps), "a new leader is told again, and tells nothing older"


def test_a_task_that_ends_while_nobody_leads_is_finished_to_its_watcher():
    rig = ClientWorld(workers=1)
    name = rig.start(follow)
    rig.until(lambda: rig.runs)
    followers = [broker for broker in rig.brokers if broker != rig.leader]
    for broker in followers:
        rig.world.crash(rig.brokers[broker])
    rig.world.run_for(6 * SECOND)
    for broker in followers:
        rig.world.restart(rig.brokers[broker])
    assert kinds(rig.finish(name))[-1] == "finished"


def test_any_client_may_watch_and_ask_how_far_a_task_is():
    rig = ClientWorld()
    rig.steps = 10

    ids: list[int] = []

    async def user(cluster: Client, ports: Ports) -> None:
        handle = await cluster.submit(work, Parcel(1), LONG)
        ids.append(handle.id)
        await handle

    async def second(cluster: Client, ports: Ports) -> Any:
        handle = cluster.handle(ids[0])
        await pause(ports, 2.5)
        progress = await handle.progress()
        return progress, kinds(await all_of(handle)), await handle.progress()

    first = rig.start(user)
    rig.until(lambda: ids)
    progress, seen, after = rig.run(second, only_looks=True)
    rig.finish(first)
    assert progress is not None and 3 <= progress[0] <= 7 and progress[1] == 10
    assert seen[0] == "progress" and seen[-1] == "finished" and "started" not in seen
    assert after is None


def test_who_breaks_off_is_told_nothing_more():
    rig = ClientWorld()
    rig.steps = 40

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), LONG)
        events = handle.watch()
        first = await anext(events)
        await events.aclose()
        await pause(ports, 1.0)
        leader = rig.actor(rig.leader)
        return first.kind, leader._watching._followers, cluster._actor._watchers._of

    assert rig.run(user) == ("queued", {}, {})


def test_a_closed_client_ends_its_watchers():
    async def user(cluster: Client, ports: Ports) -> Any:
        watched = asyncio.ensure_future(all_of(await cluster.submit(unserved)))
        await pause(ports, 1.0)
        await cluster._stop()
        with pytest.raises(Unavailable):
            await watched
        return True

    assert ClientWorld().run(user)


def test_a_watcher_goes_over_to_the_next_session_of_its_client():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        watched = asyncio.ensure_future(follow(cluster, ports))
        for number in range(8):
            await (await cluster.submit(work, Parcel(number)))
            await pause(ports, 0.1)
        await pause(ports, 1.0)
        return kinds(await watched)

    assert rig.run(user, limits=SessionLimits(numbers_max=6, numbers_low=3)) == ["queued", "started", "finished"]
    assert ("c1", "client_session_succeeded") in rig.log


def test_what_a_task_logs_is_kept_with_its_attempt():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        silent = await cluster.submit(work, Parcel(1))
        good = await cluster.submit(work, Parcel(2, "log"))
        patient = work.options(retry=Backoff(times=1, first="1s", jitter=False))
        bad = await cluster.submit(patient, Parcel(3, "log"), 0, "raise")
        events = await all_of(bad)
        await silent, await good
        return await silent.log(), await good.log(), await bad.log(), [event.log for event in events if event.log]

    silent, good, bad, told = rig.run(user)
    assert silent == ""
    assert good.endswith("Z INFO parcel 2, attempt 1\n") and good.startswith("20")
    assert bad.endswith("parcel 3, attempt 2\n")
    assert [log.rpartition(" ")[2] for log in told] == ["1\n", "2\n"]
    machine = rig.actor(rig.leader).machine
    assert sum(task.attempts is not None for task in machine._tables.tasks.in_order()) == 2


def test_who_does_not_take_events_keeps_a_few_and_the_last():
    watcher = watching.Watcher()
    for number in range(1_000):
        for kind in (watching.EVENT_STARTED, watching.EVENT_RETRYING):
            watcher.push(watching.TaskEvent(1, kind, 0, number))
        for done in range(3):
            watcher.push(watching.TaskEvent(1, watching.EVENT_PROGRESS, 0, number, done=done))
    watcher.push(watching.TaskEvent(1, watching.EVENT_FINISHED, 0, 1_000))
    taken = []
    while (event := watcher.take()) is not None:
        taken.append(event)
    assert len(taken) == watching.EVENTS_WAITING_MAX and taken[-1].kind == watching.EVENT_FINISHED
    assert taken[-2].done == 2


def test_what_is_said_again_in_the_same_words_is_heard_once():
    watcher = watching.Watcher()
    for at in range(5):
        watcher.push(watching.TaskEvent(1, watching.EVENT_STARTED, at, 1, "w1"))
    assert watcher.take() is not None and watcher.take() is None


def test_what_has_begun_does_not_wait_again_for_the_same_attempt():
    watcher = watching.Watcher()
    said = [(watching.EVENT_STARTED, 2), (watching.EVENT_QUEUED, 2), (watching.EVENT_REQUEUED, 1)]
    said += [(watching.EVENT_REQUEUED, 2), (watching.EVENT_STARTED, 3), (watching.EVENT_RETRYING, 2)]
    for kind, attempt in said:
        watcher.push(watching.TaskEvent(1, kind, 0, attempt))
    heard = []
    while (event := watcher.take()) is not None:
        heard.append((event.kind, event.attempt))
    assert heard == [said[0], said[3], said[4]]


class Line:
    """The link of a follower that takes messages, or not."""

    def __init__(self) -> None:
        self.is_full = False
        self.said: list[watching.TaskEvent] = []

    def send(self, message: Events) -> bool:
        if not self.is_full:
            self.said += message.items
        return not self.is_full


def test_a_full_link_gets_the_last_of_each_task_later_and_holds_up_no_other():
    leader = Machine()
    for index, command in enumerate([Register("c", 1, ROLE_CLIENT), Register("w", 1, ROLE_WORKER, WORKER)], 1):
        leader.apply(index, 1, encode_entry(command), Effects())
    tasks = [1 << TASK_NUMBER_BITS | number for number in (1, 2)]
    leader.apply(3, 1, encode_entry(Submit(1, 1, 1, [TaskGroup("f", 1, [b"", b""])])), Effects())
    links, turn, later = Links(leader), [], []
    worker = Link(Line(), "w", 1, 1)  # type: ignore[arg-type]
    slow, quick = (Link(Line(), name, 1, 2) for name in ("slow", "quick"))  # type: ignore[arg-type]
    broker = Watching(leader, links, lambda: 0, turn.append, lambda *question: None, lambda *reason: None, later.append)
    links.add(worker)
    slow.peer.is_full = True  # type: ignore[attr-defined]
    for link in (slow, quick):
        broker.on_follow(link, Follow(tasks))
    for done in range(100):
        broker.on_progress(worker, Progress(2, [tasks[0], 1, done, 100, tasks[1], 9, done, 100]))
        while turn:
            turn.pop()()
    heard = quick.peer.said  # type: ignore[attr-defined]
    assert [event.done for event in heard if event.kind == watching.EVENT_PROGRESS] == list(range(100))
    assert slow.peer.said == []  # type: ignore[attr-defined]
    slow.peer.is_full = False  # type: ignore[attr-defined]
    broker.go_on()
    heard = slow.peer.said  # type: ignore[attr-defined]
    kinds_heard = [(event.task, event.kind, event.done) for event in heard]
    queued, started, progress = watching.EVENT_QUEUED, watching.EVENT_STARTED, watching.EVENT_PROGRESS
    assert kinds_heard == [
        (tasks[0], queued, 0), (tasks[0], started, 0), (tasks[0], progress, 99), (tasks[1], queued, 0),
    ]  # fmt: skip
    for link in (slow, quick):
        broker.forget(link)
    assert (broker._followers, broker._followed, len(broker._outbox), broker._runs) == ({}, {}, 0, {})
