"""The pauses between starts that fail, and what becomes of a child that is let go."""

from signal import SIGKILL
from types import SimpleNamespace
from typing import Any

from actors import MILLISECOND, SECOND, Exit
from cluster.worker.starts import LEAVE_GRACE, Pauses, Start


def test_the_first_restart_is_at_once_and_the_pauses_grow_to_five_seconds():
    pauses = Pauses()
    found = [pauses.next() for _ in range(12)]
    assert found[:4] == [0, 50 * MILLISECOND, 100 * MILLISECOND, 200 * MILLISECOND]
    assert found[-1] == 5 * SECOND and found == sorted(found)
    pauses.reset()
    assert pauses.next() == 0


class World:
    """The context of a start, its processes, and the one child."""

    def __init__(self) -> None:
        self.processes = self.child = self
        self.did: list[object] = []
        self.timers: dict[object, Any] = {}

    def callback(self, function: Any) -> Any:
        return function

    def spawn(self, entry: str, setup: bytes, **callbacks: Any) -> "World":
        self.says = SimpleNamespace(**callbacks)
        return self

    def close(self) -> None:
        self.did.append("close")

    def signal(self, number: int) -> None:
        self.did.append(number)

    def timer(self, key: object, delay: int, what: Any) -> None:
        self.timers[key] = (delay, what)

    def cancel_timer(self, key: object) -> None:
        del self.timers[key]


def test_who_hears_of_a_child_changes_in_its_life():
    world = World()
    start = Start(world, "m:f", b"", 64, "w1/0")  # type: ignore[arg-type]
    heard: list[object] = []
    start.on_frame, start.on_exit = heard.append, heard.append
    world.says.on_frame(b"one")
    start.let_go(lambda: heard.append("gone"))
    world.says.on_frame(b"two")
    world.says.on_exit(Exit(0, None))
    assert heard == [b"one", "gone"] and world.did == ["close"] and world.timers == {}


def test_a_child_that_was_let_go_and_does_not_end_is_killed():
    world = World()
    start = Start(world, "m:f", b"", 64, "w1/0")  # type: ignore[arg-type]
    start.let_go(lambda: None)
    ((delay, kill),) = world.timers.values()
    kill()
    assert delay == LEAVE_GRACE and world.did == ["close", SIGKILL]
