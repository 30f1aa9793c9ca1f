"""What clients hand over in bulk: it is proposed in slices, behind what workers say, and as fast as it is applied."""

import asyncio
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work
from overload_rig import FULL, check_fates, close, fate_of, log_of, numbers_of_tasks, reopen, tasks_in_the_end

from actors import MILLISECOND, SECOND, Ports
from cluster import Client, ClusterError, Overloaded, TaskCancelled
from cluster.broker import entries
from cluster.broker.entries import SLICE_BYTES, EntryBuilder
from cluster.broker.proposals import PACE_BYTES
from cluster.state.commands import Cancel, Close, Complete, Register, Submit

MIB = 1024 * 1024
SUBMIT, COMPLETE, REGISTER, CLOSE, CANCEL = (
    kind.__struct_config__.tag for kind in (Submit, Complete, Register, Close, Cancel)
)
LABEL = "x" * 100_000               # two such tasks are a command of their own
BULK = 60                           # of them are 6 MiB, which one link takes at once
parked = work.options(queue="mail")     # no worker serves it


class Bulk:
    """A client that submits `BULK` large tasks at once when it is told to, and what became of each."""

    def __init__(self, rig: ClientWorld, deadline: float = 30.0) -> None:
        self.rig = rig
        self.begin = asyncio.Event()
        self.fates: dict[int, int | ClusterError] = {}      # parcel -> id of its task, or what it failed with
        self.name = rig.start(self._live, deadline=deadline)
        rig.until(lambda: rig.leader and rig.client_sessions)

    async def _live(self, cluster: Client, ports: Ports) -> None:
        async def one(number: int) -> None:
            try:
                self.fates[number] = (await cluster.submit(parked, Parcel(number, LABEL))).id
            except ClusterError as error:
                self.fates[number] = error

        while not self.begin.is_set():
            await pause(ports, 0.001)
        await asyncio.gather(*(one(number) for number in range(BULK)))

    def finish(self) -> list[int]:
        """Ids of the tasks, in the order in which they were submitted."""
        self.rig.finish(self.name)
        ids = [self.fates[number] for number in range(BULK)]
        assert all(isinstance(task, int) for task in ids), ids
        return ids  # type: ignore[return-value]


def pause_followers(rig: ClientWorld) -> list[str]:
    """Nothing is applied from now on; for less than the leader's patience with a silent majority."""
    others = [name for name in BROKERS if name != rig.leader]
    for name in others:
        rig.world.pause(rig.brokers[name])
    return others


def resume(rig: ClientWorld, names: list[str]) -> None:
    for name in names:
        rig.world.resume(rig.brokers[name])


def size_in_log(command: list[Any]) -> int:
    """Of a Submit, by its bodies."""
    return sum(len(body) for group in command[4] for body in group[2])


# -- slices -----------------------------------------------------------------------------------------------------------


def test_what_workers_say_and_who_comes_is_in_the_log_before_the_rest_of_a_bulk_that_came_first():
    """The leader finds all of it in its sockets when it looks again, six megabytes of submits in front."""
    rig = ClientWorld(workers=1, slots=2)
    bulk = Bulk(rig)
    small = rig.start(lambda cluster, ports: run_small(cluster, ports))
    rig.until(lambda: sum(rig.runs.values()) == 2)
    leader = rig.actor(rig.leader)
    links = len(list(leader._links))
    late = rig.start(lambda cluster, ports: cluster.submit(unserved))
    rig.until(lambda: len(list(leader._links)) > links)
    rig.world.network.slow(late, leader.node, 50 * MILLISECOND)     # its registration arrives behind the bulk
    rig.world.pause(rig.brokers[leader.node])
    bulk.begin.set()
    rig.world.run_for(400 * MILLISECOND)        # meanwhile both tasks end
    last = leader.raft.core.log.last_index
    rig.world.resume(rig.brokers[leader.node])
    ids = bulk.finish()
    rig.finish(small)
    rig.finish(late)
    assert rig.leader == leader.node

    log = [row for row in log_of(rig) if row[0] > last]
    big = [(index, size) for index, kind, command in log if kind == SUBMIT and (size := size_in_log(command)) > 1_000]
    per_entry = Counter[int]()
    for index, size in big:
        per_entry[index] += size
    assert sum(per_entry.values()) > 5.5 * MIB
    assert max(per_entry.values()) <= SLICE_BYTES
    others = [(index, kind) for index, kind, _ in log if kind in (COMPLETE, REGISTER)]
    assert sorted(kind for _, kind in others) == [COMPLETE, COMPLETE, REGISTER]
    assert sum(size for index, size in big if index < max(others)[0]) <= SLICE_BYTES
    assert ids == sorted(ids)


