"""Actors in a system: dispatch, asks, delivery (D1 to D8), monitors (W1 to W8), timers, the end."""

import asyncio
from typing import Any

import pytest
from actor_world import log_of, pause, run_in_world
from msgspec import Struct

from actors import (
    MILLISECOND,
    SECOND,
    Actor,
    ActorSystem,
    AskDied,
    AskNotFound,
    AskOverloaded,
    AskTimeout,
    Down,
    ExitReason,
    Failed,
    Killed,
    MailboxSpec,
    NameTaken,
    Normal,
    NotFound,
    Overflow,
    Ports,
    Ref,
    Reply,
    Shutdown,
    handles,
)
from actors.simulation import World


class Add(Struct):
    amount: int


class Get(Struct):
    pass


class Crash(Struct):
    pass


class Quit(Struct):
    pass


class Slow(Struct):
    seconds: int


class Counter(Actor):
    def __init__(self) -> None:
        self.total = 0
        self.seen: list[int] = []
        self.ended: list[ExitReason] = []

    @handles
    def on_add(self, message: Add) -> int:
        self.total += message.amount
        self.seen.append(message.amount)
        return self.total

    @handles
    def on_get(self, message: Get) -> list[int]:
        return self.seen

    @handles
    def on_crash(self, message: Crash) -> None:
        raise RuntimeError("as asked")

    @handles
    def on_quit(self, message: Quit) -> str:
        self.context.stop()
        return "bye"

    @handles
    async def on_slow(self, message: Slow) -> str:
        await pause(self.context.system, message.seconds * SECOND)
        return "done"

    def stopped(self, reason: ExitReason) -> None:
        self.ended.append(reason)


class Watcher(Actor):
    def __init__(self) -> None:
        self.downs: list[Down] = []

    @handles
    def on_down(self, message: Down) -> None:
        self.downs.append(message)


def test_an_ask_is_answered_with_what_the_handler_returns():
    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter())
        ref.tell(Add(1))
        return await ref.ask(Add(2), SECOND), await ref.ask(Get(), SECOND)

    assert run_in_world(main) == (3, [1, 2])


def test_an_async_handler_finishes_before_the_next_message_is_handled():
    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter())
        slow = ref.ask(Slow(3), 10 * SECOND)
        after = ref.ask(Add(1), 10 * SECOND)
        await pause(system, 2 * SECOND)
        busy = after.done()
        return busy, await slow, await after

    assert run_in_world(main) == (False, "done", 1)


def test_handlers_take_unions_and_subclasses_replace_them():
    class Base(Actor):
        @handles
        def on_both(self, message: Add | Get) -> str:
            return "base"

    class Derived(Base):
        @handles
        def on_get(self, message: Get) -> str:
            return "derived"

    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Derived())
        return await ref.ask(Add(1), SECOND), await ref.ask(Get(), SECOND)

    assert run_in_world(main) == ("base", "derived")


def test_bad_handlers_are_told_when_the_class_is_made():
    with pytest.raises(TypeError, match="two handlers of Add"):

        class Twice(Actor):
            @handles
            def one(self, message: Add) -> None: ...

            @handles
            def two(self, message: Add) -> None: ...

    with pytest.raises(TypeError, match="must take self and one message"):

        class TooMany(Actor):
            @handles
            def one(self, message: Add, more: int) -> None: ...

    with pytest.raises(TypeError, match="annotate its message"):

        class Untyped(Actor):
            @handles
            def one(self, message) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match="not known here"):

        class Unknown(Actor):
            @handles
            def one(self, message: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_an_ask_without_an_answer_ends_at_its_deadline():
    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter())
        began = system.ports.clock.now()
        with pytest.raises(AskTimeout):
            await ref.ask(Slow(60), 2 * SECOND)
        return system.ports.clock.now() - began

    assert 2 * SECOND <= run_in_world(main) < 2 * SECOND + 10 * MILLISECOND


def test_an_ask_of_a_message_that_is_not_handled_is_not_found():
    class Deaf(Actor):
        pass

    async def main(system: ActorSystem) -> None:
        with pytest.raises(AskNotFound, match="does not handle Add"):
            await system.spawn(Deaf()).ask(Add(1), SECOND)
        with pytest.raises(AskNotFound, match="no actor named"):
            await system.ref("local", "nobody").ask(Add(1), SECOND)
        assert system.dead_letters == 2

    run_in_world(main)


