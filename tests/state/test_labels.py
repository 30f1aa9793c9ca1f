"""A task with labels goes only to workers that have them all."""

import pytest
from state_rig import Rig

from cluster.state.commands import ROLE_WORKER, Options, Register, WorkerSpec
from cluster.state.effects import ANSWER_REFUSED
from cluster.state.status import ParkedStatus


def parked(rig: Rig) -> list[ParkedStatus]:
    return rig.leader.status()["parked"]


def test_a_task_goes_only_to_a_worker_that_has_all_of_its_labels(rig: Rig) -> None:
    client = rig.client()
    plain, half = rig.worker("plain"), rig.worker("half", labels=("gpu",))
    whole = rig.worker("whole", labels=("big", "eu", "gpu"), prefetch=9)
    tasks = client.submit(count=3, labels=("eu", "gpu"))
    assert (plain.inbox, half.inbox, whole.tasks()) == ([], [], tasks)


def test_a_task_without_labels_goes_to_any_worker(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(labels=("gpu",))
    assert client.submit() == worker.tasks()


def test_the_order_and_the_number_of_labels_do_not_matter(rig: Rig) -> None:
    client = rig.client()
    client.submit(labels=("b", "a", "b"))
    client.submit(labels=("a", "b"))
    (channel,) = rig.leader._tables.queues.channels.values()
    assert channel.labels == ("a", "b") and channel.waiting == 2
    rig.worker("one", labels=("a", "b"))
    rig.worker("other", labels=("b", "a", "a"))
    assert len(rig.leader._tables.credit.pools) == 1
    assert rig.queue_is_empty()


def test_labels_that_nobody_has_stand_in_nobodys_way_and_are_served_when_somebody_comes(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(prefetch=9)
    waiting = client.submit(labels=("gpu",), priority=9)
    assert client.submit() == worker.tasks()
    assert (rig.queue()["parked"], rig.queue()["ready"]) == (1, 1)
    late = rig.worker("late", labels=("gpu",))
    assert late.tasks() == waiting
    assert parked(rig) == []


@pytest.mark.parametrize("how", ["expire", "drain"])
def test_what_only_one_worker_could_take_is_parked_again_when_it_goes(rig: Rig, how: str) -> None:
    client, worker = rig.client(), rig.worker(labels=("gpu",))
    rig.worker("plain")
    client.submit(count=2, labels=("gpu",))
    getattr(worker, how)()
    assert [row["labels"] for row in parked(rig)] == [["gpu"]]
    client.submit(labels=("gpu",))
    rig.worker("next", labels=("gpu",), prefetch=9)
    assert rig.queue()["parked"] == 0


def test_status_says_when_labels_are_why(rig: Rig) -> None:
    client = rig.client()
    client.submit(labels=("gpu", "eu"))
    client.submit("g", labels=("eu",))
    rig.worker(names=("f",))
    both, one = parked(rig)
    assert both["why"] == "no worker with labels eu, gpu announces f for queue default; workers without do"
    assert one["why"] == "no worker with label eu announces g for queue default"


@pytest.mark.parametrize("labels", [("",), ("x" * 513,), tuple(map(str, range(65)))])
def test_labels_that_are_no_names_or_too_many_are_refused(rig: Rig, labels: tuple[str, ...]) -> None:
    client = rig.client()
    assert client.send(client.submit_command(labels=labels)).code == ANSWER_REFUSED
    worker = Register("w", 1, ROLE_WORKER, WorkerSpec(1, ("q",), ("f",), labels=labels))
    (registered,) = rig.apply(worker).registered
    assert registered.code == ANSWER_REFUSED


def test_options_with_labels_in_another_order_are_other_options_of_one_channel(rig: Rig) -> None:
    queues = rig.leader._tables.queues
    one, other = (queues.spec("f", Options(labels=labels), 0) for labels in (("a", "b"), ("b", "a")))
    assert one.channel == other.channel


def test_a_single_task_that_is_parked_has_the_reason_of_the_status(rig: Rig) -> None:
    client = rig.client()
    (task,) = client.submit(labels=("gpu",))
    (free,) = client.submit("f")
    rig.worker(names=("f",))
    found = [rig.leader.details(number) for number in (task, free)]
    (row,) = parked(rig)
    assert [details.row.why_parked for details in found if details] == [row["why"], ""]
    assert row["why"].startswith("no worker with label gpu")
