"""A simulated world whose workers announce schedules, and what its runs were for.

Time of day is that of the brokers' clocks, which show any date before anything starts. Everything but the time that a
run takes is the real code.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from client_world import BROKERS, ClientWorld

from actors import MILLISECOND, SECOND, Nanos, Ports
from actors.simulation import ChildPort, portable_traceback
from cluster import current, task
from cluster.state.commands import Options, ScheduleSpec
from cluster.state.schedule_rows import Slot
from cluster.state.schedules import Schedule
from cluster.worker.child_messages import Ready, encode, setup_decoder
from cluster.worker.config import WorkerConfig
from cluster.worker.executor import Executor
from cluster.worker.page import ClaimPage
from cluster.worker.process import start_worker

STEP: Nanos = 100 * MILLISECOND         # after which a run looks whether it is to stop
EMPTY_CALL = b"\x92\x90\x80"
MINUTE_MS = 60_000


@task(name="world:job")
def job() -> str:
    """Says which slot it was for."""
    scheduled = current().scheduled
    return "" if scheduled is None else scheduled.isoformat()


@task(name="world:other")
def other() -> str:
    return job()


TASKS = {job.name: job, other.name: other}


def every(period_ms: int = 1_000, name: str = "job", **terms: Any) -> ScheduleSpec:
    """An interval, as a worker announces it."""
    return _spec(name, period_ms=period_ms, **terms)


def cron(expression: str, zone: str = "UTC", name: str = "job", **terms: Any) -> ScheduleSpec:
    return _spec(name, expression, zone, **terms)


def _spec(
    name: str,
    expression: str = "",
    zone: str = "",
    *,
    period_ms: int = 0,
    misfire: str = "once",
    on_busy: str = "skip",
    exclusive: bool = True,
    options: Options | None = None,
    of: str = job.name,
) -> ScheduleSpec:
    return ScheduleSpec(
        name, of, expression, zone, period_ms, 0, misfire, on_busy, exclusive, EMPTY_CALL, options
    )


@dataclass(slots=True)
class Run:
    """One attempt: of which task, for which slot, and from when to when; `ended` is 0 if nobody saw that."""

    task: int
    attempt: int
    name: str
    slot_ms: int
    begun: Nanos
    ended: Nanos = 0


class ScheduleWorld(ClientWorld):
    """Each run takes `work_ms`. A worker that starts announces what stands under its name in `announced`, else all
    `schedules`, and serves its `queues`, else the default one."""

    def __init__(self, *schedules: ScheduleSpec, seed: int = 0, at: datetime | None = None, **world: Any) -> None:
        self.schedules = schedules
        self.announced: dict[str, tuple[ScheduleSpec, ...]] = {}
        self.queues: dict[str, tuple[str, ...]] = {}
        self.work_ms = 0
        self.heeds = True                   # runs end when they are asked to
        self.attempts: list[Run] = []
        super().__init__(seed, wall_ms=ms_of(at or datetime(2026, 1, 1, tzinfo=UTC)), **world)

    def _worker(self, name: str, slots: int) -> Callable[[Ports], Awaitable[None]]:
        async def start(ports: Ports) -> None:
            brokers = tuple((node, f"{node}:7100") for node in BROKERS)
            queues = self.queues.get(name, ("default",))
            # Its children are told by the name of the worker what it announces.
            _, system, _ = start_worker(ports, WorkerConfig("world", name, brokers, (name,), slots, queues))
            self.systems[name] = system
            await system.wait_stopped()

        return start

    async def _executor(self, port: ChildPort, argument: bytes) -> None:
        executor = Executor(port, TASKS, describe=portable_traceback)
        (worker,) = setup_decoder.decode(argument).modules
        port.send(encode(Ready(tuple(sorted(TASKS)), (), False, self.announced.get(worker, self.schedules))))
        page = ClaimPage(port.page.view)
        while True:
            while executor.claim():
                running = executor.running
                assert running is not None
                run = Run(running.task, running.attempt, running.name, running.slot_ms, self.world.now)
                self.attempts.append(run)
                left = self.work_ms * MILLISECOND
                while left > 0 and not (self.heeds and page.is_stopped(page.claimed)):
                    await port.work(min(left, STEP))
                    left -= STEP
                run.ended = self.world.now
                executor.run()
            frame = port.poll()
            if frame is None:
                executor.flush()
                frame = await port.receive()
                if frame is None:
                    return
            executor.receive(frame)

    # -- what happened ------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> list[int]:
        """Those of all runs, each once: an attempt may be repeated."""
        return [slot_ms for _, slot_ms in dict.fromkeys((run.task, run.slot_ms) for run in self.attempts)]

    def schedule(self, name: str = "job") -> Schedule:
        """As the leader's state has it."""
        return self.actor(self.leader).machine.schedules.by_name[name]

    def history(self, name: str = "job") -> list[Slot]:
        """[] if nobody knows it yet."""
        known = self.actor(self.leader).machine.schedules.by_name.get(name) if self.leader else None
        return [] if known is None else list(known.history)

    def until_armed(self, name: str = "job") -> None:
        """Its next slot is in the log."""
        self.until(lambda: self.leader and name in self.actor(self.leader).machine.schedules.by_name)
        self.until(lambda: self.leader and self.schedule(name).next_ms)

    @property
    def stamp_ms(self) -> int:
        """The leader's time of day."""
        return self.actor(self.leader).raft.stamp_ms()

    def until_slots(self, count: int, limit: Nanos = 600 * SECOND) -> None:
        self.until(lambda: len(self.slots) >= count, limit)

    def until_idle(self) -> None:
        """No run is unfinished, as far as the leader knows."""
        self.until(lambda: self.leader and not self.actor(self.leader).machine.schedules.by_task)

    # -- what is done to it -------------------------------------------------------------------------------------------

    def stop(self, names: Iterable[str]) -> None:
        for name in names:
            self.world.crash(self.world.processes[name])

    def start_again(self, names: Iterable[str]) -> None:
        for name in names:
            self.world.restart(self.world.processes[name])

    def stop_all_for(self, ms: int, *, but: str = "") -> None:
        """The whole cluster is down for so long, by all clocks; one worker stays down."""
        names = [*BROKERS, *self.workers]
        self.stop(names)
        for name in names:
            self.world.machine(name).jump_wall_clock(ms)
        self.start_again([name for name in names if name != but])


def ms_of(date: datetime) -> int:
    return int(date.timestamp() * 1_000)


def utc(slots: Iterable[int]) -> list[str]:
    """Times of day."""
    return [f"{datetime.fromtimestamp(slot / 1_000, UTC):%H:%M:%S}" for slot in slots]