async def run_small(cluster: Client, ports: Ports) -> None:
    """Two tasks that end while the leader looks away."""
    await (await cluster.map(work, [Parcel(-1), Parcel(-2)], work_us=100 * MS))


# -- the pace ---------------------------------------------------------------------------------------------------------


def test_slices_wait_while_much_is_not_applied_and_go_on_as_it_is():
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig)
    leader = rig.actor(rig.leader)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(600 * MILLISECOND)
    proposed, collected = leader.raft.backlog_bytes, leader._proposals.backlog_bytes
    resume(rig, others)
    resumed = rig.world.now
    ids = bulk.finish()
    assert PACE_BYTES <= proposed <= PACE_BYTES + 2 * SLICE_BYTES
    assert collected > 5.5 * MIB
    assert rig.world.now - resumed < 1.5 * SECOND, "the client's own second of farewell is in it"
    assert ids == sorted(ids)
    assert numbers_of_tasks(rig) == dict.fromkeys(range(BULK), 1)
    assert leader.machine.status()["counters"]["gaps"] == 0
    assert leader._proposals.backlog_bytes == 0


def test_what_workers_say_does_not_wait_for_the_pace():
    rig = ClientWorld(workers=1, slots=1)
    bulk = Bulk(rig)
    busy = rig.start(lambda cluster, ports: run_small(cluster, ports))
    rig.until(lambda: rig.runs)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(600 * MILLISECOND)
    kinds = [kind for _, kind, _ in log_of(rig)]
    resume(rig, others)
    rig.finish(busy)
    bulk.finish()
    assert COMPLETE in kinds
    assert kinds.count(SUBMIT) < BULK // 2


def test_small_commands_wait_for_the_entry_that_is_under_way_and_leave_together():
    rig = ClientWorld(workers=0)
    go = asyncio.Event()

    async def one_by_one(cluster: Client, ports: Ports) -> list[int]:
        while not go.is_set():
            await pause(ports, 0.001)
        waiting = []
        for number in range(5):
            waiting.append(asyncio.ensure_future(cluster.submit(parked, Parcel(number))))
            await pause(ports, 0.02)
        return [(await submitted).id for submitted in waiting]

    name = rig.start(one_by_one)
    rig.until(lambda: rig.leader and rig.client_sessions)
    last = rig.actor(rig.leader).raft.core.log.last_index
    others = pause_followers(rig)
    go.set()
    rig.world.run_for(300 * MILLISECOND)
    under_way = [index for index, kind, _ in log_of(rig) if index > last and kind == SUBMIT]
    resume(rig, others)
    rig.finish(name)
    entries_of_all = Counter(index for index, kind, _ in log_of(rig) if index > last and kind == SUBMIT)
    assert len(under_way) == 1
    assert list(entries_of_all.values()) == [1, 4]
    assert numbers_of_tasks(rig) == dict.fromkeys(range(5), 1)


# -- the log closes ---------------------------------------------------------------------------------------------------


