"""Disks without room under a running cluster: who is refused, who is served all the same, and how it ends."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work

from actors import SECOND, Ports
from actors.simulation import SimulatedDisk
from cluster import Client, Overloaded, TaskCancelled
from cluster.peer.room import HAND_OVER_PATIENCE, RETRY_INTERVAL, why_closed
from cluster.storage.segment import WalLimits

SMALL = WalLimits(segment_bytes=128 * 1024, zero_chunk_bytes=64 * 1024, probe_syncs=4)
LONG_US = 60_000 * MS       # of a task that is still at work when everything else has been tried


def small_world(**options: Any) -> ClientWorld:
    """Their segments hold some three hundred of these tests' submits."""
    rig = ClientWorld(wal=SMALL, **options)
    rig.until(lambda: rig.leader)
    rig.world.run_for(SECOND)       # spares are ready
    return rig


def disks(rig: ClientWorld, *names: str) -> list[SimulatedDisk]:
    return [rig.brokers[name].machine.disk for name in names or BROKERS]


def fill(rig: ClientWorld, *names: str) -> None:
    for disk in disks(rig, *names):
        disk.full = True


def make_room(rig: ClientWorld, *names: str) -> None:
    for disk in disks(rig, *names):
        disk.full = False


def lacking(rig: ClientWorld) -> set[str]:
    return {name for name in BROKERS if rig.brokers[name].alive and rig.actor(name).raft.wal.lacks_room}


async def submit_until_refused(cluster: Client) -> Overloaded:
    """Goes on until no task is taken any more."""
    for _ in range(5_000):
        try:
            await cluster.submit(unserved)
        except Overloaded as refusal:
            return refusal
    raise AssertionError("nothing was refused")


# -- who is closed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "full", "with_room", "brokers", "is_behind", "reason"),
    [
        ("", [], 3, 3, False, ""),
        ("", [], 1, 3, False, ""),              # the others are away: that is no matter of disks
        ("", ["b2"], 2, 3, False, ""),
        ("", ["b2"], 1, 3, False, "too few brokers have room on their disks: b2 is full"),
        ("", ["b2", "b3"], 1, 3, False, "too few brokers have room on their disks: b2, b3 are full"),
        ("", ["b4", "b5"], 3, 5, False, ""),
        ("mine", ["b2", "b3"], 1, 3, True, "mine"),
        ("mine", [], 1, 1, False, "mine"),
        ("", [], 3, 3, True, "snapshots do not keep up with the log"),
    ],
)
def test_a_leader_is_closed_by_its_own_disk_or_by_so_many_others_that_the_rest_is_no_majority(
    own: str, full: list[str], with_room: int, brokers: int, is_behind: bool, reason: str
) -> None:
    assert why_closed(own, full, with_room, brokers, is_behind) == reason


def test_a_log_far_ahead_of_its_snapshots_closes_the_leader_until_one_is_written():
    rig = small_world(workers=0)
    compacting = rig.actor(rig.leader).raft.snapshots._compacting
    compacting._limits = replace(compacting._limits, log_bytes_min=1, state_factor=0, closed_factor=0)
    reasons: list[object] = []
    rig.world.on_log.append(
        lambda process, name, fields: reasons.append(fields["reason"]) if name == "submits_refused" else None
    )

    async def user(cluster: Client, ports: Ports) -> Any:
        for _ in range(100):
            await cluster.submit(unserved)
            await pause(ports, 0.05)

    rig.run(user)
    assert set(reasons) == {"snapshots do not keep up with the log"}


# -- all disks --------------------------------------------------------------------------------------------------------


def test_on_full_disks_submits_are_refused_and_everything_else_goes_on_until_there_is_room_again():
    rig = small_world(slots=4)

    async def user(cluster: Client, ports: Ports) -> Any:
        at_work = [await cluster.submit(work, Parcel(number), LONG_US) for number in range(2)]
        doomed = await cluster.submit(work, Parcel(2), LONG_US)
        waiting = await cluster.submit(unserved)
        fill(rig)
        refusal = await submit_until_refused(cluster)
        assert rig.leader in lacking(rig) or len(lacking(rig)) == 2
        # What was accepted before is cancelled, comes to its end, and is told.
        for task in (waiting, doomed):
            await task.cancel()
            with pytest.raises(TaskCancelled):
                await task
        results = [await task for task in at_work]
        with pytest.raises(Overloaded):
            await cluster.submit(work, Parcel(3))
        submit = asyncio.ensure_future(cluster.submit(work, Parcel(4)))
        await pause(ports, 3.0)
        assert not submit.done()
        make_room(rig)
        return str(refusal), [parcel.number for parcel in results], (await (await submit)).number

    refusal, results, after = rig.run(user, deadline=15.0)
    rig.world.run_for(2 * RETRY_INTERVAL)
    assert "full" in refusal
    assert results == [0, 1]
    assert after == 4
    assert all(process.alive for process in rig.brokers.values())
    full = [name for name, event in rig.log if event == "disk_full"]
    assert len(full) == len(set(full)) >= 2, "each says it once"
    assert sorted(name for name, event in rig.log if event == "disk_has_room") == sorted(full)


