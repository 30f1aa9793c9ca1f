"""A rolling restart decides by what it sees: whose turn it is, when a node is back, when to give up."""

from typing import Any

import pytest

from cluster.client.rolling import (
    ASK_AGAIN_AFTER,
    LATE_AFTER,
    SECOND,
    SETTLE,
    Ask,
    Course,
    Done,
    GiveUp,
    Limits,
    Look,
    Rest,
    Wanted,
)

LIMITS = Limits(running=9 * SECOND, back=60 * SECOND)
TICK = SECOND // 10


class Cluster:
    """What the status shows; the pid of a node changes when it is started again."""

    def __init__(self, leader: str = "b2") -> None:
        self.leader: str | None = leader
        self.brokers: dict[str, dict[str, Any]] = {
            name: {"node": name, "pid": pid, "role": "follower", "applied_index": 100, "quarantined": False}
            for pid, name in enumerate(("b1", "b2", "b3"), start=1)
        }
        self.brokers[leader]["role"] = "leader"
        self.workers: dict[str, dict[str, Any]] = {
            name: {"node": name, "pid": pid, "slots": 2, "slots_min": 2, "async_tasks": 200, "children": [1, 2, 3],
                   "draining": False, "drained": False, "running": 0}
            for pid, name in enumerate(("w1", "w2"), start=11)
        }  # fmt: skip
        self.now = 0

    def look(self) -> Look:
        workers = list(self.workers.values()) if self.leader else []
        return Look({"leader": self.leader, "brokers": list(self.brokers.values()), "workers": workers})

    def step(self, course: Course, after: int = TICK) -> Any:
        self.now += after
        return course.next(self.look(), self.now)

    def settled(self, course: Course) -> Any:
        """The first step after all brokers have been well for a moment."""
        assert isinstance(self.step(course), Rest) and isinstance(self.step(course, SETTLE - TICK), Rest)
        return self.step(course)

    def replace(self, node: str) -> None:
        """Its process has ended, and the next one serves."""
        row = self.brokers.get(node) or self.workers[node]
        row.update(pid=row["pid"] + 100, **({} if node in self.brokers else {"draining": False, "drained": False}))

    def down(self, node: str) -> None:
        self.brokers[node].update(pid=None, role="down", applied_index=None, quarantined=None)

    def up(self, node: str, pid: int, applied: int = 100) -> None:
        self.brokers[node].update(pid=pid, role="follower", applied_index=applied, quarantined=False)


def advice(step: Any) -> str:
    """Where to look, if it says so."""
    return step.advice if isinstance(step, Rest) else ""


def course(cluster: Cluster, *, named: bool = False, wanted: Wanted = Wanted.AGAIN, nodes: str = "") -> Course:
    chosen = nodes.split() or [*cluster.workers, *cluster.brokers]
    workers = [node for node in chosen if node.startswith("w")]
    return Course(wanted, workers, [node for node in chosen if node.startswith("b")], named, LIMITS)


def test_workers_come_first_and_the_leader_last_and_one_at_a_time():
    cluster = Cluster(leader="b2")
    restart = course(cluster)
    asked = []
    while not isinstance(step := cluster.step(restart), Done):
        if isinstance(step, Ask):
            asked.append((step.node, step.pid, step.again, step.is_broker))
            assert isinstance(cluster.step(restart), Rest), "its process still runs"
            cluster.replace(step.node)
    assert asked == [
        ("w1", 11, True, False), ("w2", 12, True, False), ("b1", 1, True, True), ("b3", 3, True, True),
        ("b2", 2, True, True),
    ]  # fmt: skip
    assert [(turn.node, turn.old_pid, turn.new_pid) for turn in restart.turns][-1] == ("b2", 2, 102)


def test_a_broker_that_begins_to_lead_meanwhile_has_its_turn_last():
    cluster = Cluster(leader="b1")
    restart = course(cluster, nodes="b1 b2 b3")
    assert cluster.step(restart).node == "b2"
    cluster.replace("b2")
    cluster.leader = "b3"
    assert cluster.settled(restart).node == "b1"
    cluster.replace("b1")
    assert cluster.settled(restart).node == "b3"


