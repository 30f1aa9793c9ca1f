"""Children of simulated processes: frames, signals, the shared page, and the end of either side."""

import asyncio
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1

from actors.runtime.ports import MILLISECOND, SECOND, Child, Exit, Ports
from actors.simulation import ChildLimits, ChildPort, World

CAREFUL = ChildLimits(lock_left_held_ppm=0)
CARELESS = ChildLimits(lock_left_held_ppm=1_000_000)


class Parent:
    """Has one child and keeps what it hears of it."""

    def __init__(self, ports: Ports, entry: str = "echo") -> None:
        self.frames: list[bytes] = []
        self.exits: list[Exit] = []
        self.child: Child = ports.processes.spawn(
            entry, b"argument", page_bytes=64, on_frame=self.frames.append, on_exit=self.exits.append
        )


async def echo(port: ChildPort, argument: bytes) -> None:
    port.send(b"ready " + argument)
    while (frame := await port.receive()) is not None:
        await port.work(10 * MILLISECOND)
        port.send(frame)


def family(body: object = echo, limits: ChildLimits = CAREFUL) -> tuple[World, Parent]:
    world = World(1, children=limits)
    world.register_entry("echo", body)      # type: ignore[arg-type]
    process = world.process("parent", Parent)
    world.run_for(SECOND)
    return world, process.value


def test_frames_go_both_ways_in_order_and_the_argument_comes_first():
    world, parent = family()
    for number in range(20):
        parent.child.send(b"%d" % number)
    world.run_for(SECOND)
    assert parent.frames == [b"ready argument"] + [b"%d" % number for number in range(20)]


def test_a_child_whose_pipe_is_closed_takes_what_is_there_and_ends_with_0():
    world, parent = family()
    parent.child.send(b"last")
    parent.child.close()
    world.run_for(SECOND)
    assert parent.frames == [b"ready argument", b"last"]
    assert parent.exits == [Exit(0, None)]
    parent.child.send(b"swallowed")
    parent.child.signal(SIGKILL)
    world.run_for(SECOND)
    assert parent.exits == [Exit(0, None)]


