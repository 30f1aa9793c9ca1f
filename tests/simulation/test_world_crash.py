"""What a crash, a pause and a loss of power leave of a process."""

import asyncio

import pytest

from actors.runtime.ports import MILLISECOND, SECOND, Exit, Ports, Sent
from actors.simulation import Cut, Process, World


def ignore(*_: object) -> None:
    pass


def test_a_finally_block_of_a_crashed_process_reaches_neither_disk_nor_network_nor_log():
    world = World(1)
    heard = []

    def listen(ports: Ports) -> None:
        ports.network.listen("hub", on_message=lambda peer, data: heard.append(data), on_garbage=ignore)

    async def victim(ports: Ports) -> None:
        file = ports.files.open("journal", create=True)
        link = ports.network.dial("hub", b"v" * 16, on_message=ignore, on_up=ignore, on_down=ignore)
        await asyncio.sleep(1)
        try:
            link.send(b"alive")
            await asyncio.sleep(60)
        finally:
            ran.append(1)
            for effect in (
                lambda: file.pwrite([b"from the grave"], 0),
                lambda: link.send(b"from the grave"),
                lambda: ports.log.event("from.the.grave"),
                lambda: ports.network.listen("grave", on_message=ignore, on_garbage=ignore),
                lambda: ports.files.open("grave", create=True),
                lambda: ports.processes.spawn("grave", b"", page_bytes=1, on_frame=ignore, on_exit=ignore),
                lambda: asyncio.get_running_loop(),
            ):
                with pytest.raises((Cut, RuntimeError)):
                    effect()
                refused.append(1)
            ports.clock.call_soon(lambda: ran.append("later"))
            file.pwrite([b"unguarded"], 0)

    ran: list[object] = []
    refused: list[int] = []
    world.process("hub", listen)
    process = world.process("v", victim)
    world.run_for(2 * SECOND)
    assert heard == [b"alive"]
    world.crash(process)
    world.run_for(2 * SECOND)
    assert ran == [], "a killed process runs nothing, not even finally"
    world.crash(world.processes["hub"])
    digest = world.digest
    world.close()
    assert (ran, len(refused)) == ([1], 7)
    assert world.digest == digest
    assert heard == [b"alive"]
    assert world.machines["v"].disk.paths() == ["journal"]
    assert world.machines["v"].disk.read("journal") == b""
    assert len(world.log) == 0


