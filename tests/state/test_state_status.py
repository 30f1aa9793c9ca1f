"""What status shows."""

from msgspec import msgpack
from state_rig import Rig

from cluster.state.commands import OUTCOME_CRASHED, OUTCOME_FAILED
from cluster.state.effects import Effects


def test_queues_are_counted_by_state(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=2)
    client.submit(count=6)
    client.submit(delay_ms=1_000)
    client.submit("nobody", count=2)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    worker.complete(worker.inbox[0])
    for _ in range(3):
        crashing = min(worker.inbox, key=lambda assignment: assignment.task)
        worker.end(crashing, OUTCOME_CRASHED)
    assert rig.queue() == {
        "name": "default",
        "ready": 3,
        "waiting": 0,
        "running": 2,
        "delayed": 1,
        "completed": 1,
        "failed": 1,
        "dead": 1,
        "cancelled": 0,
        "expired": 0,
        "parked": 2,
    }


def test_queues_are_listed_by_name(rig: Rig):
    client = rig.client()
    for queue in ("b", "c", "a"):
        client.submit(queue=queue)
    assert [row["name"] for row in rig.leader.status()["queues"]] == ["a", "b", "c"]


def test_workers_and_clients_are_listed(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=2)
    client.submit()
    status = rig.leader.status()
    assert status["workers"] == [
        {
            "name": "w1", "session": worker.session, "slots": 2, "slots_min": 2, "slots_max": 2, "async_tasks": 0,
            "held": 1, "draining": False,
        }
    ]  # fmt: skip
    assert status["clients"] == 1
    assert [session.id for session in rig.leader.worker_sessions()] == [worker.session]
    assert [session.id for session in rig.leader.sessions_open()] == [client.session, worker.session]


def test_a_task_knows_its_queue(rig: Rig):
    (task,) = rig.client().submit(queue="q")
    assert rig.leader.queue_of(task) == "q"


def test_effects_of_several_entries_together_are_all_that_the_worker_got(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=9)
    collected = Effects()
    for _ in range(2):
        client.submit(count=2)
        for session, assignments in rig.effects.assignments.items():
            collected.assignments.setdefault(session, []).extend(assignments)
    assert collected.assignments == {worker.session: worker.inbox}


def test_what_is_parked_takes_a_bounded_part_of_the_status(rig: Rig):
    client = rig.client()
    for number in range(200):
        labels = tuple(f"{number:03}{label:03}" + "x" * 500 for label in range(64))
        client.submit(f"f{number}", labels=labels)
    status = rig.leader.status()
    assert 0 < len(status["parked"]) < 200 and len(status["parked"]) + status["parked_more"] == 200
    assert len(msgpack.encode(status)) < 1024 * 1024
    assert status["parked"][0]["why"].endswith("... (64 in all) announces f0 for queue default")
    assert len(status["parked"][0]["labels"]) == 64


def test_of_few_names_that_are_parked_none_is_left_out(rig: Rig):
    rig.client().submit("nobody")
    assert rig.leader.status()["parked_more"] == 0
