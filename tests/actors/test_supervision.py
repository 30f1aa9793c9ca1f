"""Supervisors, one_for_one: the cases of OTP's supervisor_SUITE that apply, on virtual time."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from actor_world import pause, run_in_world
from msgspec import Struct

from actors import (
    MILLISECOND,
    SECOND,
    Actor,
    ActorSystem,
    Backoff,
    ChildAnswer,
    ChildSpec,
    ChildStatus,
    DeleteChild,
    ExitReason,
    Failed,
    MailboxSpec,
    Normal,
    Ref,
    Refusal,
    Restart,
    RestartChild,
    Shutdown,
    StartChild,
    Supervisor,
    SupervisorSpec,
    TerminateChild,
    WhichChildren,
    handles,
)
from actors.supervision.strategy import State

AT_ONCE = Backoff(min_ns=0, max_ns=0)


class End(Struct):
    """To a worker: end for this reason, or crash."""

    reason: ExitReason | None = None


class House:
    """What the workers of one test did, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fail_next: dict[str, int] = {}    # how often a start of this child will fail

    def worker(self, name: str) -> Callable[[], Actor]:
        return lambda: Worker(self, name)

    def child(self, name: str, restart: Restart = Restart.PERMANENT, **options: Any) -> ChildSpec:
        return ChildSpec(name, self.worker(name), restart, **options)


class Worker(Actor):
    def __init__(self, house: House, name: str) -> None:
        self.house = house
        self.name = name

    def started(self) -> None:
        if self.house.fail_next.get(self.name, 0) > 0:
            self.house.fail_next[self.name] -= 1
            self.house.log.append(f"{self.name}!")
            raise RuntimeError("does not start")
        self.house.log.append(self.name)

    def stopped(self, reason: ExitReason) -> None:
        self.house.log.append(f"-{self.name}" if isinstance(reason, Shutdown) else f"x{self.name}")

    @handles
    def on_end(self, message: End) -> None:
        if message.reason is None:
            raise RuntimeError("crash")
        self.context.stop(message.reason)


async def children(supervisor: Ref[Any]) -> dict[str, ChildStatus]:
    return {status.id: status for status in await supervisor.ask(WhichChildren(), SECOND)}


async def crash(supervisor: Ref[Any], name: str, reason: ExitReason | None = None) -> None:
    ref = (await children(supervisor))[name].ref
    assert ref is not None
    ref.tell(End(reason))


def supervised(
    spec: SupervisorSpec, body: Callable[[ActorSystem, Ref[Any], list[ExitReason]], Any]
) -> Any:
    """Runs `body(system, supervisor, how it ended)` once the supervisor has started."""

    async def main(system: ActorSystem) -> Any:
        supervisor = system.spawn(Supervisor(spec))
        ends: list[ExitReason] = []
        system.on_exit(supervisor, ends.append)
        await pause(system, 100 * MILLISECOND)
        return await body(system, supervisor, ends)

    return run_in_world(main)


def test_an_empty_supervisor_starts_and_stops_with_shutdown():
    """OTP: sup_start_normal."""

    async def body(system, supervisor, ends):
        assert await children(supervisor) == {}
        system.stop()
        return ends

    assert supervised(SupervisorSpec(), body) == [Shutdown()]


def test_children_start_in_order_and_stop_in_reverse_also_after_a_restart():
    """OTP: order_of_children (one_for_one)."""
    house = House()

    async def body(system, supervisor, ends):
        await crash(supervisor, "c")
        await pause(system, SECOND)
        system.stop()
        await system.wait_stopped()

    supervised(SupervisorSpec(tuple(house.child(name) for name in "zcab")), body)
    assert house.log == ["z", "c", "a", "b", "xc", "c", "-b", "-a", "-c", "-z"]


def test_a_child_that_has_nothing_to_run_keeps_its_specification_unless_it_is_temporary():
    """OTP: sup_start_ignore_child, sup_start_ignore_temporary_child."""

    async def body(system, supervisor, ends):
        return {name: (status.state, status.ref) for name, status in (await children(supervisor)).items()}

    spec = SupervisorSpec((ChildSpec("a", lambda: None), ChildSpec("b", lambda: None, Restart.TEMPORARY)))
    assert supervised(spec, body) == {"a": (State.STOPPED, None)}


