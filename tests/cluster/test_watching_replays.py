"""What is said of tasks that are run again to those who follow them."""

import asyncio
from typing import Any

from client_world import ClientWorld, Parcel, pause, work

from actors import Ports
from cluster import Backoff, Client, Event, Handle


async def told(handle: Handle[Any], heard: list[Event]) -> None:
    async for event in handle.watch():
        heard.append(event)


def test_a_task_that_was_run_again_is_queued_whatever_its_earlier_life_ended_of():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        failed = await cluster.submit(work, Parcel(1), fate="raise")
        died = await cluster.submit(work, Parcel(2), fate="die")
        await failed.wait()
        await died.wait()
        rig.world.pause(rig.workers["w1"])
        heard: list[Event] = []
        watchers = [
            asyncio.ensure_future(told(await handle.replay(), heard)) for handle in (failed, died)
        ]
        await pause(ports, 0.5)
        for watcher in watchers:
            watcher.cancel()
        return [(event.kind, event.text) for event in heard]

    assert rig.run(user) == [("queued", "")] * 2


def test_what_happens_to_it_in_this_life_is_told():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        patient = work.options(retry=Backoff(times=1, first="2s", jitter=False))
        handle = await cluster.submit(patient, Parcel(1), fate="raise")
        await handle.wait()
        again = await handle.replay()
        await pause(ports, 0.8)
        heard: list[Event] = []
        await told(again, heard)
        return [(event.kind, event.text) for event in heard if event.kind != "started"]

    assert rig.run(user) == [("retrying", "ValueError: parcel 1"), ("finished", "failed")]
