"""What a client leaves behind in its process: nothing. Real sockets, and nobody at the other end."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from cluster import Client, Unavailable
from cluster.local import write_topology

CLIENTS = 50
DEADLINE_S = 0.005
ENDING_MAX = 3      # threads that were joined a moment ago, and are listed still


@pytest.fixture
def topology_file(tmp_path: Path) -> Path:
    return write_topology(tmp_path / "nobody", name="nobody", modules=["os"])


@pytest.fixture
def no_collector():
    """What is left to the garbage collector is left behind for a time that nobody knows."""
    gc.disable()
    yield
    gc.enable()


def descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def assert_nothing_left(before: tuple[int, int]) -> None:
    """What others of this process had open may be closed meanwhile; nothing may grow with the number of clients."""
    descriptors, threads = descriptors_and_threads()
    assert descriptors <= before[0]
    assert threads <= before[1] + ENDING_MAX


async def visit(topology_file: Path, *, require_leader: bool) -> None:
    client = Client.connect(topology_file, deadline=DEADLINE_S, require_leader=require_leader)
    async with client:
        assert not require_leader, "nobody leads"


def test_clients_that_come_and_go_leave_no_descriptors_and_no_threads(topology_file, no_collector):
    async def come_and_go() -> None:
        await visit(topology_file, require_leader=False)
        before = descriptors_and_threads()
        for _ in range(CLIENTS):
            await visit(topology_file, require_leader=False)
        assert_nothing_left(before)

    asyncio.run(come_and_go())


def test_a_client_that_could_not_enter_leaves_no_descriptors_and_no_threads(topology_file, no_collector):
    async def try_to_enter() -> None:
        for attempt in range(12):
            with pytest.raises(Unavailable):
                await visit(topology_file, require_leader=True)
            if attempt == 0:
                before = descriptors_and_threads()
        assert_nothing_left(before)

    asyncio.run(try_to_enter())