def test_a_killed_child_is_heard_of_after_all_that_it_had_sent():
    async def chatty(port: ChildPort, argument: bytes) -> None:
        for number in range(1_000):
            port.send(b"%d" % number)
            await port.work(MILLISECOND)

    for seed in range(10):
        world = World(seed)
        world.register_entry("echo", chatty)
        order: list[object] = []

        def start(ports: Ports, order: list[object] = order) -> None:
            child = ports.processes.spawn(
                "echo",
                b"",
                page_bytes=8,
                on_frame=order.append,
                on_exit=lambda exit: order.append(exit.signal),
            )
            ports.clock.call_at(ports.clock.now() + SECOND // 2, lambda: child.signal(SIGKILL))

        world.process("parent", start)
        world.run_for(3 * SECOND)
        assert order == [b"%d" % number for number in range(len(order) - 1)] + [9]
        assert 300 < len(order) < 600


def test_a_stopped_child_does_nothing_until_it_is_continued():
    world, parent = family()
    parent.child.signal(SIGSTOP)
    world.run_for(MILLISECOND)
    parent.child.send(b"later")
    world.run_for(5 * SECOND)
    assert parent.frames == [b"ready argument"]
    parent.child.signal(SIGCONT)
    world.run_for(SECOND)
    assert parent.frames == [b"ready argument", b"later"]


def test_sigterm_ends_a_child_unless_it_listens_for_it_and_waits_while_it_is_stopped():
    world, parent = family()
    parent.child.signal(SIGSTOP)
    parent.child.signal(SIGTERM)
    world.run_for(SECOND)
    assert parent.exits == []
    parent.child.signal(SIGCONT)
    world.run_for(SECOND)
    assert parent.exits == [Exit(None, SIGTERM)]

    def polite(port: ChildPort, argument: bytes) -> None:
        port.on_signal = lambda number: port.send(b"signal %d" % number)

    world, parent = family(polite)
    parent.child.signal(SIGTERM)
    world.run_for(SECOND)
    assert parent.frames == [b"signal 15"]
    assert parent.exits == []


def test_a_signal_that_a_child_leaves_to_the_kernel_ends_it_and_what_waits_for_its_death_is_called():
    heard: list[object] = []

    def choosy(port: ChildPort, argument: bytes) -> None:
        port.on_signal = lambda number: number != SIGTERM
        port.at_death(lambda: heard.append("dead"))

    world, parent = family(choosy)
    parent.child.signal(SIGUSR1)
    world.run_for(SECOND)
    assert parent.exits == [] and heard == []
    parent.child.signal(SIGTERM)
    world.run_for(SECOND)
    assert parent.exits == [Exit(None, SIGTERM)] and heard == ["dead"]


def test_code_that_blocks_a_child_finds_no_loop_there():
    async def blocks(port: ChildPort, argument: bytes) -> None:
        assert asyncio.get_running_loop() is not None
        port.send(port.call(lambda: asyncio.run(answer())))

    async def answer() -> bytes:
        return b"from a loop of its own"

    _, parent = family(blocks)
    assert parent.frames == [b"from a loop of its own"]


def test_a_child_that_raises_exits_with_1_and_its_traceback_and_one_that_exits_with_its_code():
    async def broken(port: ChildPort, argument: bytes) -> None:
        port.write_error(b"x" * 10_000)
        raise LookupError("no such luck")

    _, parent = family(broken)
    assert parent.exits[0].code == 1
    assert parent.exits[0].stderr.endswith(b"LookupError: no such luck\n")
    assert len(parent.exits[0].stderr) == 4_096

    def quits(port: ChildPort, argument: bytes) -> None:
        raise SystemExit(7)

    _, parent = family(quits)
    assert parent.exits == [Exit(7, None)]


def test_an_entry_that_nobody_registered_is_a_child_that_fails():
    world = World(1)
    process = world.process("parent", Parent)
    world.run_for(SECOND)
    assert process.value.exits[0].code == 1
    assert b"'echo'" in process.value.exits[0].stderr


def test_the_page_is_shared_and_its_lock_excludes():
    async def writes(port: ChildPort, argument: bytes) -> None:
        assert port.page.acquire(0)
        port.page.view[0] = 42
        await port.work(2 * SECOND)
        port.page.release()
        port.send(b"released")

    world, parent = family(writes)
    taken: list[bool] = []
    process = world.processes["parent"]
    assert process.ports is not None
    process.ports.clock.call_soon(lambda: taken.append(parent.child.page.acquire(MILLISECOND)))
    world.run_for(MILLISECOND)
    assert parent.child.page.view[0] == 42
    assert taken == [False]
    world.run_for(3 * SECOND)
    assert parent.frames == [b"released"]
    assert parent.child.page.acquire(MILLISECOND)


def test_a_killed_child_leaves_the_lock_held_and_the_page_as_it_was():
    async def holds(port: ChildPort, argument: bytes) -> None:
        assert port.page.acquire(0)
        port.page.view[1] = 7
        await port.work(3_600 * SECOND)

    world, parent = family(holds)
    parent.child.signal(SIGKILL)
    world.run_for(SECOND)
    assert parent.exits == [Exit(None, SIGKILL)]
    assert not parent.child.page.acquire(MILLISECOND)
    assert parent.child.page.view[1] == 7


def test_a_kill_or_a_stop_may_hit_the_critical_section_that_turns_hide():
    world, parent = family(limits=CARELESS)
    parent.child.signal(SIGSTOP)
    world.run_for(SECOND)
    assert not parent.child.page.acquire(0)
    parent.child.signal(SIGCONT)
    world.run_for(SECOND)
    assert parent.child.page.acquire(0)
    parent.child.page.release()
    parent.child.signal(SIGKILL)
    world.run_for(SECOND)
    assert not parent.child.page.acquire(0)


def test_a_child_is_killed_in_the_midst_of_charged_work_and_what_follows_it_is_not_sent():
    async def busy(port: ChildPort, argument: bytes) -> None:
        port.send(b"before")
        port.charge(10 * SECOND)
        port.send(b"after")

    world, parent = family(busy)
    parent.child.signal(SIGKILL)
    world.run_for(30 * SECOND)
    assert parent.frames == [b"before"]
    assert parent.exits == [Exit(None, SIGKILL)]


def test_children_die_with_their_parent_and_send_nobody_anything():
    ticks: list[int] = []

    async def ticking(port: ChildPort, argument: bytes) -> None:
        while True:
            ticks.append(world.now)
            port.send(b"tick")
            await port.work(MILLISECOND)

    world = World(1)
    world.register_entry("echo", ticking)
    process = world.process("parent", Parent)
    world.run_for(SECOND)
    died = world.now
    world.crash(process)
    world.run_for(SECOND)
    assert died < ticks[-1] + MILLISECOND
    assert ticks[-1] < died + 6 * MILLISECOND
    assert not process.machine.children


def test_a_child_outlives_the_pause_of_its_parent_and_dies_at_once_without_power():
    world, parent = family()
    process = world.processes["parent"]
    parent.child.send(b"done while you slept")
    world.pause(process)
    world.run_for(5 * SECOND)
    assert parent.frames == [b"ready argument"]
    world.resume(process)
    world.run_for(SECOND)
    assert parent.frames[-1] == b"done while you slept"
    world.power_off(process.machine)
    assert not process.machine.children


def test_a_child_may_use_asyncio_of_its_own():
    async def gathers(port: ChildPort, argument: bytes) -> None:
        await asyncio.gather(asyncio.sleep(1), port.work(SECOND))
        port.send(b"%d" % (port.now() // SECOND > 0))

    world, parent = family(gathers)
    world.run_for(2 * SECOND)
    assert parent.frames == [b"1"]
    assert parent.exits == [Exit(0, None)]


def test_what_a_child_wrote_stays_when_it_is_killed_and_its_own_calls_end_with_it():
    async def writer(port: ChildPort, argument: bytes) -> None:
        port.files.make_dirs("data")
        file = port.files.open("data/file", create=True)
        for number in range(1_000):
            file.pwrite((b"%04d" % number,), 4 * number)
            await port.work(MILLISECOND)

    world, parent = family(writer)
    parent.child.signal(SIGKILL)
    world.run_for(SECOND)
    assert [exit.signal for exit in parent.exits] == [SIGKILL]
    written = next(iter(world.machines.values())).disk.read("data/file")
    assert 4 * 500 < len(written) < 4 * 1_000
    assert written == b"".join(b"%04d" % number for number in range(len(written) // 4))