def test_an_ask_dies_with_the_actor_whether_its_message_was_handled_waited_or_came_late():
    async def main(system: ActorSystem) -> None:
        ref = system.spawn(Counter())
        asks = [ref.ask(message, 60 * SECOND) for message in (Crash(), Add(1))]
        for ask in asks:
            with pytest.raises(AskDied) as caught:
                await ask
            assert isinstance(caught.value.reason, Failed)
            assert caught.value.reason.message == "as asked"
        with pytest.raises(AskDied):
            await ref.ask(Add(1), SECOND)

    run_in_world(main)


def test_a_deferred_answer_comes_later_and_dies_with_the_actor():
    class Later(Actor):
        replies: list[Reply]

        def started(self) -> None:
            self.replies = []

        @handles
        def on_get(self, message: Get) -> None:
            self.replies.append(self.context.defer())

        @handles
        def on_add(self, message: Add) -> None:
            self.replies[0].answer(message.amount)
            self.replies[0].answer(-1)

        @handles
        def on_quit(self, message: Quit) -> None:
            self.context.stop()

    async def main(system: ActorSystem) -> None:
        ref = system.spawn(Later())
        first, second = ref.ask(Get(), 9 * SECOND), ref.ask(Get(), 9 * SECOND)
        ref.tell(Add(5))
        ref.tell(Quit())
        assert await first == 5
        with pytest.raises(AskDied):
            await second

    run_in_world(main)


def test_an_asker_that_leaves_is_forgotten():
    async def main(system: ActorSystem) -> None:
        ask = asyncio.ensure_future(system.spawn(Counter()).ask(Slow(5), 9 * SECOND))
        await pause(system, SECOND)
        ask.cancel()
        await pause(system, 10 * SECOND)
        assert len(system._asks) == 0

    run_in_world(main)


def test_messages_of_one_sender_arrive_once_and_in_order():
    """D1, D2."""

    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter(), mailbox=MailboxSpec(10_000))
        for number in range(5_000):
            assert ref.tell(Add(number))
        return await ref.ask(Get(), SECOND)

    assert run_in_world(main) == list(range(5_000))


def test_order_is_not_transitive():
    """D4: what A sends to C directly may come before or after what it sends to C through B."""

    class Forward(Actor):
        def __init__(self, target: Ref[Any]) -> None:
            self.target = target

        @handles
        def on_add(self, message: Add) -> None:
            self.target.tell(message)

    async def main(system: ActorSystem) -> Any:
        last = system.spawn(Counter())
        through = system.spawn(Forward(last))
        await pause(system, SECOND)
        through.tell(Add(1))
        last.tell(Add(2))
        await pause(system, SECOND)
        return await last.ask(Get(), SECOND)

    assert run_in_world(main) == [2, 1]


def test_started_runs_before_the_first_message_even_if_it_is_async():
    """D5."""

    class SlowStart(Counter):
        async def started(self) -> None:
            await pause(self.context.system, SECOND)
            self.total = 100

    async def main(system: ActorSystem) -> Any:
        return await system.spawn(SlowStart()).ask(Add(1), 9 * SECOND)

    assert run_in_world(main) == 101


def test_down_comes_after_all_that_a_graceful_actor_has_sent():
    """D6."""

    class Talker(Actor):
        def __init__(self, target: Ref[Any]) -> None:
            self.target = target

        @handles
        def on_quit(self, message: Quit) -> None:
            for number in range(3):
                self.target.tell(Add(number))
            self.context.stop()

    class Listener(Actor):
        def __init__(self) -> None:
            self.log: list[object] = []

        @handles
        def on_add(self, message: Add) -> None:
            self.log.append(message.amount)

        @handles
        def on_down(self, message: Down) -> None:
            self.log.append(message.reason)

        @handles
        def on_get(self, message: Get) -> list[object]:
            return self.log

        @handles
        def on_ref(self, message: Ref) -> None:
            self.context.monitor(message)

    async def main(system: ActorSystem) -> Any:
        listener = system.spawn(Listener())
        talker = system.spawn(Talker(listener))
        listener.tell(talker)
        await pause(system, SECOND)
        talker.tell(Quit())
        await pause(system, SECOND)
        return await listener.ask(Get(), SECOND)

    assert run_in_world(main) == [0, 1, 2, Normal()]


