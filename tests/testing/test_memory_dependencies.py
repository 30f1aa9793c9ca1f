"""Handles as arguments: a task waits for what it needs and gets what became of it, on a real broker, worker and client
in a cluster in memory."""

import asyncio

import pytest
from needy_tasks import (
    RUNS,
    Adder,
    Size,
    flaky,
    judge,
    largest,
    nested,
    number,
    plain,
    size,
    slowly,
    total,
    total_in_a_loop,
)

from cluster import (
    DependencyError,
    DependencyFailed,
    EncodeError,
    Outcome,
    Overloaded,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    after,
    group,
)
from cluster.state import needs, retention
from cluster.testing import MemoryCluster


def test_a_handle_stands_for_the_result_of_its_task(memory_cluster):
    one = memory_cluster.submit(number, 1)
    two = memory_cluster.submit(slowly, one)
    three = memory_cluster.submit(total, [one, two], plus=after(two))
    assert three.result() == 5
    assert memory_cluster.submit(nested, {"a": [1, one]}, (two, "x")).result() == "{'a': [1, 1]} (2, 'x')"


def test_results_arrive_as_the_annotations_say(memory_cluster):
    jobs = [memory_cluster.submit(size, name, len(name)) for name in ("a", "ccc", "bb")]
    assert memory_cluster.submit(largest, group(jobs)).result() == Size("ccc", 3)
    assert memory_cluster.submit(largest, group(*jobs)).result() == Size("ccc", 3)
    assert memory_cluster.submit(largest, jobs[:1]).result() == Size("a", 1)


def test_a_batch_stands_for_the_list_of_its_results(memory_cluster):
    batch = memory_cluster.map(number, range(2_000))
    assert memory_cluster.submit(total, group(batch)).result() == sum(range(2_000))
    assert memory_cluster.submit(total, batch, plus=1).result() == sum(range(2_000)) + 1      # all has come meanwhile


def test_items_of_a_map_and_methods_of_actors_take_handles(memory_cluster):
    ones = [memory_cluster.submit(number, value) for value in (1, 2)]
    batch = memory_cluster.map(slowly, [after(one) for one in ones])
    again = memory_cluster.map(slowly, batch.members())
    assert again.results() == [3, 4] and batch.results() == [2, 3]
    assert memory_cluster.actor(Adder, key="k").add(ones[0], batch.as_completed().__next__()) in (3, 4)


def test_of_a_map_that_is_refused_other_commands_run_also_later_ones_and_each_as_a_whole(memory_cluster, monkeypatch):
    monkeypatch.setattr(needs, "NEEDS_KNOWN_MAX", 1_000)
    one = memory_cluster.submit(number.options(delay="1h"), 7)
    with pytest.raises(Overloaded, match="need more others than the cluster keeps count of"):
        memory_cluster.map(number, [*[after(one)] * 2_048, *[1] * 100])
    assert one.result() == 7
    memory_cluster.advance("1s")
    (queue,) = memory_cluster.status()["queues"]
    assert (queue["delayed"], queue["ready"], queue["running"], queue["completed"]) == (0, 0, 0, 1 + 1_024 + 100)


def test_what_needs_a_result_that_is_not_there_fails_without_having_run_and_names_it(memory_cluster):
    bad = memory_cluster.submit(number, -1)
    direct = memory_cluster.submit(total, [bad])
    transitive = memory_cluster.submit(slowly, direct)
    for handle, needed in ((direct, bad), (transitive, direct)):
        with pytest.raises(DependencyFailed) as raised:
            handle.result()
        assert (raised.value.task, raised.value.state, raised.value.cause) == (needed.id, "failed", bad.id)
        assert "ValueError: -1 is negative" in str(raised.value)
    assert isinstance(raised.value, TaskFailed)
    assert memory_cluster.records([transitive.id])[0].attempts == 0