def test_a_failure_at_the_first_start_stops_the_others_and_ends_the_supervisor_without_retries():
    """OTP: sup_start_fail."""
    house = House()
    house.fail_next["b"] = 9

    async def body(system, supervisor, ends):
        assert isinstance(ends[0], Failed)
        assert "failed to start child b" in ends[0].message

    supervised(SupervisorSpec(tuple(house.child(name) for name in "abc")), body)
    assert house.log == ["a", "b!", "-a"]


def test_a_start_function_that_raises_is_a_failed_start():
    """OTP: sup_start_error_return."""

    def no_actor() -> Actor:
        raise OSError("nothing there")

    async def body(system, supervisor, ends):
        assert "nothing there" in ends[0].message

    supervised(SupervisorSpec((ChildSpec("a", no_actor),)), body)


CRASH, NORMAL, SHUTDOWN = None, Normal(), Shutdown("later")


@pytest.mark.parametrize(
    ("restart", "reason", "runs"),
    [
        (Restart.PERMANENT, NORMAL, True),
        (Restart.PERMANENT, SHUTDOWN, True),
        (Restart.PERMANENT, CRASH, True),
        (Restart.TRANSIENT, NORMAL, False),
        (Restart.TRANSIENT, SHUTDOWN, False),
        (Restart.TRANSIENT, CRASH, True),
        (Restart.TEMPORARY, NORMAL, False),
        (Restart.TEMPORARY, SHUTDOWN, False),
        (Restart.TEMPORARY, CRASH, False),
    ],
)
def test_who_is_started_again_depends_on_the_type_and_the_reason(restart, reason, runs):
    """OTP: permanent_/transient_/temporary_ x normal/shutdown/abnormal."""
    house = House()

    async def body(system, supervisor, ends):
        before = (await children(supervisor))["a"].ref
        await crash(supervisor, "a", reason)
        await pause(system, SECOND)
        after = await children(supervisor)
        assert ends == []
        if restart is Restart.TEMPORARY:
            assert after == {}
        elif runs:
            assert after["a"].state is State.RUNNING
            assert after["a"].ref != before
        else:
            assert after["a"] == ChildStatus("a", State.STOPPED, None)

    supervised(SupervisorSpec((house.child("a", restart),)), body)


def test_one_for_one_restarts_only_the_child_that_ended():
    """OTP: one_for_one."""
    house = House()

    async def body(system, supervisor, ends):
        before = await children(supervisor)
        await crash(supervisor, "b")
        await pause(system, SECOND)
        after = await children(supervisor)
        assert [name for name in "abc" if before[name].ref != after[name].ref] == ["b"]

    supervised(SupervisorSpec(tuple(house.child(name) for name in "abc")), body)


def test_the_third_crash_with_an_intensity_of_two_ends_the_supervisor_with_shutdown():
    """OTP: one_for_one (limit), one_for_one_escalation."""
    house = House()

    async def body(system, supervisor, ends):
        for _ in range(3):
            assert ends == []
            await crash(supervisor, "a")
            await pause(system, 10 * MILLISECOND)
        assert ends == [Shutdown()]

    spec = SupervisorSpec((house.child("a"), house.child("b")), intensity=2, backoff=AT_ONCE)
    supervised(spec, body)
    assert house.log == ["a", "b", "xa", "a", "xa", "a", "xa", "-b"]


def test_crashes_that_are_further_apart_than_the_period_never_add_up():
    """OTP: multiple_restarts."""
    house = House()

    async def body(system, supervisor, ends):
        for _ in range(4):
            await crash(supervisor, "a")
            await pause(system, 2_100 * MILLISECOND)
        return ends

    spec = SupervisorSpec((house.child("a"),), intensity=1, period_ns=SECOND, backoff=AT_ONCE)
    assert supervised(spec, body) == []


def test_an_intensity_of_zero_ends_at_the_first_crash():
    house = House()

    async def body(system, supervisor, ends):
        await crash(supervisor, "a")
        await pause(system, SECOND)
        return ends

    assert supervised(SupervisorSpec((house.child("a"),), intensity=0), body) == [Shutdown()]