def test_nothing_begins_while_a_broker_is_missing():
    cluster = Cluster()
    cluster.down("b3")
    step = cluster.step(course(cluster))
    assert isinstance(step, GiveUp) and step.node == "" and "broker b3 is down" in step.reason
    assert "Nothing was done" in step.reason
    assert isinstance(cluster.step(course(cluster, nodes="w1")), Ask), "workers need a leader only"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"quarantined": True}, "is quarantined"), ({"applied_index": 1_000}, "catches up"),
     ({"role": "candidate"}, "is candidate"), ({"has_start": False}, "could not start from its disk")],
)  # fmt: skip
def test_nothing_begins_while_a_broker_is_not_well(change, said):
    cluster = Cluster()
    cluster.brokers["b3"].update(change)
    step = cluster.step(course(cluster))
    assert isinstance(step, GiveUp) and said in step.reason


def test_a_broker_is_back_when_it_has_caught_up_and_only_then_comes_the_next():
    cluster = Cluster(leader="b2")
    restart = course(cluster, nodes="b1 b3")
    assert cluster.step(restart).node == "b1"
    cluster.down("b1")
    assert cluster.step(restart) == Rest("broker b1 is down")
    cluster.up("b1", pid=50, applied=0)
    cluster.brokers["b2"]["applied_index"] = cluster.brokers["b3"]["applied_index"] = 10_000
    assert cluster.step(restart) == Rest("broker b1 catches up, 10000 entries to go")
    cluster.up("b1", pid=50, applied=9_990)
    cluster.leader = None
    assert cluster.step(restart) == Rest("no broker leads")
    cluster.leader = "b2"
    assert cluster.settled(restart).node == "b3"


def test_a_broker_must_have_been_well_for_a_moment_without_a_break():
    """Whoever dials it may be about to wait for its longest pause, a second."""
    cluster = Cluster(leader="b2")
    restart = course(cluster, nodes="b1 b3")
    cluster.step(restart)
    cluster.replace("b1")
    assert isinstance(cluster.step(restart), Rest)
    cluster.leader = None
    assert cluster.step(restart, SETTLE) == Rest("no broker leads")
    cluster.leader = "b2"
    assert cluster.settled(restart).node == "b3"


def test_a_broker_that_was_silent_for_a_moment_has_not_been_restarted():
    cluster = Cluster(leader="b2")
    restart = course(cluster, nodes="b1")
    assert cluster.step(restart).pid == 1
    cluster.down("b1")
    cluster.step(restart)
    cluster.up("b1", pid=1)
    assert cluster.step(restart, ASK_AGAIN_AFTER) == Ask("b1", 1, again=True, is_broker=True)


def test_no_broker_is_asked_again_while_another_one_is_missing():
    """The request was lost, and then another broker died: if this one ended now, two of three were missing."""
    cluster = Cluster(leader="b2")
    restart = course(cluster, nodes="b1")
    ask = cluster.step(restart)
    cluster.down("b3")
    step = cluster.step(restart, ASK_AGAIN_AFTER)
    assert step == Rest("its process has not ended, and broker b3 is down")
    cluster.up("b3", pid=3)
    assert cluster.step(restart) == ask


def test_a_request_that_was_not_heard_is_said_again_for_the_same_process():
    cluster = Cluster()
    restart = course(cluster, nodes="w1")
    ask = cluster.step(restart)
    assert isinstance(cluster.step(restart, ASK_AGAIN_AFTER - TICK), Rest)
    assert cluster.step(restart) == ask
    cluster.workers["w1"].update(draining=True, running=1)
    assert cluster.step(restart, ASK_AGAIN_AFTER) == Rest("it drains, with 1 running")


def test_a_worker_is_back_when_it_serves_with_all_children():
    cluster = Cluster()
    restart = course(cluster, nodes="w1 w2")
    assert cluster.step(restart).node == "w1"
    row = cluster.workers.pop("w1")
    assert cluster.step(restart) == Rest("it is not back")
    cluster.workers["w1"] = {**row, "pid": 99, "children": [7]}
    assert cluster.step(restart) == Rest("its children have not all started")
    cluster.workers["w1"]["children"] = [7, 8, 9]
    assert cluster.step(restart).node == "w2"