def test_outcomes_show_failures(memory_cluster):
    memory_cluster.takes(slowly, 10_000)
    good = memory_cluster.submit(size, "good", 1)
    bad = memory_cluster.submit(number, -1)
    cancelled = memory_cluster.submit(slowly.options(delay="1h"), 1)
    expired = memory_cluster.submit(slowly.options(labels=["nowhere"], expires="1m"), 1)
    report = memory_cluster.submit(judge, group(good, [bad, cancelled], expired, outcomes=True))
    cancelled.cancel()
    assert report.result() == ["completed good", "failed ValueError: -1 is negative", "cancelled ", "expired "]


def test_an_outcome_that_the_client_knows_already_is_the_same(memory_cluster):
    good, bad = memory_cluster.submit(size, "good", 1), memory_cluster.submit(number, -1)
    good.result()
    with pytest.raises(TaskFailed):
        bad.result()
    want = ["completed good", "failed ValueError: -1 is negative"]
    assert memory_cluster.submit(judge, group(good, bad, outcomes=True)).result() == want
    found = memory_cluster.submit(plain, after(bad, outcome=True), [good, after(good, outcome=True)]).result()
    assert found == ["Outcome failed", "dict {'name': 'good', 'count': 1}", "Outcome completed"]


def test_an_outcome_raises_what_its_handle_would():
    assert Outcome(1, "completed", 3).get() == 3
    for state, error in (
        ("failed", TaskFailed), ("dead", TaskDead), ("cancelled", TaskCancelled), ("expired", TaskExpired),
        ("unknown", DependencyFailed),
    ):  # fmt: skip
        with pytest.raises(error):
            Outcome(1, state, None, "ValueError: no").get()


def test_a_result_that_its_client_has_long_had_can_still_be_passed_on(memory_cluster):
    one = memory_cluster.submit(number, 7)
    assert one.result() == 7
    memory_cluster.advance("3m")
    assert memory_cluster.records([one.id])[0].state == "unknown"
    assert memory_cluster.submit(total, [one]).result() == 7


def test_what_others_wait_for_is_kept_until_they_have_it(memory_cluster):
    one = memory_cluster.submit(number.options(result_ttl="1s"), 7)
    slow = memory_cluster.submit(number.options(delay="10m"), 1)
    both = memory_cluster.submit(total, [one, slow])
    memory_cluster.advance("5m")
    assert memory_cluster.records([one.id])[0].state == "completed"
    assert both.result() == 8
    memory_cluster.advance("3m")
    assert memory_cluster.records([one.id])[0].state == "unknown"


def test_a_retry_and_an_attempt_after_a_lost_process_get_the_same_again(memory_cluster):
    RUNS.clear()
    one = memory_cluster.submit(slowly, 1)
    assert memory_cluster.submit(flaky, one).result() == 2
    memory_cluster.takes(total, 60)
    sum_of = memory_cluster.submit(total, [one, one])
    memory_cluster.advance("10s")
    memory_cluster.lose(sum_of)
    assert sum_of.result() == 4


def test_a_delay_begins_when_all_is_there(memory_cluster):
    one = memory_cluster.submit(number.options(delay="1h"), 1)
    two = memory_cluster.submit(total.options(delay="10m"), [one])
    began = memory_cluster.now()
    two.result()
    assert 70 * 60 - 5 < (memory_cluster.now() - began).total_seconds() < 70 * 60 + 5


def test_a_task_that_is_not_known_can_be_waited_for_by_nobody(memory_cluster):
    here = memory_cluster.submit(number, 1)
    for task in (here.id + 100, 12):
        with pytest.raises(DependencyFailed, match=f"task {task} is not known") as raised:
            memory_cluster.submit(total, [memory_cluster.handle(task)]).result()
        assert (raised.value.task, raised.value.state) == (task, "unknown")


