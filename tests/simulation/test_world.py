"""Time, turns and asyncio in simulated processes."""

import asyncio
import contextvars

import pytest

from actors import Actor, ActorSystem
from actors.runtime.ports import MILLISECOND, SECOND, Exit, Ports
from actors.simulation import ProcessError, World, WorldLimits
from actors.simulation.loop import TURN_NS

EXACT = WorldLimits(boot_ns_max=1, drift_ppm_max=0, wall_offset_ms_max=0, start_ns_max=1)


def ports_of(world: World, name: str = "p") -> Ports:
    """The ports of a process that does nothing by itself; its calls are made from outside."""
    process = world.process(name, lambda ports: None)
    assert world.run_until(lambda: process.alive, SECOND)
    world.run_for(MILLISECOND)
    assert process.ports is not None
    return process.ports


def test_timers_run_in_the_order_of_their_times():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    seen = []
    for wait in (30, 10, 20):
        clock.call_at(clock.now() + wait * MILLISECOND, lambda wait=wait: seen.append(wait))
    world.run_for(15 * MILLISECOND)
    assert seen == [10]
    world.run_for(SECOND)
    assert seen == [10, 20, 30]


def test_timers_of_equal_times_run_in_the_order_in_which_they_were_set():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    seen = []
    when = clock.now() + MILLISECOND
    for number in range(20):
        clock.call_at(when, lambda number=number: seen.append(number))
    world.run_for(SECOND)
    assert seen == list(range(20))


def test_a_timer_never_runs_before_its_local_time_whatever_the_drift():
    world = World(5, limits=WorldLimits(drift_ppm_max=500_000))
    for number in range(5):
        clock = ports_of(world, f"p{number}").clock
        late = []
        for wait in range(1, 200, 7):
            when = clock.now() + wait
            clock.call_at(when, lambda when=when, clock=clock, late=late: late.append(clock.now() - when))
        world.run_for(MILLISECOND)
        assert len(late) == 29
        assert all(0 <= by <= MILLISECOND for by in late)


def test_a_cancelled_timer_does_not_run_and_is_swept_from_the_queue():
    world = World(1)
    clock = ports_of(world).clock
    seen = []
    for _ in range(5_000):
        clock.call_at(clock.now() + 3_600 * SECOND, lambda: seen.append("late")).cancel()
    assert len(world.queue.heap) < 2_500
    world.run_for(2 * 3_600 * SECOND)
    assert seen == []


def test_machines_disagree_about_the_time_by_what_the_limits_allow():
    world = World(3)
    one, other = ports_of(world, "one").clock, ports_of(world, "other").clock
    assert one.now() != other.now()
    assert abs(one.wall_ms() - other.wall_ms()) <= 2 * WorldLimits().wall_offset_ms_max + 1
    world.machines["one"].jump_wall_clock(60_000)
    before = one.now()
    assert one.wall_ms() - other.wall_ms() > 59_000
    assert one.now() == before


def test_call_soon_runs_in_this_turn_when_a_message_asked_and_in_the_next_when_a_callback_did():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    loop = world.processes["p"].loop
    assert loop is not None
    seen = []

    def message(_: object) -> None:
        clock.call_soon(first)

    def first() -> None:
        seen.append(("first", world.now))
        clock.call_soon(second)

    def second() -> None:
        seen.append(("second", world.now))

    world.after(0, lambda: loop.deliver(message, None))
    began = world.now
    world.run_for(SECOND)
    assert seen == [("first", began), ("second", began + TURN_NS)]


def test_charged_work_delays_the_rest_of_the_turn_and_the_next_turn():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    loop = world.processes["p"].loop
    assert loop is not None
    seen = []

    def work() -> None:
        began = clock.now()
        loop.charge(5 * MILLISECOND)
        seen.append(clock.now() - began)
        clock.call_soon(lambda: seen.append(clock.now() - began))

    clock.call_soon(work)
    world.run_for(SECOND)
    assert seen == [5 * MILLISECOND, 5 * MILLISECOND + TURN_NS]


