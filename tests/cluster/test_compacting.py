"""A broker's side of compaction: when a compactor is started, what is believed of what it says, and how it ends.

The compactors here are scripts that speak production's frames; the owner is an actor in virtual time.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors import MILLISECOND, SECOND, Actor, ActorSystem, Ports
from actors.simulation import ChildPort, World
from cluster.compaction.compactor import ENTRY
from cluster.compaction.messages import NotWritten, Plan, StillAtWork, Written, encode, plan_decoder
from cluster.compaction.policy import CompactionLimits, Pressure
from cluster.peer.compacting import Compacting
from cluster.storage.snapshots import SnapshotMeta

LIMITS = CompactionLimits(
    log_bytes_min=1_000, silence_max=10 * SECOND, retry_min=2 * SECOND, retry_max=12 * SECOND, stagger_ppm_max=0
)
LOOK = SECOND // 10
LONG = 1_001                # bytes of log that are enough

Script = Callable[[ChildPort, Plan], Coroutine[Any, Any, None]]


async def writes(port: ChildPort, plan: Plan) -> None:
    await port.work(SECOND)
    port.send(encode(StillAtWork(1)))
    await port.work(SECOND)
    port.send(encode(Written(plan.meta.index, 77)))


async def dies(port: ChildPort, plan: Plan) -> None:
    raise MemoryError("no room")


async def is_silent(port: ChildPort, plan: Plan) -> None:
    await port.work(3_600 * SECOND)


async def talks_nonsense(port: ChildPort, plan: Plan) -> None:
    port.send(b"\xc1")
    port.send(encode(Written(plan.meta.index, 77)))


async def names_another_index(port: ChildPort, plan: Plan) -> None:
    port.send(encode(Written(plan.meta.index + 1, 77)))


async def finds_another_state(port: ChildPort, plan: Plan) -> None:
    port.send(encode(NotWritten("OtherState: replay came to another digest")))


async def finds_its_base_damaged(port: ChildPort, plan: Plan) -> None:
    port.send(encode(NotWritten("BaseDamaged: a bit", is_base_damaged=True)))


async def says_it_wrote_after_all(port: ChildPort, plan: Plan) -> None:
    port.send(encode(NotWritten("no")))
    port.send(encode(Written(plan.meta.index, 77)))


class Owner(Actor):
    """Looks ten times a second. `index` is the entry that the next snapshot would be of."""

    def __init__(self, rig: "Rig") -> None:
        self.rig = rig

    def started(self) -> None:
        rig = self.rig
        self.compacting = Compacting(self.context, rig.limits, rig.plan, rig.adopt, rig.set_aside)
        self.look()

    def look(self) -> None:
        self.context.timer("look", LOOK, self.look)
        rig = self.rig
        self.compacting.look(
            rig.log_bytes,
            rig.snapshot_bytes,
            rig.stagger_ppm,
            waits=rig.waits,
            would_make_room=rig.would_make_room,
        )


class Rig:
    def __init__(self, world: World, limits: CompactionLimits = LIMITS) -> None:
        self.world = world
        self.limits = limits
        self.script: Script = writes
        self.log_bytes = self.snapshot_bytes = self.stagger_ppm = 0
        self.waits = self.would_make_room = False
        self.has_plan = True
        self.refusal = ""               # of what it wrote, by its owner
        self.plans: list[Plan] = []
        self.adopted: list[Written] = []
        self.damaged: list[int] = []
        world.register_entry(ENTRY, self.body)
        self.owner = Owner(self)

        async def live(ports: Ports) -> None:
            system = ActorSystem(ports)
            system.spawn(self.owner)
            await system.wait_stopped()

        self.process = world.process("b1", live)

    async def body(self, port: ChildPort, argument: bytes) -> None:
        frame = await port.receive()
        assert frame is not None
        await self.script(port, plan_decoder.decode(frame))

    def plan(self, nice: int) -> Plan | None:
        if not self.has_plan:
            return None
        index = 100 + len(self.plans)
        plan = Plan("data", 7, [], SnapshotMeta(index, 1, 1, 0, 0, b"id", ("b1",)), nice)
        self.plans.append(plan)
        return plan

    def adopt(self, written: Written) -> str:
        if not self.refusal:
            self.adopted.append(written)
            self.log_bytes = 0
        return self.refusal

    def set_aside(self, index: int, reason: str) -> None:
        self.damaged.append(index)

    def events(self, name: str) -> list[dict[str, object]]:
        return [fields for _, _, event, fields in self.world.log if event == name]

    @property
    def pauses(self) -> list[object]:
        return [event["again_after_ms"] for event in self.events("compaction_failed")]

    @property
    def pressure(self) -> Pressure:
        return self.owner.compacting.pressure

    def stop(self) -> None:
        assert self.process.loop is not None
        self.process.loop.deliver(lambda _: self.owner.compacting.stop(), None)


@pytest.fixture
def rig():
    with World(1) as world:
        yield Rig(world)


# -- when -----------------------------------------------------------------------------------------------------------


def test_nothing_is_started_before_the_log_is_long_enough(rig):
    rig.log_bytes = LONG - 1
    rig.world.run_for(60 * SECOND)
    assert rig.plans == []
    rig.log_bytes = LONG
    rig.world.run_for(5 * SECOND)
    assert len(rig.plans) == 1


def test_a_large_state_wants_a_longer_log(rig):
    rig.snapshot_bytes = 5_000
    rig.log_bytes = 10_000
    rig.world.run_for(5 * SECOND)
    assert rig.plans == []
    rig.log_bytes += 1
    rig.world.run_for(5 * SECOND)
    assert len(rig.plans) == 1


def test_one_runs_at_a_time_and_its_snapshot_is_adopted_once(rig):
    rig.log_bytes = LONG
    rig.world.run_for(5 * SECOND)
    assert rig.adopted == [Written(100, 77)]
    assert len(rig.plans) == 1
    (event,) = rig.events("snapshot_written")
    assert (event["index"], event["size"]) == (100, 77)
    assert 2_000 <= event["took_ms"] < 3_000


def test_without_a_plan_it_asks_again(rig):
    rig.has_plan, rig.log_bytes = False, LONG
    rig.world.run_for(5 * SECOND)
    rig.has_plan = True
    rig.world.run_for(5 * SECOND)
    assert len(rig.adopted) == 1
    assert rig.pauses == []


def test_a_place_in_line_is_so_much_more_log(rig):
    rig.log_bytes, rig.stagger_ppm = 1_250, 250_000
    rig.world.run_for(5 * SECOND)
    assert rig.plans == []
    rig.log_bytes += 1
    rig.world.run_for(5 * SECOND)
    assert len(rig.plans) == 1


def test_it_begins_nothing_while_it_waits_and_knows_its_pressure_all_the_same(rig):
    rig.log_bytes, rig.waits = 8 * LONG, True
    rig.world.run_for(5 * SECOND)
    assert rig.plans == []
    assert rig.pressure is Pressure.CLOSED
    rig.waits = False
    rig.world.run_for(LOOK * 2)
    assert len(rig.plans) == 1


def test_one_that_has_begun_goes_on_whoever_else_begins(rig):
    rig.log_bytes = LONG
    rig.world.run_for(LOOK * 2)
    rig.waits = True
    rig.world.run_for(5 * SECOND)
    assert len(rig.adopted) == 1


def test_one_that_is_late_gives_way_to_nobody_and_later_still_submits_wait(rig):
    rig.log_bytes = 4 * LONG
    rig.world.run_for(LOOK * 2)
    assert (rig.pressure, rig.plans[-1].nice) == (Pressure.URGENT, 0)
    rig.log_bytes = 8 * LONG
    rig.world.run_for(LOOK * 2)
    assert rig.pressure is Pressure.CLOSED
    rig.world.run_for(5 * SECOND)
    assert rig.adopted
    assert rig.pressure is Pressure.NONE


def test_one_that_is_in_time_gives_way_to_others(rig):
    rig.log_bytes = LONG
    rig.world.run_for(LOOK * 2)
    assert (rig.pressure, rig.plans[-1].nice) == (Pressure.DUE, LIMITS.nice)


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (dies, "MemoryError: no room"),
        (talks_nonsense, "no compactor says"),
        (names_another_index, "it wrote snapshot 101"),
        (finds_another_state, "OtherState"),
        (says_it_wrote_after_all, "no"),
    ],
)
def test_one_that_fails_is_not_believed_and_the_pause_before_the_next_doubles(rig, script, reason):
    rig.script, rig.log_bytes = script, LONG
    rig.world.run_for(40 * SECOND)
    assert rig.adopted == []
    assert rig.pauses[:4] == [2_000, 4_000, 8_000, 12_000]
    assert reason in str(rig.events("compaction_failed")[0]["reason"])
    assert len({plan.meta.index for plan in rig.plans}) == len(rig.plans), "each attempt has a plan of its own"


def test_one_that_is_killed_is_followed_by_another_after_a_pause(rig):
    rig.log_bytes = LONG
    rig.world.run_for(SECOND)
    (child,) = rig.process.machine.children
    child.take_signal(9)
    rig.world.run_for(SECOND)
    assert rig.pauses == [2_000]
    assert "signal 9" in str(rig.events("compaction_failed")[0]["reason"])
    rig.world.run_for(10 * SECOND)
    assert rig.adopted == [Written(101, 77)]


def test_after_a_success_the_pause_is_short_again(rig):
    rig.script, rig.log_bytes = dies, LONG
    rig.world.run_for(5 * SECOND)
    rig.script = writes
    rig.world.run_for(10 * SECOND)
    assert len(rig.adopted) == 1
    rig.script, rig.log_bytes = dies, LONG
    rig.world.run_for(SECOND)
    assert rig.pauses == [2_000, 4_000, 2_000]


def test_one_that_says_nothing_for_too_long_is_killed(rig):
    rig.script, rig.log_bytes = is_silent, LONG
    rig.world.run_for(11 * SECOND)
    assert not rig.process.machine.children
    assert rig.pauses == [2_000]
    assert "silent" in str(rig.events("compaction_failed")[0]["reason"])


def test_one_that_says_something_now_and_then_may_take_its_time(rig):
    async def is_slow(port: ChildPort, plan: Plan) -> None:
        for _ in range(10):
            await port.work(9 * SECOND)
            port.send(encode(StillAtWork(1)))
        port.send(encode(Written(plan.meta.index, 77)))

    rig.script, rig.log_bytes = is_slow, LONG
    rig.world.run_for(100 * SECOND)
    assert rig.adopted == [Written(100, 77)]


def test_a_snapshot_that_its_owner_does_not_take_is_a_failure(rig):
    rig.refusal, rig.log_bytes = "the file is not the one that was planned", LONG
    rig.world.run_for(4 * SECOND)
    assert rig.events("snapshot_written") == []
    assert rig.events("compaction_failed")[0]["reason"] == rig.refusal


def test_the_owner_hears_that_the_snapshot_to_begin_with_is_damaged(rig):
    rig.script, rig.log_bytes = finds_its_base_damaged, LONG
    rig.world.run_for(SECOND)
    assert rig.damaged == [7]
    assert len(rig.events("compaction_failed")) == 1


def test_one_that_was_stopped_is_not_heard_any_more(rig):
    """Not even if it has just finished: what it says then was on its way."""
    rig.log_bytes = LONG
    rig.world.run_for(SECOND)
    rig.stop()
    rig.log_bytes = 0
    rig.world.run_for(20 * SECOND)
    assert rig.adopted == []
    assert rig.pauses == []
    assert not rig.process.machine.children


def test_news_of_a_stopped_one_is_not_taken_for_the_next_ones(rig):
    async def writes_at_once(port: ChildPort, plan: Plan) -> None:
        port.send(encode(Written(plan.meta.index, len(rig.plans))))
        await port.work(MILLISECOND)

    rig.script, rig.log_bytes = writes_at_once, LONG
    while not rig.process.machine.children:
        rig.world.run_for(MILLISECOND)
    rig.stop()
    rig.world.run_for(5 * SECOND)
    assert rig.adopted == [Written(101, 2)]


def test_a_compactor_ends_with_its_broker(rig):
    rig.script, rig.log_bytes = is_silent, LONG
    rig.world.run_for(SECOND)
    assert rig.process.machine.children
    rig.world.crash(rig.process)
    rig.world.run_for(2 * SECOND)
    assert not rig.process.machine.children