def closed_with_a_bulk_waiting(rig: ClientWorld, bulk: Bulk) -> int:
    """The disk is full after a part of a bulk was proposed; how many submits are in the log then."""
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(500 * MILLISECOND)
    written = submits_in_log(rig)
    close(rig)
    resume(rig, others)
    assert 0 < written < BULK // 4
    return written


def submits_in_log(rig: ClientWorld) -> int:
    return sum(kind == SUBMIT and size_in_log(command) > 1_000 for _, kind, command in log_of(rig))


def test_submits_that_wait_when_the_disk_is_full_are_not_written_and_go_through_when_there_is_room():
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig)
    written = closed_with_a_bulk_waiting(rig, bulk)
    rig.world.run_for(5 * SECOND)
    confirmed = len(bulk.fates)
    still_written = submits_in_log(rig)
    reopen(rig)
    ids = bulk.finish()
    assert still_written == written
    assert 0 < confirmed == 2 * written
    assert ids == sorted(ids)
    assert numbers_of_tasks(rig) == dict.fromkeys(range(BULK), 1)
    assert rig.actor(rig.leader).machine.status()["counters"]["gaps"] == 0, "none was written only to be refused"
    assert submits_in_log(rig) == BULK // 2, "none was written twice"


def test_submits_that_waited_and_were_refused_until_their_deadline_are_never_done():
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig, deadline=3.0)
    written = closed_with_a_bulk_waiting(rig, bulk)
    rig.finish(bulk.name)
    reopen(rig)
    rig.world.run_for(5 * SECOND)
    done = [number for number, fate in bulk.fates.items() if isinstance(fate, int)]
    refused = [fate for fate in bulk.fates.values() if isinstance(fate, ClusterError)]
    assert sorted(done) == list(range(2 * written))
    assert {type(error) for error in refused} == {Overloaded} and len(refused) == BULK - len(done)
    assert all(FULL in str(error) and error.retry_after == 1.0 for error in refused if isinstance(error, Overloaded))
    assert numbers_of_tasks(rig) == dict.fromkeys(done, 1)


def test_submits_that_wait_are_told_even_while_nothing_is_applied():
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(150 * MILLISECOND)
    leader = rig.actor(rig.leader)
    close(rig)
    rig.world.run_for(550 * MILLISECOND)
    collected = leader._proposals.backlog_bytes
    told = ("submits_refused" in {name for _, name in rig.log}, leader.leading)
    reopen(rig)
    resume(rig, others)
    bulk.finish()
    assert collected <= PACE_BYTES + 2 * SLICE_BYTES
    assert told == (True, True)