def test_the_message_that_crashed_an_actor_is_not_handled_again():
    """D7."""

    async def main(system: ActorSystem) -> Any:
        actor = Counter()
        ref = system.spawn(actor)
        for message in (Add(1), Crash(), Add(2)):
            ref.tell(message)
        await pause(system, SECOND)
        assert not ref.tell(Add(3))
        assert isinstance(actor.ended[0], Failed)
        assert system.dead_letters == 2
        return actor.seen

    assert run_in_world(main) == [1]


def test_dead_letters_are_counted_all_and_logged_once_a_minute():
    """D8."""
    with World(1) as world:

        async def main(system: ActorSystem) -> None:
            for _ in range(1_000):
                system.ref("local", "nobody").tell(Add(1))
            assert system.dead_letters == 1_000
            await pause(system, 61 * SECOND)
            system.ref("local", "nobody").tell(Add(1))

        world.process("only", lambda ports: main(ActorSystem(ports)))
        world.run_for(100 * SECOND)
        first, second = log_of(world, "dead_letter")
        assert first["why"] == "not_found"
        assert second["suppressed"] == 999


@pytest.mark.parametrize("when", ["before", "after"])
def test_down_comes_exactly_once_whether_the_monitor_was_set_before_or_after_the_end(when):
    """W1, W2."""

    async def main(system: ActorSystem) -> Any:
        watcher, ref = Watcher(), system.spawn(Counter())
        system.spawn(watcher)
        if when == "after":
            ref.tell(Crash())
            await pause(system, SECOND)
        references = [watcher.context.monitor(ref), watcher.context.monitor(ref)]
        ref.tell(Crash())
        await pause(system, SECOND)
        assert [down.reference for down in watcher.downs] == references
        assert all(isinstance(down.reason, Failed) and down.ref == ref for down in watcher.downs)
        assert len(system.monitors) == 0

    run_in_world(main)


def test_after_demonitor_no_down_is_handled_even_if_it_is_queued():
    """W3."""

    async def main(system: ActorSystem) -> Any:
        watcher, ref = Watcher(), system.spawn(Counter())
        system.spawn(watcher)
        await pause(system, SECOND)
        reference = watcher.context.monitor(ref)
        ref.target.end(Normal())    # type: ignore[attr-defined]  # puts Down into the mailbox at once
        watcher.context.demonitor(reference)
        await pause(system, SECOND)
        return watcher.downs

    assert run_in_world(main) == []


def test_an_unknown_name_is_down_at_once():
    """W5."""

    async def main(system: ActorSystem) -> Any:
        watcher = Watcher()
        system.spawn(watcher)
        watcher.context.monitor(system.ref("local", "nobody"))
        await pause(system, SECOND)
        return [down.reason for down in watcher.downs]

    assert run_in_world(main) == [NotFound()]


def test_the_end_of_a_watcher_drops_its_monitors():
    """W7."""

    async def main(system: ActorSystem) -> Any:
        watcher, ref = Watcher(), system.spawn(Counter())
        of_watcher = system.spawn(watcher)
        watcher.context.monitor(ref)
        of_watcher.target.kill()    # type: ignore[attr-defined]
        return len(system.monitors)

    assert run_in_world(main) == 0


def test_a_down_that_nobody_handles_is_logged():
    """W8."""
    with World(1) as world:

        async def main(system: ActorSystem) -> None:
            actor, ref = Counter(), system.spawn(Counter(), name="watched")
            system.spawn(actor, name="watching")
            actor.context.monitor(ref)
            ref.tell(Quit())

        world.process("only", lambda ports: main(ActorSystem(ports)))
        world.run_for(SECOND)
        assert log_of(world, "down_unhandled") == [{"actor": "watching", "of": "watched", "reason": "normal"}]


def test_a_full_mailbox_rejects_and_an_ask_says_so():
    async def main(system: ActorSystem) -> None:
        ref = system.spawn(Counter(), mailbox=MailboxSpec(2, Overflow.REJECT))
        assert [ref.tell(Add(1)) for _ in range(3)] == [True, True, False]
        with pytest.raises(AskOverloaded):
            await ref.ask(Get(), SECOND)

    run_in_world(main)


