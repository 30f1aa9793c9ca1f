"""A worker that hangs past its lease has lost its tasks, whatever it says once it goes on."""

import os
import signal
from pathlib import Path

import msgspec
from cluster_rig import (
    cont,
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    until,
)
from cluster_tasks import echo_from, wait_at_first, worker_of
from msgspec import structs
from stranger import Stranger

from cluster import Client
from cluster.local import LocalCluster
from cluster.state.commands import OUTCOME_COMPLETED, Complete, Options, Outcome, Submit, TaskGroup, WorkerSpec
from cluster.state.effects import ANSWER_NO_SESSION, ANSWER_OK, STATE_COMPLETED
from cluster.topology import load
from cluster.wire import Answers, Assignments, Lease, Results

LEASE_S = 10.0


def test_a_worker_stopped_past_its_lease_is_refused_and_comes_back_as_another_incarnation(tmp_path: Path) -> None:
    async def main(topology: Path) -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", is_whole)
            workers = {row["pid"]: row for row in status["workers"]}
            handle = await client.submit(wait_at_first, str(tmp_path))
            started = tmp_path / "started-1"
            await until("the task runs", started.exists)
            child = int(started.read_text())
            hung = worker_of(child)
            assert child in workers[hung]["children"]
            (other,) = workers.keys() - {hung}
            os.kill(hung, signal.SIGSTOP)
            try:
                # Its lease expires, so the task goes to the other worker.
                assert await handle.result(timeout=LEASE_S + 20) == other
                # Now the first run finishes too; its outcome lies ready for the worker that still hangs.
                (tmp_path / "go").touch()
                await until("the first run has finished", (tmp_path / "finished-1").exists)
            finally:
                cont(hung)
            again = await status_when(
                client,
                "the worker serves again",
                lambda status: is_whole(status) and hung in [row["pid"] for row in status["workers"]],
            )
            assert len(again["workers"]) == 2
            name = workers[hung]["node"]
            assert child not in row(again["workers"], name)["children"], "what it ran was ended"
            assert await client.handle(handle.id).result(timeout=5) == other, "the record was not overwritten"
            (record,) = await client.records([handle.id])
            assert (record.state, record.attempts) == ("completed", 2)

            # One task at a time per slot, so both workers get some.
            batch = await client.map(echo_from, range(100))
            assert set(await batch.results(timeout=30)) == {hung, other}

    with running(make_topology(tmp_path)) as cluster:
        run(main(cluster.topology))
        assert cluster.log is not None
        log = cluster.log.read_text()
        assert log.count("event=lease_expired") == 1
        assert log.count("event=worker_session_lost") == 1
        assert log.count("event=worker_registered") == 3, "two at the start, then another incarnation"
        assert log.count("event=node_exited") == 0


def test_the_leader_refuses_what_comes_after_the_lease_and_what_comes_from_an_earlier_attempt(tmp_path: Path) -> None:
    """A worker that keeps no time of its own: only the leader stands between its late result and the record."""
    queue, name = "elsewhere", "strange:task"
    spec = WorkerSpec(1, (queue,), (name,))

    def result_of(seconds: str) -> Outcome:
        return Outcome(task, 1, OUTCOME_COMPLETED, 0, 1_000, msgspec.msgpack.encode(seconds))

    with running(make_topology(tmp_path)) as cluster:
        status = cluster.status()
        leader = load(cluster.topology).node(status["leader"])
        assert leader is not None
        with Stranger(leader.address) as client, Stranger(leader.address) as hung, Stranger(leader.address) as fresh:
            session = client.register()
            client.say(Submit(session, 1, 1, [TaskGroup(name, 1, [b"\x92\x90\x80"], Options(queue=queue))]))
            first_session = hung.register(spec)
            first = hung.hear(Assignments).items[0]
            task = first.task
            assert (first.attempt, first.name) == (1, name)
            # Silence, for longer than its lease.
            cluster.wait_for(lambda _: "event=lease_expired" in log_of(cluster))
            late = Complete(first_session, 1, 1, [result_of("late, under an ended session")])
            hung.say(late, Lease(first_session, 1))
            assert hung.hear(Answers).items[0].code == ANSWER_NO_SESSION

            second_session = fresh.register(spec)
            second = fresh.hear(Assignments).items[0]
            assert (second.task, second.attempt) == (task, 2)
            fresh.say(Complete(second_session, 1, 1, [result_of("late, under a session that lives")]))
            assert fresh.hear(Answers).items[0].code == ANSWER_OK, "the command was taken, its outcome was not"
            good = structs.replace(result_of("of the second attempt"), attempt=2)
            fresh.say(Complete(second_session, 2, 2, [good]))
            (record,) = client.hear(Results).items
            assert msgspec.msgpack.decode(record.body) == "of the second attempt"
            assert (record.task, record.state, record.attempts) == (task, STATE_COMPLETED, 2)


def log_of(cluster: LocalCluster) -> str:
    assert cluster.log is not None
    return cluster.log.read_text()
