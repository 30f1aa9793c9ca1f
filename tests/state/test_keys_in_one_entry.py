"""What several commands of one entry do to one key, before dispatch has seen any of it."""

from collections.abc import Callable

import pytest
from image_rig import assert_equal, assert_goes_on_alike, restore
from random_stream import CrowdedStream
from state_rig import Client, Rig, Worker, encode_entry

from cluster.state.commands import (
    ROLE_WORKER,
    Cancel,
    Close,
    Command,
    Expire,
    Register,
    Tick,
    WorkerSpec,
)

ENDS: dict[str, Callable[[Worker], Command]] = {
    "drained": Worker.drain_command,
    "closed": lambda worker: Close(worker.session, worker.incarnation),
    "expired": lambda worker: Expire(worker.session, worker.incarnation),
}


def a_key_whose_only_task_waits_at_a_busy_home(rig: Rig, **options: int) -> tuple[Client, Worker, int]:
    client, worker = rig.client(), rig.worker("w1", names=("f",), prefetch=1)
    client.submit("f", key="k", actor="A")
    worker.complete(*worker.inbox)
    client.submit("f", key="other", actor="A")
    (waiting,) = client.submit("f", key="k", actor="A", **options)
    return client, worker, waiting


def assert_the_restored_one_decides_alike(rig: Rig) -> None:
    restored = restore(rig.leader.image())
    assert_equal(restored, rig.leader)
    payload = encode_entry(Tick(1), now_ms=rig.now_ms + 1_000)
    index = rig.leader.applied_index + 1
    for machine in (restored, rig.leader):
        machine.apply(index, 1, payload, None)
    assert_equal(restored, rig.leader)


@pytest.mark.parametrize("end", list(ENDS))
def test_a_key_that_loses_its_last_task_and_its_home_gets_what_is_submitted_then(rig: Rig, end: str) -> None:
    client, worker, waiting = a_key_whose_only_task_waits_at_a_busy_home(rig)
    other = rig.worker("w2", slots=2, names=("f",), prefetch=9)
    cancel = Cancel(client.session, client.seq, client.seq, [waiting])
    client.seq += 1
    rig.apply(cancel, ENDS[end](worker), client.submit_command("f", key="k", actor="A"))
    assert [assignment.key for assignment in other.inbox].count("k") == 1
    assert_the_restored_one_decides_alike(rig)


def test_the_same_when_its_worker_registers_again(rig: Rig) -> None:
    client, _, waiting = a_key_whose_only_task_waits_at_a_busy_home(rig)
    other = rig.worker("w2", slots=2, names=("f",), prefetch=9)
    cancel = Cancel(client.session, client.seq, client.seq, [waiting])
    client.seq += 1
    session = rig.leader._tables.sessions.last_id + 1
    again = rig.workers[session] = Worker(rig, "w1", 2)
    register = Register("w1", 2, ROLE_WORKER, WorkerSpec(1, ("default",), ("f",), 1))
    rig.apply(cancel, register, client.submit_command("f", key="k", actor="A"))
    assert [assignment.key for assignment in again.inbox + other.inbox].count("k") == 1
    assert_the_restored_one_decides_alike(rig)


def test_the_same_when_its_last_task_expires_as_its_worker_is_lost(rig: Rig) -> None:
    client, worker, _ = a_key_whose_only_task_waits_at_a_busy_home(rig, expires_ms=1_000)
    other = rig.worker("w2", slots=2, names=("f",), prefetch=9)
    rig.now_ms += 5_000
    rig.apply(Expire(worker.session, worker.incarnation), client.submit_command("f", key="k", actor="A"))
    assert [assignment.key for assignment in other.inbox].count("k") == 1
    assert_the_restored_one_decides_alike(rig)


@pytest.mark.parametrize("seed", range(12))
def test_few_keys_and_much_in_an_entry_leave_nothing_behind_and_every_replica_alike(seed: int) -> None:
    stream = CrowdedStream(seed)
    stream.run(80, check=True)
    assert sum(channel.epoch > 1 for channel in stream.machine._tables.keys.by_key.values()) >= 1
    for cut in (20, 40, 60):
        assert_goes_on_alike(stream.log, cut)