def test_an_ask_that_is_dropped_from_a_full_mailbox_says_so():
    async def main(system: ActorSystem) -> None:
        ref = system.spawn(Counter(), mailbox=MailboxSpec(1, Overflow.DROP_OLDEST))
        ask = ref.ask(Get(), SECOND)
        assert ref.tell(Add(1))
        with pytest.raises(AskOverloaded):
            await ask

    run_in_world(main)


def test_a_local_sender_waits_for_room():
    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter(), mailbox=MailboxSpec(1, Overflow.BLOCK))
        assert ref.tell(Add(0))
        assert not ref.tell(Add(-1))
        sends = [ref.send(Add(number)) for number in (1, 2)]
        ask = ref.ask(Get(), SECOND)
        assert all([await send for send in sends])
        return await ask

    assert run_in_world(main) == [0, 1, 2]


def test_a_sender_that_waits_hears_of_the_end():
    async def main(system: ActorSystem) -> Any:
        ref = system.spawn(Counter(), mailbox=MailboxSpec(1, Overflow.BLOCK))
        ref.tell(Crash())
        return await ref.send(Add(1)), await ref.send(Add(2))

    assert run_in_world(main) == (True, False)


def test_an_actor_that_stops_itself_handles_nothing_that_was_due_at_the_same_time():
    """As `Context.stop` says. Both timers fire in one turn, as after a pause of the process."""

    class Stopping(Actor):
        def __init__(self) -> None:
            self.log: list[str] = []

        def started(self) -> None:
            self.context.timer("a", SECOND, self.stop)
            self.context.timer("b", SECOND, lambda: self.log.append("after the stop"))

        def stop(self) -> None:
            self.log.append("stop")
            self.context.stop()

        def stopped(self, reason: ExitReason) -> None:
            self.log.append(str(reason))

    async def main(system: ActorSystem) -> list[str]:
        actor = Stopping()
        system.spawn(actor)
        await pause(system, 2 * SECOND)
        return actor.log

    assert run_in_world(main) == ["stop", "normal"]


def test_timers_run_once_are_replaced_by_key_and_cancelled_even_when_due():
    class Clockwork(Watcher):
        def __init__(self) -> None:
            self.log: list[object] = []

        @handles
        def on_add(self, message: Add) -> None:
            self.log.append(message.amount)

    async def main(system: ActorSystem) -> Any:
        actor = Clockwork()
        system.spawn(actor)
        await pause(system, SECOND)
        context = actor.context
        context.timer("a", SECOND, lambda: actor.log.append("replaced"))
        context.timer("a", 2 * SECOND, lambda: actor.log.append("a"))
        context.timer("b", SECOND, Add(7))
        context.timer("c", SECOND, lambda: context.cancel_timer("d"))
        context.timer("d", SECOND, lambda: actor.log.append("cancelled"))
        await pause(system, 9 * SECOND)
        return actor.log

    assert run_in_world(main) == [7, "a"]


def test_a_callback_at_the_end_of_the_turn_runs_once_after_all_messages():
    class Batcher(Actor):
        def __init__(self) -> None:
            self.batch: list[int] = []
            self.batches: list[list[int]] = []

        @handles
        def on_add(self, message: Add) -> None:
            self.batch.append(message.amount)
            self.context.at_turn_end(self.flush)

        def flush(self) -> None:
            self.batches.append(self.batch)
            self.batch = []

    async def main(system: ActorSystem) -> Any:
        actor = Batcher()
        ref = system.spawn(actor)
        for number in range(100):
            ref.tell(Add(number))
        await pause(system, SECOND)
        return actor.batches

    assert run_in_world(main) == [list(range(100))]


def test_children_end_before_their_parent_the_youngest_first():
    log: list[str] = []

    class Node(Actor):
        def __init__(self, name: str, children: int) -> None:
            self.name = name
            self.children = children

        def started(self) -> None:
            for number in range(self.children):
                self.context.spawn(Node(f"{self.name}.{number}", 0))

        def stopped(self, reason: ExitReason) -> None:
            log.append(self.name)
            assert reason == Shutdown()

    async def main(system: ActorSystem) -> None:
        system.spawn(Node("a", 2))
        system.spawn(Node("b", 1))
        await pause(system, SECOND)
        system.stop()
        await system.wait_stopped()
        assert system.names() == []

    run_in_world(main)
    assert log == ["b.0", "b", "a.1", "a.0", "a"]


