"""Fault plans break what they say, spare a majority, and end."""

import pytest

from actors.runtime.ports import MILLISECOND, SECOND, Ports
from actors.simulation import NO_FAULTS, FaultMix, FaultPlan, History, Outcome, Process, Rate, World
from actors.simulation.fault_mix import KINDS

NAMES = ("b1", "b2", "b3", "b4", "b5")


def start(ports: Ports) -> None:
    """Writes and syncs now and then, and knows its neighbours."""
    file = ports.files.open("log", create=True)
    address = f"of {ports.entropy.bits(64)}"
    ports.network.listen(address, on_message=lambda *_: None, on_garbage=lambda _: None)

    def tick() -> None:
        try:
            file.pwrite([b"0123456789"], file.size())
            file.sync()
        except OSError as error:
            raise SystemExit(1) from error
        ports.clock.call_at(ports.clock.now() + 50 * MILLISECOND, tick)

    tick()


def plan_of(seed: int, mix: FaultMix, **options: int) -> tuple[World, FaultPlan, list[Process]]:
    world = World(seed)
    members = [world.process(name, start) for name in NAMES]
    world.run_for(SECOND)
    others = [world.process("w", start)]
    return world, FaultPlan(world, mix, members=members, others=others, **options), members


def only(kind: str, rate: Rate) -> FaultMix:
    return FaultMix(**{name: rate if name == kind else Rate() for name in KINDS})


def in_majority(process: Process, members: list[Process]) -> bool:
    """It works, and has both ways to enough others that work."""
    fabric = process.world.network.fabric
    one, works = process.machine.name, process.alive and not process.paused
    reached = [
        other
        for other in members
        if other.alive and not other.paused
        and not fabric.path(one, other.machine.name).cuts and not fabric.path(other.machine.name, one).cuts
    ]
    return works and 2 * len(reached) > len(members)


@pytest.mark.parametrize("seed", range(4))
def test_a_majority_of_the_members_is_well_at_all_times(seed):
    often = Rate(4 * SECOND, 100 * MILLISECOND, 5 * SECOND)
    mix = FaultMix(crash=often, pause=often, partition=often, isolate=often, one_way=often, power_loss=often)
    world, plan, members = plan_of(seed, mix)
    fewest = len(members)

    def look() -> None:
        nonlocal fewest
        fewest = min(fewest, sum(in_majority(process, members) for process in members))

    world.every(10 * MILLISECOND, look)
    plan.start(60 * SECOND)
    world.run_for(60 * SECOND)
    assert fewest == 3
    assert sum(plan.counts.values()) > 30


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("link_break", "sync_error")])
def test_each_kind_takes_place_and_leaves_a_whole_world(kind):
    world, plan, members = plan_of(3, only(kind, Rate(3 * SECOND, 100 * MILLISECOND, 2 * SECOND, at_least=3)))
    plan.start(30 * SECOND)
    world.run_for(31 * SECOND)
    assert plan.counts[kind] >= 3
    assert sum(plan.counts.values()) == plan.counts[kind]
    assert all(process.alive and not process.paused for process in (*members, world.processes["w"]))
    for machine in world.machines.values():
        assert machine.powered
        assert machine.disk_slowness == 1
        assert not machine.disk.full
        for other in world.machines:
            path = world.network.fabric.path(machine.name, other)
            assert (path.cuts, path.extra_ns, path.loss_ppm) == (0, 0, 0)


def test_heal_ends_everything_at_once_and_what_was_to_come():
    world, plan, members = plan_of(1, FaultMix(crash=Rate(SECOND, 60 * SECOND, 90 * SECOND)))
    plan.start(60 * SECOND)
    world.run_for(10 * SECOND)
    assert not all(process.alive for process in members)
    plan.heal()
    counts = dict(plan.counts)
    world.run_for(SECOND)
    assert all(process.alive for process in members)
    world.run_for(60 * SECOND)
    assert plan.counts == counts


def test_synced_data_is_damaged_on_a_minority_only():
    world, plan, members = plan_of(2, only("flipped_bit", Rate(SECOND, 0, 100 * MILLISECOND)))
    plan.start(60 * SECOND)
    world.run_for(61 * SECOND)
    assert plan.counts["flipped_bit"] > 20
    assert sum(process.machine.disk.faults.get("flipped_bit", 0) > 0 for process in members) == 2
    flips = sum(machine.disk.faults.get("flipped_bit", 0) for machine in world.machines.values())
    assert plan.counts["flipped_bit"] == flips


def test_a_torn_write_counts_only_if_the_power_failed():
    world, plan, _ = plan_of(1, only("torn_write", Rate(0, SECOND, SECOND, at_least=5)))
    plan.start(60 * SECOND)
    world.run_for(61 * SECOND)
    crashes = sum(machine.disk.faults.get("crash", 0) for machine in world.machines.values())
    assert 0 < plan.counts["torn_write"] == crashes <= 5


def test_all_members_may_be_down_when_the_scenario_allows_it():
    world, plan, members = plan_of(1, only("crash", Rate(SECOND, 5 * SECOND, 20 * SECOND)), down_max=5)
    plan.start(60 * SECOND)
    assert world.run_until(lambda: not any(process.alive for process in members), 60 * SECOND)


def test_one_rate_does_not_move_the_times_of_other_kinds():
    def crashes(mix: FaultMix) -> list[int]:
        world, plan, members = plan_of(1, mix, down_max=5)
        seen: list[int] = []
        for process in members:
            process.on_exit.append(lambda _: seen.append(world.now))
        plan.start(30 * SECOND)
        world.run_for(20 * SECOND)
        return seen

    rate = Rate(5 * SECOND, SECOND, SECOND)
    alone = crashes(only("crash", rate))
    assert len(alone) >= 2
    mixed = {name: rate if name in ("crash", "clock_jump", "slow_link") else Rate() for name in KINDS}
    assert crashes(FaultMix(**mixed)) == alone


def test_no_faults_means_none():
    world, plan, _ = plan_of(1, NO_FAULTS)
    plan.start(60 * SECOND)
    world.run_for(60 * SECOND)
    assert set(plan.counts.values()) == {0}


def test_history_keeps_operations_with_their_outcomes_and_times():
    world = World(1)
    history = History(lambda: world.now)
    first, second, third = (history.invoke("c1", "submit", number) for number in range(3))
    world.run_for(SECOND)
    history.ok(first, "answer")
    history.refused(second, "overloaded")
    world.run_for(SECOND)
    assert history.abandon("c1") == 1
    assert history.abandon("c2") == 0
    history.observe("w1", "ran", 7)
    assert history.counts() == {("submit", "ok"): 1, ("submit", "refused"): 1, ("submit", "unknown"): 1}
    assert [operation.number for operation in history.of("submit", Outcome.OK)] == [0]
    assert (first.invoked_at, first.ended_at, first.value) == (0, SECOND, "answer")
    assert (third.outcome, third.ended_at) == (Outcome.UNKNOWN, 2 * SECOND)
    assert [(one.at, one.value) for one in history.observed("ran")] == [(2 * SECOND, 7)]
    assert history.longest_gap("submit", 0, 5 * SECOND) == 4 * SECOND
    with pytest.raises(AssertionError, match="ends twice"):
        history.ok(first)