def test_a_transient_supervisor_that_gave_up_is_not_started_again_by_its_own():
    """OTP: escalation; the reason of giving up is shutdown."""
    house = House()
    inner: list[Ref[Any]] = []

    class Inner(Supervisor):
        def __init__(self) -> None:
            super().__init__(SupervisorSpec((house.child("a"),), intensity=0))

        async def started(self) -> None:
            inner.append(self.context.self_ref)
            await super().started()

    async def body(system, supervisor, ends):
        await crash(inner[0], "a")
        await pause(system, SECOND)
        assert ends == []
        return await children(supervisor)

    spec = SupervisorSpec((ChildSpec("inner", Inner, Restart.TRANSIENT, shutdown_ns=None),))
    assert supervised(spec, body) == {"inner": ChildStatus("inner", State.STOPPED, None)}
    assert len(inner) == 1


def test_the_first_restart_comes_at_once_and_the_next_ones_wait_longer_and_longer():
    """Ours: OTP has no delay."""
    house = House()
    times: list[int] = []

    async def body(system, supervisor, ends):
        clock = system.ports.clock
        house.fail_next["a"] = 5
        began = clock.now()
        seen = len(house.log)
        await crash(supervisor, "a")
        for _ in range(5_000):
            await pause(system, MILLISECOND)
            while len(house.log) > seen:
                times.append((clock.now() - began) // MILLISECOND)
                seen += 1
        return (await children(supervisor))["a"].state

    backoff = Backoff(min_ns=100 * MILLISECOND, max_ns=400 * MILLISECOND, jitter_percent=0)
    spec = SupervisorSpec((house.child("a"),), intensity=10, period_ns=60 * SECOND, backoff=backoff)
    assert supervised(spec, body) is State.RUNNING
    gaps = [late - early for early, late in pairwise(times[1:])]
    assert house.log == ["a", "xa", "a!", "a!", "a!", "a!", "a!", "a"]
    assert times[1] <= 1
    expected = [100, 200, 400, 400, 400]
    assert all(abs(gap - pause) <= 1 for gap, pause in zip(gaps, expected, strict=True))


def test_a_child_that_lived_long_enough_starts_over_with_its_backoff():
    house = House()

    async def body(system, supervisor, ends):
        for _ in range(2):
            await crash(supervisor, "a")
            await pause(system, 61 * SECOND)
        await crash(supervisor, "a")
        await pause(system, 5 * MILLISECOND)
        return (await children(supervisor))["a"].state

    assert supervised(SupervisorSpec((house.child("a"),)), body) is State.RUNNING


def test_while_a_start_keeps_failing_orders_are_served_at_once():
    """OTP: hanging_restart_loop."""
    house = House()

    async def body(system, supervisor, ends):
        house.fail_next["a"] = 1_000
        await crash(supervisor, "a")
        await pause(system, SECOND)
        assert (await children(supervisor))["a"].state is State.WAITING
        answer = await supervisor.ask(StartChild(house.child("a")), SECOND)
        assert answer.refusal is Refusal.ALREADY_PRESENT
        assert (await supervisor.ask(RestartChild("a"), SECOND)).refusal is Refusal.RESTARTING
        assert (await supervisor.ask(DeleteChild("a"), SECOND)).refusal is Refusal.RESTARTING
        assert await supervisor.ask(TerminateChild("a"), SECOND) == ChildAnswer()
        tries = house.log.count("a!")
        await pause(system, 100 * SECOND)
        assert house.log.count("a!") == tries
        assert (await children(supervisor))["a"].state is State.STOPPED

    supervised(SupervisorSpec((house.child("a"),), intensity=1_000), body)


def test_the_life_of_one_child_by_order():
    """OTP: child_adm."""
    house = House()

    async def body(system, supervisor, ends):
        order = supervisor.ask
        for message in (TerminateChild("a"), RestartChild("a"), DeleteChild("a")):
            assert (await order(message, SECOND)).refusal is Refusal.NOT_FOUND
        started = await order(StartChild(house.child("a")), SECOND)
        assert started.ref == (await children(supervisor))["a"].ref
        again = await order(StartChild(house.child("a")), SECOND)
        assert (again.refusal, again.ref) == (Refusal.ALREADY_STARTED, started.ref)
        assert (await order(RestartChild("a"), SECOND)).refusal is Refusal.RUNNING
        assert (await order(DeleteChild("a"), SECOND)).refusal is Refusal.RUNNING
        for _ in range(2):
            assert await order(TerminateChild("a"), SECOND) == ChildAnswer()
        assert (await order(StartChild(house.child("a")), SECOND)).refusal is Refusal.ALREADY_PRESENT
        restarted = await order(RestartChild("a"), SECOND)
        assert restarted.ref not in (None, started.ref)
        assert await order(TerminateChild("a"), SECOND) == ChildAnswer()
        assert await order(DeleteChild("a"), SECOND) == ChildAnswer()
        assert await children(supervisor) == {}

    supervised(SupervisorSpec(), body)


def test_an_ordered_start_that_fails_leaves_nothing_and_a_restart_that_fails_leaves_it_stopped():
    """OTP: sup_start_child_returns_error, sup_start_restart_child_returns_error."""
    house = House()

    async def body(system, supervisor, ends):
        house.fail_next["b"] = 1
        failed = await supervisor.ask(StartChild(house.child("b")), SECOND)
        assert isinstance(failed.failure, Failed)
        assert "b" not in await children(supervisor)
        await supervisor.ask(TerminateChild("a"), SECOND)
        house.fail_next["a"] = 1
        failed = await supervisor.ask(RestartChild("a"), SECOND)
        assert isinstance(failed.failure, Failed)
        assert (await children(supervisor))["a"].state is State.STOPPED
        assert ends == []

    supervised(SupervisorSpec((house.child("a"),)), body)


def test_a_child_that_does_not_stop_is_killed_after_its_limit_and_its_sibling_stops_politely():
    """OTP: sup_stop_timeout, sup_stop_brutal_kill."""
    house = House()

    class Sleeper(Worker):
        @handles
        async def on_sleep(self, message: ChildStatus) -> None:
            await pause(self.context.system, 1_000 * SECOND)

    async def body(system, supervisor, ends):
        sleeper = (await children(supervisor))["s"].ref
        sleeper.tell(ChildStatus("", State.RUNNING, None))
        await pause(system, SECOND)
        began = system.ports.clock.now()
        reasons: list[ExitReason] = []
        system.on_exit(sleeper, reasons.append)
        system.stop()
        await system.wait_stopped()
        assert str(reasons[0]) == "killed"
        return system.ports.clock.now() - began

    spec = SupervisorSpec(
        (
            house.child("a"),
            ChildSpec("s", lambda: Sleeper(house, "s"), shutdown_ns=2 * SECOND),
            house.child("k", shutdown_ns=0),
        )
    )
    assert 2 * SECOND <= supervised(spec, body) < 2 * SECOND + 10 * MILLISECOND
    assert house.log == ["a", "s", "k", "-a"]


def test_newest_children_are_listed_first():
    """OTP: which_children."""
    house = House()

    async def body(system, supervisor, ends):
        return [status.id for status in await supervisor.ask(WhichChildren(), SECOND)]

    assert supervised(SupervisorSpec(tuple(house.child(name) for name in "abc")), body) == ["c", "b", "a"]


def test_many_temporary_children_start_and_leave_nothing_behind():
    """OTP: simple_one_for_one_scale_many_temporary_children, without the clock."""
    house = House()

    async def body(system, supervisor, ends):
        refs = []
        for number in range(1_000):
            answer = await supervisor.ask(StartChild(house.child(str(number), Restart.TEMPORARY)), SECOND)
            refs.append(answer.ref)
        for ref in refs:
            ref.tell(End())
        await pause(system, SECOND)
        assert await children(supervisor) == {}
        assert len(system.names()) == 1
        assert ends == []

    supervised(SupervisorSpec(), body)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ChildSpec("", lambda: None), "needs an id"),
        (lambda: ChildSpec("a", None), "start must be callable"),
        (lambda: ChildSpec("a", lambda: None, "always"), "restart must be a Restart"),
        (lambda: ChildSpec("a", lambda: None, shutdown_ns=-1), "shutdown_ns"),
        (lambda: SupervisorSpec((ChildSpec("a", lambda: None),) * 2), "two children have the id 'a'"),
        (lambda: SupervisorSpec(strategy="one_for_none"), "strategy"),
        (lambda: SupervisorSpec(intensity=-1), "intensity"),
        (lambda: SupervisorSpec(period_ns=0), "period_ns"),
        (lambda: Backoff(min_ns=2, max_ns=1), "min_ns <= max_ns"),
        (lambda: Backoff(jitter_percent=101), "jitter_percent"),
        (lambda: MailboxSpec(0), "at least one message"),
    ],
)
def test_every_bad_field_is_refused_by_name(make, text):
    """OTP: child_specs, sup_flags."""
    with pytest.raises(ValueError, match=text):
        make()
