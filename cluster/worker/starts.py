"""Starting executor children: one process from its start to its end, and the pauses between starts that fail."""

from collections.abc import Callable
from signal import SIGKILL

from actors import MILLISECOND, SECOND, Context, Exit, Nanos
from cluster.worker.child_messages import Ready, StartFailed

RESTART_DELAY_MIN: Nanos = 50 * MILLISECOND     # before the second restart in a row; the first is at once
RESTART_DELAY_MAX: Nanos = 5 * SECOND
LEAVE_GRACE: Nanos = 2 * SECOND             # a child that was let go ends within that, or is killed


class Start:
    """A child process. Who hears of it changes in its life: who waits for it, then its slot, in the end nobody."""

    def __init__(self, context: Context, entry: str, setup: bytes, page_bytes: int, label: str) -> None:
        self.on_frame: Callable[[bytes], None] = _ignore
        self.on_exit: Callable[[Exit], None] = _ignore
        self.ready: Ready | None = None             # what it said when it was
        self.failure: StartFailed | None = None     # ... or that it never will be
        self.has_ended = False
        self._context = context
        callback = context.callback
        self.child = context.processes.spawn(
            entry,
            setup,
            page_bytes=page_bytes,
            on_frame=callback(lambda frame: self.on_frame(frame)),
            on_exit=callback(self._ended),
            label=label,
        )

    def let_go(self, gone: Callable[[], None]) -> None:
        """It has no task and gets none: it ends by itself, or is killed after a grace. Nobody hears what it says;
        `gone` is called when it has ended."""

        def on_exit(exit: Exit) -> None:
            self.on_exit = _ignore          # it would keep itself
            self._context.cancel_timer(self)
            gone()

        self.on_frame, self.on_exit = _ignore, on_exit
        self.child.close()
        self._context.timer(self, LEAVE_GRACE, lambda: self.child.signal(SIGKILL))

    def _ended(self, exit: Exit) -> None:
        self.has_ended = True
        self.on_exit(exit)

    def kill(self) -> None:
        """Ends it at once, and nobody hears of it."""
        self.on_frame = self.on_exit = _ignore
        self.child.signal(SIGKILL)


class Pauses:
    """How long to wait before a start: not at all, unless the one before did not last."""

    def __init__(self) -> None:
        self._failures = 0                  # starts in a row that did not last

    def next(self) -> Nanos:
        """The pause before the next start."""
        failures, self._failures = self._failures, self._failures + 1
        return 0 if failures == 0 else min(RESTART_DELAY_MIN << min(failures - 1, 16), RESTART_DELAY_MAX)

    def reset(self) -> None:
        """A child has lasted."""
        self._failures = 0


def _ignore(_: object) -> None:
    pass
