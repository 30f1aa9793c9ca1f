"""Exclusive jobs: one replica has its turn, however long it takes, and nobody has the next one too early."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from client_world import ClientWorld, pause

from actors import MILLISECOND, SECOND, Ports
from cluster import BlockingClient, Client, LockBusy, LockLost
from cluster.client.exclusive import BlockingTurn


class Job:
    """What replicas do: notes who did it from when to when, in world time, and whether it was broken off."""

    def __init__(self, rig: ClientWorld) -> None:
        self.rig = rig
        self.spans: list[tuple[str, float, float]] = []
        self.broken: list[str] = []

    async def do(self, who: str, ports: Ports, seconds: float) -> None:
        begun = self.rig.world.now / SECOND
        try:
            await pause(ports, seconds)
        except asyncio.CancelledError:
            self.broken.append(who)
            raise
        finally:
            self.spans.append((who, begun, self.rig.world.now / SECOND))

    @property
    def who(self) -> list[str]:
        return [who for who, _, _ in self.spans]

    def is_alone(self) -> bool:
        spans = sorted(self.spans, key=lambda span: span[1])
        return all(end <= begin for (_, _, end), (_, begin, _) in pairwise(spans))


@pytest.fixture
def rig() -> ClientWorld:
    return ClientWorld(workers=0)


@pytest.fixture
def job(rig: ClientWorld) -> Job:
    return Job(rig)


def start(rig: ClientWorld, job: Job, who: str, at: float, seconds: float, **terms: Any) -> str:
    """A replica that wants its turn `at` so many seconds; its answer is why it had none, or "did it"."""

    async def replica(cluster: Client, ports: Ports) -> str:
        await pause(ports, at)
        try:
            async with cluster.exclusive("nightly", note=who, **terms):
                await job.do(who, ports, seconds)
        except (LockBusy, LockLost) as error:
            return f"{type(error).__name__}: {error}"
        return "did it"

    return rig.start(replica)


# -- skip -------------------------------------------------------------------------------------------------------------


def test_of_many_replicas_one_does_the_job_and_the_others_skip_it(rig, job):
    names = [start(rig, job, f"r{number}", 1, 2, at_most="10m", at_least="1m") for number in range(3)]
    answers = [rig.finish(name) for name in names]
    assert sorted(answers)[2] == "did it" and len(job.spans) == 1
    assert all("LockBusy" in answer for answer in sorted(answers)[:2])


def test_a_replica_that_comes_late_after_a_short_job_finds_that_it_was_done(rig, job):
    first = start(rig, job, "first", 1, 0.1, at_most="10m", at_least="10s")
    late = start(rig, job, "late", 5, 0.1, at_most="10m", at_least="10s")
    next_ = start(rig, job, "next", 12.5, 0.1, at_most="10m", at_least="10s")
    assert [rig.finish(name)[:8] for name in (first, late, next_)] == ["did it", "LockBusy", "did it"]
    assert job.who == ["first", "next"]


def test_a_rest_outlives_its_client_and_the_leader_and_is_never_shorter(rig, job):
    rig.finish(start(rig, job, "first", 1, 0.1, at_most="10m", at_least="8s"))
    ended = rig.world.now / SECOND
    rig.world.crash(rig.brokers[rig.leader])
    rig.finish(start(rig, job, "queues", 0, 0.1, at_most="10m", on_busy="queue"))
    assert ended + 7.9 < job.spans[-1][1] < ended + 30


def test_a_job_that_raised_was_done_and_one_that_was_broken_off_was_not(rig, job):
    async def replica(cluster: Client, ports: Ports) -> Any:
        terms = {"at_most": "10m", "at_least": "1m"}
        with pytest.raises(ValueError, match="of the job"):
            async with cluster.exclusive("raises", **terms):
                raise ValueError("of the job")
        task = asyncio.ensure_future(forever(cluster, ports, terms))
        await pause(ports, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pause(ports, 1)
        with pytest.raises(LockBusy):
            async with cluster.exclusive("raises", **terms):
                pass
        async with cluster.exclusive("broken off", **terms) as turn:
            return turn.fence

    async def forever(cluster: Client, ports: Ports, terms: dict[str, str]) -> None:
        async with cluster.exclusive("broken off", **terms):
            await pause(ports, 1_000)

    assert rig.run(replica) == 3


# -- how long ---------------------------------------------------------------------------------------------------------


def test_a_job_that_hangs_is_broken_off_and_the_next_one_begins_after_that(rig, job):
    hangs = start(rig, job, "hangs", 1, 1_000, at_most="5s")
    queues = start(rig, job, "queues", 2, 0.1, at_most="5s", on_busy="queue")
    answer = rig.finish(hangs)
    assert answer.startswith("LockLost") and "as long as it may be" in answer
    assert rig.finish(queues) == "did it"
    assert job.broken == ["hangs"] and job.is_alone()
    assert 4.7 < job.spans[0][2] - job.spans[0][1] < 5.0


@pytest.mark.parametrize("fault", ["crash", "cut off", "pause"])
def test_a_bounded_turn_after_a_wait_ends_before_the_next_one_through_the_loss_of_leaders(rig, job, fault):
    """The grant is told late, and counted from when the leader saw it."""
    terms = {"at_most": "4s", "on_busy": "queue"}
    names = [start(rig, job, f"r{number}", 1 + number / 10, 1_000, **terms) for number in range(4)]
    for _ in range(3):
        rig.world.run_for(int(3.3 * SECOND))
        if fault == "crash":
            rig.world.restart(rig.brokers[rig.leader])
        elif fault == "pause":
            leader = rig.brokers[rig.leader]
            rig.world.pause(leader)
            rig.world.after(2 * SECOND, partial(rig.world.resume, leader))
        else:
            cuts = rig.world.network.cut([rig.leader], ["c1", "c2", "c3", "c4"])
            rig.world.run_for(SECOND)
            rig.world.network.mend(cuts)
    for name in names:
        rig.finish(name)
    assert job.is_alone() and sorted(job.who) == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("step", [7, 21, 53, 61, 86])
def test_a_body_that_nobody_can_tell_has_ended_before_the_next_turn_begins(rig, job, step):
    """Its client finds out within a tenth of a second, and the leader at its next look, in any order: with a margin of
    a millisecond the next turn began 26 ms before the end of the body."""

    async def holder(cluster: Client, ports: Ports) -> Any:
        await pause(ports, 1 + step * 37 % 50 / 100)
        with suppress(LockLost):
            async with cluster.exclusive("nightly", at_most="1s"):
                rig.world.network.partition([[name], list(rig.brokers)])
                await job.do("holder", ports, 100)

    rig.world.run_for(SECOND + step * 7 * MILLISECOND)
    name = rig.start(holder)
    rig.world.run_for(step * 13 % 100 * MILLISECOND)
    queues = start(rig, job, "queues", 1.5 + step * 37 % 50 / 100, 0.1, at_most="1s", on_busy="queue")
    assert rig.finish(queues) == "did it"
    rig.finish(name)
    assert job.broken == ["holder"] and job.is_alone(), job.spans


def test_wall_clocks_that_jump_make_a_turn_neither_shorter_nor_longer(rig, job):
    long = start(rig, job, "long", 1, 3, at_most="10s", at_least="8s")
    rig.world.run_for(3 * SECOND)
    for broker in rig.brokers.values():
        broker.machine.jump_wall_clock(3_600 * SECOND)
    rig.world.crash(rig.brokers[rig.leader])
    queues = start(rig, job, "queues", 0, 0.1, at_most="10s", on_busy="queue")
    assert rig.finish(long) == rig.finish(queues) == "did it"
    (_, begun, _), (_, next_begun, _) = job.spans
    assert next_begun - begun > 7.9


def test_a_turn_that_is_prolonged_lasts_longer(rig, job):
    async def replica(cluster: Client, ports: Ports) -> Any:
        async with cluster.exclusive("nightly", at_most="3s") as turn:
            for _ in range(5):
                await pause(ports, 2)
                await turn.prolong()
            await turn.prolong("10s")
            await pause(ports, 9)
            turn.assert_held()
            await turn.prolong("1s")
            with pytest.raises(asyncio.CancelledError):
                await pause(ports, 2)
            return turn.is_held

    async def outer(cluster: Client, ports: Ports) -> Any:
        try:
            return await replica(cluster, ports)
        except LockLost as error:
            return str(error)

    assert "as long as it may be" in rig.run(outer)


def test_a_longer_silence_that_is_asked_for_does_not_bring_back_the_time_of_a_turn_that_was_cut_short(rig, job):
    """The news that its turn is over does not reach the holder, which has to count for itself."""

    async def holder(cluster: Client, ports: Ports) -> Any:
        try:
            async with cluster.exclusive("nightly", at_most="10m") as turn:
                await turn.prolong("2s")
                await turn.extend("30s")
                cuts.append(rig.world.network.partition([[name], list(rig.brokers)]))
                await job.do("holder", ports, 100)
        except LockLost as error:
            return str(error)

    cuts: list[Any] = []
    name = rig.start(holder)
    rig.until(lambda: cuts)
    queues = start(rig, job, "queues", 0, 0.1, at_most="10m", on_busy="queue")
    assert "as long as it may be" in rig.finish(name)
    assert rig.finish(queues) == "did it" and job.is_alone()


# -- on busy ----------------------------------------------------------------------------------------------------------


def test_who_queues_has_its_turn_after_the_others_in_order(rig, job):
    names = [start(rig, job, f"r{number}", 1 + number / 10, 0.5, at_most="10m", on_busy="queue") for number in range(4)]
    assert [rig.finish(name) for name in names] == ["did it"] * 4
    assert job.who == ["r0", "r1", "r2", "r3"] and job.is_alone()


def test_who_waits_gives_up_after_its_time(rig, job):
    first = start(rig, job, "first", 1, 5, at_most="10m")
    waits = start(rig, job, "waits", 2, 5, at_most="10m", on_busy="wait", wait="1s")
    patient = start(rig, job, "patient", 2, 1, at_most="10m", on_busy="wait", wait="10s")
    assert [rig.finish(name)[:8] for name in (first, waits, patient)] == ["did it", "LockBusy", "did it"]


def test_who_replaces_breaks_off_the_one_that_has_its_turn_and_begins_when_that_has_ended(rig, job):
    first = start(rig, job, "first", 1, 1_000, at_most="1h")
    waits = start(rig, job, "waits", 2, 1, at_most="1h", on_busy="queue")
    replaces = start(rig, job, "replaces", 3, 1, at_most="1h", on_busy="replace")
    assert "came to replace" in rig.finish(first) and "came to replace" in rig.finish(waits)
    assert rig.finish(replaces) == "did it"
    assert job.broken == ["first"] and job.who == ["first", "replaces"] and job.is_alone()
    assert job.spans[1][1] < 5


def test_a_holder_that_cannot_be_asked_is_waited_for_until_it_has_lost_its_turn(rig, job):
    first = start(rig, job, "first", 1, 1_000, at_most="1h", hold="3s")
    rig.until(lambda: rig.leader and rig.actor(rig.leader).machine.locks.claims)
    rig.world.pause(rig.clients[first])
    replaces = start(rig, job, "replaces", 0, 1, at_most="1h", on_busy="replace")
    assert rig.finish(replaces) == "did it"
    assert 3 < job.spans[0][1] < 8


async def holds_until_20(cluster: Client, ports: Ports) -> None:
    """Nobody can break it off, since it is outside of `async with`."""
    turn = cluster.exclusive("nightly", at_most="1h")
    await turn.acquire()
    await pause(ports, 20)
    await turn.release()


def test_one_that_was_replaced_and_was_not_told_so_does_not_replace_the_newest(rig, job):
    """The link was lost with the news. It asks what became of its claim, and that is not there any more."""

    rig.start(holds_until_20)
    older = start(rig, job, "older", 2, 1, at_most="1h", on_busy="replace")
    newest = start(rig, job, "newest", 5, 1, at_most="1h", on_busy="replace")

    def is_replaced() -> bool:
        lock = rig.leader and rig.actor(rig.leader).machine.locks.by_name.get("nightly")
        return bool(lock) and [claim.note for claim in lock.waiting.values()] == ["newest"]

    rig.until(is_replaced)
    rig.world.network.break_links(older)
    assert "came to replace" in rig.finish(older)
    assert rig.finish(newest) == "did it"
    assert job.who == ["newest"]


def test_one_that_comes_back_after_a_silence_replaces_nobody_who_came_meanwhile(rig, job):
    """It has lost its place and takes the last one, which makes it no newer."""
    rig.start(holds_until_20)
    older = start(rig, job, "older", 2, 1, at_most="1h", on_busy="replace", hold="2s")
    newest = start(rig, job, "newest", 5, 1, at_most="1h", on_busy="replace")
    rig.until(lambda: rig.world.now > 4 * SECOND)
    rig.world.pause(rig.clients[older])
    rig.until(lambda: rig.world.now > 9 * SECOND)
    rig.world.resume(rig.clients[older])
    assert rig.finish(newest) == "did it"
    assert rig.finish(older) == "did it"
    assert job.who == ["newest", "older"] and job.broken == []


# -- decorators -------------------------------------------------------------------------------------------------------


def test_who_is_replaced_while_it_waits_is_told_how_long_it_waited(rig, job):
    async def replica(cluster: Client, ports: Ports) -> Any:
        await cluster.exclusive("nightly", at_most="1h").acquire()
        waits = asyncio.ensure_future(cluster.exclusive("nightly", at_most="1h", on_busy="queue").acquire())
        await pause(ports, 252)
        newest = asyncio.ensure_future(cluster.exclusive("nightly", at_most="1h", on_busy="replace").acquire())
        with pytest.raises(LockBusy, match="somebody came to replace") as caught:
            await waits
        newest.cancel()
        with pytest.raises(LockBusy) as skipped:
            await cluster.exclusive("nightly", at_most="1h").acquire()
        return caught.value.waited, str(caught.value), str(skipped.value), skipped.value.waited

    waited, text, skipped, not_waited = rig.run(replica)
    assert 252 < waited < 253 and text.endswith("; it is not waited for any more, after 4m12s")
    assert "not waited for" not in skipped and not_waited == 0
    assert str(LockBusy("nightly", 2_412.3)).endswith("after 40m12s")
    assert str(LockBusy("nightly", 0.25)).endswith("after 250ms")


def test_a_turn_is_not_prolonged_to_end_before_it_may_rest(rig, job):
    async def replica(cluster: Client, ports: Ports) -> Any:
        async with cluster.exclusive("nightly", at_most="10m", at_least="1m") as turn:
            with pytest.raises(ValueError, match="at_least: 1m is longer than at_most, 30s"):
                await turn.prolong("30s")
            await pause(ports, 45)
            await turn.prolong("2m")
        left = ports.clock.now()
        async with cluster.exclusive("nightly", at_most="10m", on_busy="queue"):
            return (ports.clock.now() - left) / SECOND

    assert 14 < rig.run(replica) < 17, "of its minute, which counts from the beginning"


def test_a_decorated_function_returns_none_when_its_turn_is_skipped(rig):
    async def replica(cluster: Client, ports: Ports) -> Any:
        @cluster.exclusive("report", at_most="1m")
        async def report(number: int) -> int:
            """Writes it."""
            await pause(ports, 1)
            return number

        assert report.__name__ == "report" and report.__doc__ == "Writes it."
        return await asyncio.gather(report(1), report(2), report(3)), await report(4)

    found, later = rig.run(replica)
    assert sorted(map(str, found)) == ["1", "None", "None"] and later == 4


# -- bad input --------------------------------------------------------------------------------------------------------


async def slowly() -> None:
    """What would run when the turn of a blocking client is over."""


def at_once() -> None:
    """What would hold up a loop."""


def by_and_by() -> Iterator[int]:
    """What nobody has begun when the turn is over."""
    yield 1


async def by_and_by_async() -> AsyncIterator[int]:
    """So here."""
    yield 1


def test_a_function_is_decorated_by_the_kind_of_client_that_can_run_it():
    async def replica(cluster: Client, ports: Ports) -> Any:
        turn = cluster.exclusive("report", at_most="1m")
        with pytest.raises(TypeError, match="at_once is no async def function"):
            turn(at_once)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="slowly is an async def function"):
            BlockingTurn(BlockingClient(cluster), turn)(slowly)
        for lazy in (by_and_by, by_and_by_async, partial(by_and_by)):
            with pytest.raises(TypeError, match="is a generator function, whose body would run"):
                BlockingTurn(BlockingClient(cluster), turn)(lazy)
        assert await turn(partial(slowly))() is None

    ClientWorld(workers=0).run(replica)


@pytest.mark.parametrize(
    ("terms", "error", "says"),
    [
        ({"at_most": "5m", "at_least": "6m"}, ValueError, "at_least: 6m is longer than at_most, 5m"),
        ({"at_most": "10ms"}, ValueError, "at_most: '10ms' is out of range, 1 s to 366 days"),
        ({"at_most": "-5m"}, ValueError, "at_most"),
        ({"at_most": "1h", "at_least": "-5m"}, ValueError, "at_least"),
        ({"at_most": 5, "on_busy": "hope"}, ValueError, "on_busy: 'hope' is none of \"skip\""),
        ({"at_most": 5, "on_busy": "wait"}, ValueError, "has to say for how long"),
        ({"at_most": 5, "wait": "5s"}, ValueError, "is not looked at"),
        ({"at_most": 5, "hold": "1s"}, ValueError, "2 s to 1 h"),
        ({"at_most": None}, TypeError, "at_most"),
        ({}, TypeError, "at_most"),
    ],
)
def test_terms_that_contradict_each_other_or_cannot_be_are_refused_where_they_are_written(terms, error, says):
    def connected(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(error, match=None) as found:
            cluster.exclusive("nightly", **terms)
        return str(found.value)

    async def replica(cluster: Client, ports: Ports) -> str:
        return connected(cluster, ports)

    assert says in ClientWorld(workers=0).run(replica)