def test_cancels_and_goodbyes_that_wait_go_on_when_the_disk_is_full():
    rig = ClientWorld(workers=0)
    begin = asyncio.Event()

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        while not begin.is_set():
            await pause(ports, 0.001)
        await gone.cancel()
        with pytest.raises(TaskCancelled):
            await gone

    other = rig.start(user)
    bulk = Bulk(rig)
    rig.until(lambda: len(rig.client_sessions) == 2)
    rig.world.run_for(SECOND // 10)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(400 * MILLISECOND)
    begin.set()
    rig.world.run_for(100 * MILLISECOND)
    early = [kind for _, kind, _ in log_of(rig)]
    close(rig)
    resume(rig, others)
    rig.finish(other)
    rig.until(lambda: len(rig.client_sessions) == 1, 3 * SECOND)
    assert CANCEL not in early, "it waited behind the submits"
    assert CLOSE in [kind for _, kind, _ in log_of(rig)]
    reopen(rig)
    bulk.finish()


def test_a_client_whose_link_was_lost_while_its_submits_waited_says_them_again():
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(300 * MILLISECOND)
    leader = rig.actor(rig.leader)
    for link in [link for link in leader._links if link.name != "" and link.session in rig.client_sessions]:
        leader._drop(link)
    close(rig)
    rig.world.run_for(10 * MILLISECOND)
    resume(rig, others)
    rig.world.run_for(3 * SECOND)
    reopen(rig)
    ids = bulk.finish()
    assert ids == sorted(ids)
    assert numbers_of_tasks(rig) == dict.fromkeys(range(BULK), 1)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_waits_when_a_log_closes_the_answers_are_true(seed, monkeypatch):
    """Confirmed submits are there once, refused ones never; those with an unknown outcome at most once."""
    withdrawn: list[int] = []
    withdraw = EntryBuilder.withdraw_submits

    def counting(builder: EntryBuilder) -> list[Submit]:
        submits = withdraw(builder)
        withdrawn.append(len(submits))
        return submits

    monkeypatch.setattr(EntryBuilder, "withdraw_submits", counting)
    rig = ClientWorld(seed, workers=0)
    random = Random(seed)
    fates: dict[int, str] = {}
    rig.until(lambda: rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> None:
            await pause(ports, random.random() * 10)
            parcel = Parcel(number, "x" * random.randrange(400_000))
            fates[number] = await fate_of(cluster.submit(parked, parcel))
            if random.random() < 0.2:
                with suppress(ClusterError):
                    await (await cluster.submit(unserved)).cancel()

        first = 10_000 * int(ports.entropy.bits(30))
        await asyncio.gather(*(one(first + number) for number in range(120)))

    names = [rig.start(user, deadline=deadline) for deadline in (0.7, 2.5, 30.0)]
    rig.until(lambda: len(rig.client_sessions) == 3)
    end = rig.world.now + 12 * SECOND
    crashes = 0
    while rig.world.now < end:
        reopen(rig)
        rig.world.run_for(int(random.random() * 1.2 * SECOND))
        if not rig.leader:
            continue
        others = pause_followers(rig)
        proposals = rig.actor(rig.leader)._proposals
        rig.world.run_until(lambda proposals=proposals: proposals._entry.waiting > 3, SECOND // 2)
        rig.world.run_for(int(random.random() * 0.1 * SECOND))
        close(rig, random.choice([FULL, "snapshots do not keep up with the log"]))
        rig.world.run_for(int(random.random() * 0.2 * SECOND))
        if random.random() < 0.3:
            rig.world.network.break_links(random.choice(names))
        resume(rig, others)
        if random.random() < 0.2 and crashes < 2 and rig.leader:
            crashes += 1
            leader = rig.leader
            rig.world.crash(rig.brokers[leader])
            rig.world.restart(rig.brokers[leader], after=SECOND // 10)
        rig.world.run_for(int(random.random() * 1.2 * SECOND))
    tasks = tasks_in_the_end(rig, names)
    assert len(fates) == 360
    assert sum(withdrawn) > 0
    check_fates(fates, tasks)


# -- what may wait ----------------------------------------------------------------------------------------------------


def test_a_leader_forgets_what_it_cannot_keep_waiting_and_its_clients_say_it_again(monkeypatch):
    monkeypatch.setattr(entries, "WAITING_COMMANDS_MAX", 8)
    rig = ClientWorld(workers=0)
    bulk = Bulk(rig)
    begin = asyncio.Event()

    async def user(cluster: Client, ports: Ports) -> Any:
        handles = [await cluster.submit(unserved) for _ in range(40)]
        while not begin.is_set():
            await pause(ports, 0.001)
        await asyncio.gather(*(handle.cancel() for handle in handles))
        for handle in handles:
            with pytest.raises(TaskCancelled):
                await handle

    name = rig.start(user)
    rig.world.run_for(SECOND)
    others = pause_followers(rig)
    bulk.begin.set()
    rig.world.run_for(300 * MILLISECOND)
    begin.set()
    rig.world.run_for(300 * MILLISECOND)
    waiting = rig.actor(rig.leader)._proposals._entry.waiting
    resume(rig, others)
    rig.finish(name)
    bulk.finish()
    assert waiting == 8
    assert "command_dropped" in {event for _, event in rig.log}
    assert numbers_of_tasks(rig) == dict.fromkeys(range(BULK), 1)