@pytest.mark.parametrize("nodes", ["w1", "b1"])
def test_a_node_that_is_gone_for_a_while_is_said_with_where_to_look(nodes):
    cluster = Cluster()
    restart = course(cluster, nodes=nodes)
    assert cluster.step(restart).node == nodes
    row = cluster.workers.get(nodes) or cluster.brokers[nodes]
    row["pid"] = None
    assert advice(cluster.step(restart)) == ""
    assert advice(cluster.step(restart, LATE_AFTER - TICK)) == ""
    assert advice(cluster.step(restart)).startswith(f"{nodes} has not come back so far; the log of the launch that")
    row["pid"] = 111
    assert advice(cluster.step(restart)) == ""
    row["pid"] = None
    assert advice(cluster.step(restart)) == ""


def test_a_worker_that_nobody_can_see_without_a_leader_and_one_that_stays_out_are_not_late():
    cluster = Cluster()
    restart, drain = course(cluster, nodes="w1"), course(cluster, nodes="w2", wanted=Wanted.OUT)
    assert cluster.step(restart).node == "w1" and cluster.step(drain).node == "w2"
    cluster.workers["w2"]["pid"] = None
    cluster.leader = None
    assert advice(cluster.step(restart)) == advice(cluster.step(restart, LATE_AFTER)) == ""
    cluster.leader = "b2"
    assert advice(cluster.step(restart)) == ""
    for _ in range(2):
        assert advice(cluster.step(drain, LATE_AFTER)) == ""


def test_no_leader_for_a_moment_does_not_make_a_worker_gone_or_back():
    cluster = Cluster()
    restart = course(cluster, nodes="w1")
    cluster.step(restart)
    leader, cluster.leader = cluster.leader, None
    assert cluster.step(restart, ASK_AGAIN_AFTER) == Rest("no broker leads")
    cluster.leader = leader
    assert isinstance(cluster.step(restart), Ask), "it still runs: asked again"


def test_it_stops_at_the_first_node_that_is_not_back_in_time_and_says_what_to_do():
    cluster = Cluster()
    restart = course(cluster, nodes="w1 w2 b1")
    cluster.step(restart)
    del cluster.workers["w1"]
    while isinstance(step := cluster.step(restart, SECOND), Rest):
        pass
    assert isinstance(step, GiveUp) and step.node == "w1"
    assert cluster.now > 9 * SECOND + 60 * SECOND
    assert "it is not back" in step.reason and "--node w1 --node w2 --node b1" in step.reason
    assert restart.left == ["w1", "w2", "b1"]


def test_a_broker_that_goes_away_in_between_stops_the_course_before_the_next_is_asked():
    cluster = Cluster(leader="b2")
    restart = course(cluster, nodes="b1 b3")
    cluster.step(restart)
    cluster.replace("b1")
    cluster.step(restart)
    cluster.down("b2")
    cluster.leader = "b3"
    while isinstance(step := cluster.step(restart, SECOND), Rest):
        assert step.doing == "broker b2 is down"
    assert isinstance(step, GiveUp) and "broker b2 is down" in step.reason


def test_a_refusal_is_told_when_it_gives_up():
    cluster = Cluster()
    restart = course(cluster, nodes="w1")
    while not isinstance(step := cluster.step(restart, SECOND), GiveUp):
        if isinstance(step, Ask):
            restart.refused("b1 does not lead")
    assert "b1 does not lead" in step.reason


def test_drained_workers_are_left_out_unless_they_are_named():
    cluster = Cluster()
    cluster.workers["w1"].update(pid=None, drained=True, slots=0, slots_min=0, async_tasks=0, children=[])
    workers = Course(Wanted.AGAIN, ["w1", "w2"], [], named=False, limits=LIMITS)
    assert cluster.step(workers).node == "w2"
    assert workers.skipped == [("w1", "it is drained")]