def test_a_worker_may_register_while_the_disks_are_full():
    rig = small_world()

    async def user(cluster: Client, ports: Ports) -> Any:
        task = await cluster.submit(work, Parcel(1), 5_000 * MS)
        await pause(ports, 1.0)
        fill(rig)
        await submit_until_refused(cluster)
        rig.world.crash(rig.workers["w1"])
        rig.world.restart(rig.workers["w1"])
        return (await task).number

    assert rig.run(user, deadline=3.0) == 1


# -- some disks -------------------------------------------------------------------------------------------------------


def test_a_full_follower_closes_nothing():
    rig = small_world(workers=0)
    follower = next(name for name in BROKERS if name != rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        fill(rig, follower)
        while lacking(rig) != {follower}:
            await cluster.submit(unserved)
        for _ in range(20):
            await cluster.submit(unserved)
        make_room(rig, follower)
        await pause(ports, 2 * RETRY_INTERVAL / SECOND)

    rig.run(user, deadline=3.0)
    assert lacking(rig) == set()
    assert not [event for _, event in rig.log if event == "submits_refused"]


def test_two_full_followers_of_three_brokers_close_the_leader():
    rig = small_world(workers=0)
    followers = [name for name in BROKERS if name != rig.leader]

    async def user(cluster: Client, ports: Ports) -> Any:
        fill(rig, *followers)
        refusal = await submit_until_refused(cluster)
        assert lacking(rig) == set(followers)
        make_room(rig)
        await cluster.submit(unserved)
        return str(refusal)

    assert f"too few brokers have room on their disks: {', '.join(followers)} are full" in rig.run(user, deadline=15.0)


def test_a_full_leader_hands_over_to_brokers_with_room_and_stays_a_follower():
    rig = small_world(workers=0)
    first = rig.leader

    async def user(cluster: Client, ports: Ports) -> Any:
        fill(rig, first)
        waits = [0]
        while not lacking(rig) or rig.leader == first:      # the one during which the disk fills up, or the next
            start = ports.clock.now()
            await cluster.submit(unserved)
            waits.append(ports.clock.now() - start)
        await pause(ports, 60.0)
        return max(waits)

    waited = rig.run(user, deadline=30.0)
    assert HAND_OVER_PATIENCE - 2 * SECOND < waited < HAND_OVER_PATIENCE + 6 * SECOND
    assert rig.leader != first
    assert [name for name, event in rig.log if event == "handed_over"] == [first]
    assert rig.brokers[first].alive


def test_a_full_broker_leads_if_no_other_can():
    rig = small_world(workers=0)
    first = rig.leader
    others = [name for name in BROKERS if name != first]

    async def user(cluster: Client, ports: Ports) -> Any:
        tasks = [await cluster.submit(unserved) for _ in range(3)]
        fill(rig, *others)
        while lacking(rig) != set(others):
            await cluster.submit(unserved)
        rig.world.crash(rig.brokers[first])
        await pause(ports, 15.0)
        await tasks[0].cancel()

    rig.run(user, deadline=10.0)
    assert rig.leader in others


# -- a disk that its own log fills ------------------------------------------------------------------------------------


def test_a_log_that_fills_a_small_disk_is_compacted_early_and_submits_go_on():
    """Long before it is worth a snapshot by its length, and while there is room for one."""
    rig = small_world(workers=2, slots=2)
    capacity = 16 * SMALL.segment_bytes
    for disk in disks(rig):
        disk.capacity = capacity
    spans: list[int] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        for _ in range(125):
            start = ports.clock.now()
            await asyncio.gather(*[await cluster.submit(work, Parcel(number, "x" * 500)) for number in range(10)])
            spans.append(ports.clock.now() - start)
            await pause(ports, 2.0)

    rig.run(user, deadline=30.0)
    assert [event for _, event in rig.log].count("log_compacted") >= 2 * len(BROKERS)
    assert max(spans) < 2 * SECOND, "nobody has noticed"
    assert all(process.alive for process in rig.brokers.values())
    assert not [event for _, event in rig.log if event in ("disk_full", "submits_refused", "compaction_failed")]


def test_while_there_is_no_room_the_log_is_cut_at_the_newest_snapshot_and_the_older_one_goes():
    rig = small_world(workers=0)
    name = rig.leader
    raft = rig.actor(name).raft
    disk = disks(rig, name)[0]

    def snapshots() -> list[str]:
        return [path for path in disk.paths() if path.endswith(".snap")]

    def used() -> int:
        return sum(len(disk.read(path)) for path in disk.paths())

    async def user(cluster: Client, ports: Ports) -> Any:
        disk.capacity = used() + 3 * SMALL.segment_bytes
        while len(snapshots()) < 2:         # because room is scarce
            task = await cluster.submit(unserved)
            await task.cancel()
            await pause(ports, 0.05)
        disk.capacity = used()              # something else has taken the rest
        first, newest = raft.wal.first_index, max(snapshots())
        while not raft.wal.lacks_room and raft.wal.first_index == first:
            await cluster.submit(unserved)
        await pause(ports, 3.0)
        return newest

    newest = rig.run(user, deadline=30.0)
    assert snapshots() == [newest]
    assert not raft.wal.lacks_room
    assert rig.leader == name, "there was no need to hand over"
