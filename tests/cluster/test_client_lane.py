"""What clients hand over waits behind what workers say, but not for ever, and each command once."""

import asyncio
from typing import Any

from client_world import BROKERS, ClientWorld, Parcel, pause, unserved, work
from overload_rig import numbers_of_tasks

from actors import MILLISECOND, SECOND, Ports
from cluster import Client
from cluster.broker.entries import SLICE_BYTES
from cluster.broker.proposals import PACE_BYTES
from cluster.client import commands
from cluster.state.commands import Complete, Outcome

RESULT_BYTES = 100_000
LATENCY = 50 * MILLISECOND          # to the followers: what is proposed meanwhile is not applied


class Flow:
    """Results as a busy cluster has them: 25 MB a second."""

    def __init__(self, rig: ClientWorld) -> None:
        self.rig = rig
        self.goes_on = True
        self.backlog_min = 1 << 40
        self.leader = rig.leader
        for name in BROKERS:
            if name != self.leader:
                rig.world.network.slow(self.leader, name, LATENCY)
        self._say()

    def _say(self) -> None:
        actor, loop = self.rig.actor(self.leader), self.rig.brokers[self.leader].loop
        assert loop is not None
        result = Complete(1 << 30, 1, 1, [Outcome(1, 1, 0, 0, 0, bytes(RESULT_BYTES))])
        loop.deliver(lambda _: actor._proposals.propose(result, RESULT_BYTES), None)
        if self.goes_on:
            self.rig.world.after(4 * MILLISECOND, self._say)


def test_large_results_that_flow_do_not_starve_submits_and_cancels():
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)
    backlogs: list[int] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        flow = Flow(rig)
        await pause(ports, 0.5)
        took: list[float] = []
        for number in range(5):
            backlogs.append(rig.actor(rig.leader).raft.backlog_bytes)
            start = ports.clock.now()
            handle = await cluster.submit(work, Parcel(number))
            await handle.cancel()
            took.append((ports.clock.now() - start) / SECOND)
        flow.goes_on = False
        return took

    took = rig.run(user, deadline=5.0)
    assert min(backlogs) >= PACE_BYTES, "there is always more than the pace allows"
    assert max(took) < 1.0


def test_a_bulk_of_submits_is_a_slice_for_each_that_was_applied_while_large_results_flow():
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        flow = Flow(rig)
        await pause(ports, 0.5)
        label = "x" * 100_000
        start = ports.clock.now()
        submits = [asyncio.ensure_future(cluster.submit(work, Parcel(number, label))) for number in range(30)]
        highest = 0
        while not all(one.done() for one in submits):
            highest = max(highest, rig.actor(rig.leader).raft.backlog_bytes)
            await pause(ports, 0.01)
        flow.goes_on = False
        return (ports.clock.now() - start) / SECOND, highest

    took, highest = rig.run(user)
    slices = 30 * 100_000 / SLICE_BYTES
    assert slices * LATENCY / SECOND < took < 6
    assert highest < 4 * PACE_BYTES, "the floor is small beside what flows"


def test_a_submit_that_is_said_again_while_it_waits_is_not_added_again(monkeypatch):
    monkeypatch.setattr(commands, "RESEND_AFTER", 50 * MILLISECOND)
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)
    label = "x" * 100_000
    waiting: list[int] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        others = [name for name in BROKERS if name != rig.leader]
        for name in others:
            rig.world.pause(rig.brokers[name])
        submits = [asyncio.ensure_future(cluster.submit(work, Parcel(number, label))) for number in range(60)]
        await pause(ports, 0.05)
        cancelling = asyncio.ensure_future(gone.cancel())
        await pause(ports, 0.6)
        waiting.append(rig.actor(rig.leader)._proposals._entry.waiting)
        for name in others:
            rig.world.resume(rig.brokers[name])
        await asyncio.gather(*submits, cancelling)

    rig.run(user)
    assert waiting[0] <= 31, "two of these tasks are a command, and there is one cancel"
    assert numbers_of_tasks(rig) == dict.fromkeys(range(60), 1)
