"""A process around an executor in which nothing happens by itself: time stands still, the lock of its page is free."""

from actors import MILLISECOND, Nanos
from cluster.worker.child_messages import FINISHED
from cluster.worker.page import PAGE_BYTES

START: Nanos = 1_000 * MILLISECOND


class Page:
    def __init__(self) -> None:
        self.view = memoryview(bytearray(PAGE_BYTES))

    def acquire(self, timeout: Nanos) -> bool:
        return True

    def release(self) -> None: ...


class Host:
    """Its `clock` is moved by the test. Notes when outcomes were announced, and takes no other frame."""

    def __init__(self) -> None:
        self.page = Page()
        self.clock = START
        self.announced: list[Nanos] = []

    def send(self, frame: bytes) -> None:
        assert frame == FINISHED
        self.announced.append(self.clock)

    def now(self) -> Nanos:
        return self.clock

    def wall_ms(self) -> int:
        return self.clock // MILLISECOND