@pytest.mark.parametrize("needy", [total, total_in_a_loop])
def test_who_needs_a_result_that_is_gone_when_it_is_handed_out_fails_for_that_task(memory_cluster, monkeypatch, needy):
    """Too much is beyond its date."""
    monkeypatch.setattr(retention, "OVERDUE_BYTES_MAX", 100)
    one = memory_cluster.submit(number.options(result_ttl="1s"), 7)
    late = memory_cluster.submit(needy.options(delay="10s", retry=3), [one])
    later = memory_cluster.submit(total, [late])
    text = f"task {one.id} is not known: its record is not kept any more"
    with pytest.raises(DependencyFailed, match=f"^DependencyFailed: {text}") as raised:
        late.result()
    assert (raised.value.task, raised.value.state, raised.value.cause) == (one.id, "unknown", one.id)
    assert memory_cluster.records([late.id])[0].attempts == 0
    with pytest.raises(DependencyFailed, match=f"task {late.id} was not run, since {text}") as raised:
        later.result()
    assert (raised.value.task, raised.value.state, raised.value.cause) == (late.id, "failed", one.id)


def test_a_cycle_cannot_be_made_since_nobody_can_need_what_is_not_there_yet(memory_cluster):
    one = memory_cluster.submit(number, 1)
    later = memory_cluster.handle(one.id + 2)           # the id that the second one will have
    first = memory_cluster.submit(total, [later])
    second = memory_cluster.submit(total, [first])
    assert second.id == later.id
    for handle in (first, second):
        with pytest.raises(DependencyFailed, match=f"task {second.id} is not known"):
            handle.result()


def test_a_handle_of_another_cluster_is_refused_at_once(memory_cluster):
    with MemoryCluster() as other:
        one = other.submit(number, 1)
        for argument in (one, [one], group(one), after(one)):
            with pytest.raises(DependencyError, match=f"task {one.id} is of another cluster") as raised:
                memory_cluster.submit(total, argument)
            assert raised.value.value == one.id
        one.result()
        with pytest.raises(DependencyError):
            memory_cluster.map(slowly, [one])


def test_what_is_no_handle_is_refused_at_once(memory_cluster):
    for wrong in (1, "x", [1], None):
        with pytest.raises(DependencyError, match="is no handle"):
            group(wrong)
    with pytest.raises(DependencyError, match="is no handle"):
        after(3)


def test_what_is_meant_by_what_is_no_handle_is_said(memory_cluster):
    one, batch = memory_cluster.submit(number, 1), memory_cluster.map(number, [1, 2])
    for wrong, says in (
        (lambda: after(batch), r"^<BlockingBatch . of 2 finished> is no handle, but a batch; write group\(batch\)"),
        (lambda: group([batch]), r"write group\(batch\), without a list around it$"),
        (lambda: after(after(one)), r"^<results of 1 tasks> is no handle, but what `after` or `group` made; "),
        (lambda: group(group(one)), "pass it on as it is$"),
        (lambda: after(one.id), rf"^task {one.id} is no handle, but an id; write cluster\.handle\({one.id}\)$"),
    ):
        with pytest.raises(DependencyError, match=says):
            wrong()


def test_what_cannot_travel_beside_a_handle_is_said(memory_cluster):
    with pytest.raises(EncodeError, match=r"argument 2 of .*nested"):
        memory_cluster.submit(nested, memory_cluster.submit(number, 1), object())


def test_a_task_waits_for_a_leader_that_is_lost_meanwhile(make_memory_cluster):
    cluster = make_memory_cluster(brokers=3)
    jobs = cluster.map(slowly, range(50))
    report = cluster.submit(total, jobs)
    cluster.kill_leader()
    assert report.result() == sum(range(1, 51))


def test_a_fan_in_of_ten_thousand_finishes_failed_members_included(make_memory_cluster):
    cluster = make_memory_cluster(slots=4)
    jobs = cluster.map(number, [value if value % 1_000 else -1 - value for value in range(10_000)])
    report = cluster.submit(plain, 0, group(jobs, outcomes=True))
    found = report.result()[1:]
    assert len(found) == 10_000 and found.count("Outcome failed") == 10 and found.count("Outcome completed") == 9_990


async def _everything_in_one_turn(client):
    one = await client.submit(number, 1)
    handles = await asyncio.gather(*(client.submit(slowly, one) for _ in range(100)))
    return await (await client.submit(total, group(handles)))


def test_the_asynchronous_client_takes_handles_as_well(memory_cluster):
    assert memory_cluster.run(_everything_in_one_turn(memory_cluster.client)) == 200