@pytest.mark.parametrize("named", [True, False])
def test_a_worker_that_is_not_there_is_waited_for_and_in_the_end_an_error(named):
    cluster = Cluster()
    late = cluster.workers.pop("w2")
    restart = Course(Wanted.AGAIN, ["w1", "w2"], [], named=named, limits=LIMITS)
    assert cluster.step(restart) == Rest("worker w2 is not there yet")
    cluster.workers["w2"] = late
    assert cluster.step(restart).node == "w1"
    never = Course(Wanted.AGAIN, ["w1", "w3", "w4"], [], named=named, limits=LIMITS)
    assert isinstance(cluster.step(never), Rest)
    assert isinstance(cluster.step(never, LIMITS.back - TICK), Rest)
    step = cluster.step(never)
    assert isinstance(step, GiveUp) and step.node == "" and never.skipped == []
    assert "workers w3, w4 are not there, after 60 s. Nothing was done" in step.reason
    assert "cluster.launch TOPOLOGY --node w3" in step.reason and "restart TOPOLOGY --node w1" in step.reason


def test_a_node_that_was_asked_to_come_back_was_not_asked_to_end():
    cluster = Cluster()
    cluster.workers["w1"].update(pid=None, drained=True, slots=0, slots_min=0, async_tasks=0, children=[])
    restart = course(cluster, named=True, nodes="w1")
    while not isinstance(step := cluster.step(restart, SECOND), GiveUp):
        pass
    assert "w1 was asked to come back" in step.reason and "to end" not in step.reason


def test_a_drained_worker_that_is_named_comes_back():
    cluster = Cluster()
    cluster.workers["w1"].update(pid=None, drained=True, slots=0, slots_min=0, async_tasks=0, children=[])
    restart = course(cluster, named=True, nodes="w1")
    assert cluster.step(restart) == Ask("w1", 0, again=True, is_broker=False)
    assert isinstance(cluster.step(restart), Rest)
    assert cluster.step(restart, ASK_AGAIN_AFTER) == Ask("w1", 0, again=True, is_broker=False)
    cluster.workers["w1"].update(pid=70, drained=False, slots=2, slots_min=2, async_tasks=200, children=[1, 2, 3])
    assert isinstance(cluster.step(restart), Done)


def test_a_drain_is_over_when_the_worker_is_shown_as_drained():
    cluster = Cluster()
    drain = course(cluster, named=True, wanted=Wanted.OUT, nodes="w1")
    assert cluster.step(drain) == Ask("w1", 11, again=False, is_broker=False)
    cluster.workers["w1"].update(draining=True, running=2)
    assert cluster.step(drain) == Rest("it drains, with 2 running")
    row = cluster.workers.pop("w1")
    assert isinstance(cluster.step(drain), Rest)
    cluster.workers["w1"] = {**row, "pid": None, "draining": False, "drained": True}
    assert isinstance(cluster.step(drain), Done)
    assert drain.turns[0].cut_off is None, "nobody knows it"
    again = course(cluster, named=True, wanted=Wanted.OUT, nodes="w1")
    assert isinstance(cluster.step(again), Done) and again.skipped == [("w1", "it is drained")]


def test_a_worker_that_crashed_before_it_heard_of_its_drain_is_asked_again_in_its_next_life():
    cluster = Cluster()
    drain = course(cluster, named=True, wanted=Wanted.OUT, nodes="w1")
    cluster.step(drain)
    cluster.replace("w1")
    assert cluster.step(drain, ASK_AGAIN_AFTER) == Ask("w1", 111, again=False, is_broker=False)


def test_a_drain_says_how_many_running_tasks_it_has_ended():
    cluster = Cluster()
    drain = course(cluster, named=True, wanted=Wanted.OUT, nodes="w1")
    cluster.step(drain)
    cluster.workers["w1"].update(pid=None, drained=True, cut_off=2)
    assert isinstance(cluster.step(drain), Done)
    assert [(turn.node, turn.cut_off) for turn in drain.turns] == [("w1", 2)]