def test_timers_messages_and_tasks_of_a_crashed_process_never_run():
    world = World(1)
    ran = []

    def start(ports: Ports) -> None:
        ports.clock.call_at(ports.clock.now() + SECOND, lambda: ran.append("timer"))
        ports.network.listen("p", on_message=lambda peer, data: ran.append("message"), on_garbage=ignore)
        asyncio.get_running_loop().call_later(1, ran.append, "asyncio")

    def dial(ports: Ports) -> None:
        ports.network.dial("p", b"q" * 16, on_message=ignore, on_up=ignore, on_down=ignore)

    process = world.process("p", start)
    world.process("q", dial)
    world.run_for(SECOND // 2)
    world.crash(process)
    world.run_for(5 * SECOND)
    assert ran == []


def test_a_process_may_be_crashed_in_the_midst_of_its_own_turn():
    world = World(1)
    ran = []

    def start(ports: Ports) -> None:
        def suicide() -> None:
            world.crash(process)
            ran.append("rest of the turn")
            ports.log.event("not.seen")
            ran.append("after the port")

        ports.clock.call_soon(suicide)
        ports.clock.call_soon(lambda: ran.append("next callback"))

    process = world.process("p", start)
    world.run_for(SECOND)
    assert ran == ["rest of the turn"]
    assert not process.alive


def test_a_restart_is_a_new_incarnation_with_the_same_disk_and_other_chance():
    world = World(1)
    draws = []

    def start(ports: Ports) -> str:
        file = ports.files.open("log", create=True)
        file.pwrite([b"x"], file.size())
        draws.append(ports.entropy.bits(64))
        return f"run {file.size()}"

    exits: list[Exit] = []
    process = world.process("p", start)
    process.on_exit.append(exits.append)
    world.run_for(SECOND)
    assert (process.incarnation, process.value) == (1, "run 1")
    world.restart(process, after=SECOND)
    assert not process.alive
    world.run_for(SECOND // 2)
    assert not process.alive
    world.run_for(SECOND)
    assert (process.incarnation, process.value) == (2, "run 2")
    assert len(set(draws)) == 2
    assert exits == [Exit(None, 9)]


def test_a_crash_releases_locks_and_addresses():
    world = World(1)

    def start(ports: Ports) -> None:
        ports.files.lock("lock")
        ports.network.listen("address", on_message=ignore, on_garbage=ignore)

    process = world.process("p", start)
    for _ in range(3):
        world.run_for(SECOND)
        world.restart(process)
    world.run_for(SECOND)
    assert process.incarnation == 4
    assert process.alive


def test_a_paused_process_is_not_stepped_and_catches_up_when_it_is_resumed():
    world = World(1)
    ran = []

    def start(ports: Ports) -> None:
        def tick() -> None:
            ran.append(world.now // SECOND)
            ports.clock.call_at(ports.clock.now() + SECOND, tick)

        ports.network.listen("p", on_message=lambda peer, data: ran.append(data), on_garbage=ignore)
        tick()

    def dial(ports: Ports) -> None:
        link = ports.network.dial("p", b"q" * 16, on_message=ignore, on_up=ignore, on_down=ignore)
        ports.clock.call_at(ports.clock.now() + 5 * SECOND, lambda: sent.append(link.send(b"to the stopped")))

    sent: list[Sent] = []
    process = world.process("p", start)
    world.process("q", dial)
    world.run_for(2 * SECOND + SECOND // 2)
    world.pause(process)
    world.run_for(6 * SECOND)
    assert ran == [0, 1, 2]
    assert sent == [Sent.TAKEN]
    world.resume(process)
    world.run_for(SECOND + SECOND // 4)
    assert sorted(ran[3:5], key=str) == [8, b"to the stopped"]
    assert ran[5:] == [9]


def test_a_crash_of_a_paused_process_is_a_crash():
    world = World(1)
    process = world.process("p", lambda ports: None)
    world.run_for(SECOND)
    world.pause(process)
    world.restart(process)
    world.run_for(SECOND)
    assert process.alive
    assert not process.paused
    assert process.incarnation == 2


def test_what_was_synced_survives_a_loss_of_power_and_what_was_written_survives_a_crash():
    lost = 0
    for seed in range(20):
        world = World(seed)

        def start(ports: Ports) -> None:
            file = ports.files.open("log", create=True)
            if file.size() == 0:
                file.pwrite([b"synced"], 0)
                file.sync()
                ports.files.sync_dir("")
                file.pwrite([b"unsynced"], 6)

        process = world.process("p", start)
        world.run_for(SECOND)
        disk = process.machine.disk
        world.restart(process)
        world.run_for(SECOND)
        assert disk.read("log") == b"syncedunsynced"
        world.power_off(process.machine)
        world.run_for(SECOND)
        assert not process.alive
        assert disk.read("log").startswith(b"synced")
        lost += disk.read("log") != b"syncedunsynced"
        world.restart(process)
        world.run_for(SECOND)
        assert not process.alive, "nothing starts without power"
        world.power_on(process.machine)
        world.restart(process)
        world.run_for(SECOND)
        assert process.alive
    assert 0 < lost < 20


def test_the_power_may_fail_in_the_midst_of_a_file_call():
    world = World(1)
    reached = []

    def start(ports: Ports) -> None:
        if process_box and process_box[0].incarnation > 1:
            return
        file = ports.files.open("log", create=True)
        ports.files.sync_dir("")
        for number in range(10):
            try:
                file.pwrite([b"%d" % number], number)
            finally:
                reached.append(number)
                with pytest.raises(Cut) if number == 3 else _nothing():
                    ports.files.exists("log")

    process_box: list[Process] = []
    off = []
    world.machine("p").disk.cut_power_after(5)      # open, sync_dir and writes 0 to 2 succeed
    world.machine("p").on_power_off.append(lambda: off.append(world.now))
    process_box.append(world.process("p", start))
    world.run_for(SECOND)
    assert reached == [0, 1, 2, 3]
    assert len(off) == 1
    assert not world.machines["p"].powered
    world.power_on(world.machines["p"])
    world.restart(process_box[0])
    world.run_for(SECOND)
    assert process_box[0].alive


def test_a_job_off_the_loop_takes_time_and_is_dropped_with_its_process():
    world = World(1)
    done: list[object] = []

    def start(ports: Ports) -> None:
        file = ports.files.open("log", create=True)

        def job() -> str:
            file.pwrite([b"job"], 0)
            file.sync()
            return "written"

        ports.files.submit(job, lambda outcome: done.append((outcome, ports.clock.now() - began)))
        began = ports.clock.now()

    process = world.process("p", start)
    world.run_for(SECOND)
    assert [outcome for outcome, _ in done] == ["written"]     # type: ignore[misc]
    assert done[0][1] > 50_000                                 # type: ignore[index]
    world.machines["p"].disk.slow_syncs(1, 10 * SECOND)
    world.restart(process)
    world.run_for(SECOND)
    world.crash(process)
    world.run_for(20 * SECOND)
    assert len(done) == 1


def test_a_crash_may_leave_a_job_off_the_loop_half_done_and_so_may_the_power():
    lengths = set()
    for seed in range(30):
        world = World(seed)
        done: list[object] = []

        def start(ports: Ports, done: list[object] = done) -> None:
            file = ports.files.open("log", create=True)

            def job() -> None:
                for number in range(6):
                    file.pwrite([b"x"], number)

            ports.files.submit(job, done.append)

        machine = world.machine("p")
        machine.disk.slow_syncs(1, SECOND)
        process = world.process("p", start)
        world.run_for(SECOND // 2)
        if seed % 2:
            world.crash(process)
            lengths.add(len(machine.disk.read("log")))
        else:
            machine.disk.cut_power_after(seed % 6)
        world.run_for(5 * SECOND)
        assert done == []
        assert not process.alive
        assert machine.powered is bool(seed % 2)
    assert len(lengths) > 3


def test_a_slow_sync_on_the_loop_holds_up_the_process():
    world = World(1)
    took = []

    def start(ports: Ports) -> None:
        file = ports.files.open("log", create=True)
        began = ports.clock.now()
        file.sync()
        took.append(ports.clock.now() - began)
        ports.clock.call_at(ports.clock.now(), lambda: took.append(ports.clock.now() - began))

    world.machine("p").disk.slow_syncs(1, 300 * MILLISECOND)
    world.process("p", start)
    world.run_for(SECOND)
    assert took[0] >= 299 * MILLISECOND
    assert took[1] >= took[0]


class _nothing:     # noqa: N801 - used like contextlib.nullcontext
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