def test_a_thousand_children_end_without_a_thousand_frames_of_stack():
    class Parent(Actor):
        def started(self) -> None:
            for _ in range(2_000):
                self.context.spawn(Counter())

    async def main(system: ActorSystem) -> Any:
        system.spawn(Parent())
        await pause(system, SECOND)
        system.stop()
        return system.names()

    assert run_in_world(main) == []


def test_an_actor_that_does_not_stop_is_killed_at_its_limit_with_all_below():
    class Stubborn(Counter):
        async def started(self) -> None:
            self.context.spawn(Counter(), name="below")

    async def main(system: ActorSystem) -> Any:
        actor = Stubborn()
        ref = system.spawn(actor, shutdown=2 * SECOND)
        ref.tell(Slow(600))
        await pause(system, SECOND)
        reasons: list[ExitReason] = []
        system.on_exit(ref, reasons.append)
        began = system.ports.clock.now()
        system.stop()
        await system.wait_stopped()
        assert reasons == [Killed()]
        assert actor.ended == []
        return system.ports.clock.now() - began

    assert 2 * SECOND <= run_in_world(main) < 2 * SECOND + 10 * MILLISECOND


def test_the_name_of_an_actor_that_ended_is_free_when_its_down_comes():
    class Successor(Actor):
        def started(self) -> None:
            self.context.monitor(self.context.spawn(Counter(), name="one"))

        @handles
        def on_down(self, message: Down) -> None:
            self.context.spawn(Counter(), name="one")

    async def main(system: ActorSystem) -> Any:
        system.spawn(Successor())
        await pause(system, SECOND)
        with pytest.raises(NameTaken):
            system.spawn(Counter(), name="one")
        first = system.lookup("one")
        assert first is not None
        by_name = system.ref("local", "one")
        first.tell(Crash())
        await pause(system, SECOND)
        assert system.lookup("one") not in (None, first)
        assert not first.tell(Add(1))
        return await by_name.ask(Add(1), SECOND)

    assert run_in_world(main) == 1


def test_an_error_in_a_callback_from_outside_ends_the_actor_that_it_belongs_to():
    async def main(system: ActorSystem) -> Any:
        actor = Counter()
        ref = system.spawn(actor)
        await pause(system, SECOND)
        callback = actor.context.callback(lambda: 1 // 0)
        callback()
        callback()    # silent: it is dead
        assert not ref.tell(Add(1))
        return actor.ended[0]

    assert run_in_world(main).type == "ZeroDivisionError"


def test_an_actor_whose_start_fails_ends_without_stopped():
    class Broken(Counter):
        def started(self) -> None:
            raise ValueError("no")

    async def main(system: ActorSystem) -> Any:
        actor = Broken()
        reasons: list[ExitReason] = []
        system.on_exit(system.spawn(actor), reasons.append)
        await pause(system, SECOND)
        assert actor.ended == []
        return reasons[0]

    assert run_in_world(main).type == "ValueError"


def test_an_error_by_which_an_actor_refuses_ends_it_as_any_other_but_is_no_crash_in_the_log():
    class Gate(Counter):
        refusals = (OSError,)       # and what is derived from it

        @handles
        def on_slow(self, message: Slow) -> None:
            raise PermissionError("not today") if message.seconds else ValueError("a bug")

    gates = [Gate(), Gate()]
    with World(1) as world:

        async def start(ports: Ports) -> None:
            system = ActorSystem(ports)
            for seconds, gate in enumerate(gates):
                system.spawn(gate).tell(Slow(seconds))
            await system.wait_stopped()

        world.process("only", start)
        assert world.run_until(lambda: all(gate.ended for gate in gates), 10 * SECOND)
        assert [str(gate.ended[0]) for gate in gates] == ["ValueError: a bug", "PermissionError: not today"]
        assert [event["reason"] for event in log_of(world, "actor_crashed")] == ["ValueError: a bug"]