def test_the_agenda_says_what_is_to_come_and_whose_timers_are_set():
    class Keeper(Actor):
        def started(self) -> None:
            self.context.timer("late", 30 * SECOND, lambda: None)
            self.context.timer("never", SECOND, lambda: None)
            self.context.cancel_timer("never")

    world = World(1, limits=EXACT)
    ports = ports_of(world)
    keeper = Keeper()
    ActorSystem(ports).spawn(keeper, name="keeper")
    world.run_for(MILLISECOND)
    began = world.now
    seen: list[int] = []
    ports.clock.call_at(began + 10 * SECOND, lambda: seen.append(1))
    ports.clock.call_at(began + 20 * SECOND, lambda: seen.append(2)).cancel()
    assert world.processes["p"].loop is not None
    world.processes["p"].loop.call_later(40, seen.append, 3)
    coming = sorted(world.agenda(), key=lambda coming: coming.when)
    assert all(one.is_timer for one in coming)
    assert [(one.owner, one.key) for one in coming] == [(None, None), (keeper, "late"), (seen, None)]
    assert [(one.when - began) // SECOND for one in coming] == [10, 29, 40]
    ports.network.dial("nobody", b"i" * 16, on_message=print, on_up=print, on_down=print)
    assert len(list(world.agenda())) == 3, "a call to nobody comes to nothing"
    ports.network.listen("nobody", on_message=print, on_garbage=print)
    assert [one.is_timer for one in world.agenda()].count(False) == 1


def test_what_comes_due_while_all_machines_sleep_is_due_once_when_they_wake():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    began = world.now
    seen: list[tuple[str, int]] = []

    def again() -> None:
        seen.append(("again", clock.now() - began))
        clock.call_at(clock.now() + SECOND, again)

    clock.call_at(began + 5 * SECOND, lambda: seen.append(("once", clock.now() - began)))
    clock.call_at(began + 61 * SECOND, lambda: seen.append(("later", clock.now() - began)))
    clock.call_at(began + SECOND, again)
    world.sleep(began + 60 * SECOND)
    assert world.now == began + 60 * SECOND and seen == []
    world.run_for(2 * SECOND)
    assert [(what, when // SECOND) for what, when in seen] == [
        ("again", 60), ("once", 60), ("later", 61), ("again", 61),
    ]  # fmt: skip


def test_a_job_for_a_thread_is_done_at_once_where_no_loop_runs():
    async def main(ports: Ports) -> None:
        began = ports.clock.now()
        assert await asyncio.to_thread(lambda: asyncio.run(asyncio.sleep(0, "ran"))) == "ran"
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        assert ports.clock.now() - began < MILLISECOND

    world = World(1)
    process = world.process("p", main)
    world.run_for(SECOND)
    assert process.value is not None and process.value.exception() is None


def test_coroutines_futures_gather_wait_events_and_task_groups_work_in_virtual_time():
    world = World(1)
    result = []

    async def slow(value: int) -> int:
        await asyncio.sleep(value)
        return value

    async def main(ports: Ports) -> None:
        loop = asyncio.get_running_loop()
        began = ports.clock.now()
        result.append(await asyncio.gather(slow(3), slow(1), slow(2)))
        done, pending = await asyncio.wait([loop.create_task(slow(5)), loop.create_task(slow(1))], timeout=2)
        result.append((len(done), len(pending)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow(9), 0.5)
        event = asyncio.Event()
        loop.call_later(4, event.set)
        await event.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(slow(1))
            group.create_task(slow(2))
        future = loop.create_future()
        ports.clock.call_at(ports.clock.now() + SECOND, lambda: future.set_result("set"))
        result.append(await future)
        result.append(round((ports.clock.now() - began) / SECOND, 2))

    process = world.process("p", main)
    exits: list[Exit] = []
    process.on_exit.append(exits.append)
    world.run_for(60 * SECOND)
    assert result == [[3, 1, 2], (1, 1), "set", 12.5]
    assert exits == [Exit(0, None)]
    assert not process.alive


def test_a_set_of_futures_is_walked_in_the_order_of_their_making():
    world = World(1)
    order = []

    async def main(ports: Ports) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(asyncio.sleep(1, number)) for number in range(100)]
        done, _ = await asyncio.wait(tasks)
        order.extend(task.result() for task in done)

    world.process("p", main)
    world.run_for(2 * SECOND)
    assert order == sorted(order)
    assert len(order) == 100


def test_each_process_has_its_own_running_loop_and_context_variables():
    world = World(1)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen = {}

    def start(ports: Ports) -> None:
        def look(name: str) -> None:
            seen[name] = (asyncio.get_running_loop(), variable.get())

        loop = asyncio.get_running_loop()
        name = "p" if not seen else "q"
        if name == "p":
            variable.set("of p")
        look(name)
        ports.clock.call_at(ports.clock.now() + SECOND, lambda: look(name + " later"))
        assert loop.is_running()

    world.process("p", start)
    world.run_for(SECOND // 2)
    world.process("q", start)
    world.run_for(3 * SECOND)
    assert seen["p"][0] is seen["p later"][0] is not seen["q"][0]
    assert [seen[name][1] for name in ("p", "p later", "q", "q later")] == ["of p", "of p", "unset", "unset"]
    assert variable.get() == "unset"
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_an_exception_that_reaches_the_loop_ends_the_run_with_the_name_of_the_process():
    world = World(1)

    def start(ports: Ports) -> None:
        ports.clock.call_at(ports.clock.now() + SECOND, lambda: 1 // 0)

    world.process("broken", start)
    with pytest.raises(ProcessError, match=r"broken failed at 1.*ZeroDivisionError") as caught:
        world.run_for(5 * SECOND)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_failures_are_only_kept_when_the_scenario_says_so():
    world = World(1)
    world.raise_failures = False

    async def main(ports: Ports) -> None:
        raise LookupError("nothing there")

    world.process("broken", main)
    world.run_for(SECOND)
    assert [str(failure.__cause__) for failure in world.failures] == ["nothing there"]


def test_system_exit_ends_the_process_with_its_code():
    world = World(1)
    exits: list[Exit] = []

    async def main(ports: Ports) -> None:
        await asyncio.sleep(1)
        raise SystemExit(3)

    world.process("p", main).on_exit.append(exits.append)
    world.run_for(2 * SECOND)
    assert exits == [Exit(3, None)]


def test_run_until_stops_at_the_event_that_makes_it_true():
    world = World(1, limits=EXACT)
    clock = ports_of(world).clock
    seen = []
    for wait in range(1, 11):
        clock.call_at(clock.now() + wait * SECOND, lambda: seen.append(1))
    began = world.now
    assert world.run_until(lambda: len(seen) == 4, 60 * SECOND)
    assert world.now == began + 4 * SECOND
    assert not world.run_until(lambda: len(seen) == 400, 60 * SECOND)
    assert world.now == began + 64 * SECOND


def test_log_events_reach_the_world_with_time_and_process():
    world = World(1)
    ports = ports_of(world)
    heard = []
    world.on_log.append(lambda process, name, fields: heard.append((process, name, fields)))
    ports.log.event("peer.lost", peer="b2", after_ms=5)
    assert heard == [("p", "peer.lost", {"peer": "b2", "after_ms": 5})]
    assert world.log[-1] == (world.now, "p", "peer.lost", {"peer": "b2", "after_ms": 5})
