"""A broker's side of compaction: starts a compactor when the log is long enough, hears of it, ends it if it hangs.

At most one runs. What it writes changes nothing until the owner adopts it, so its death at any moment costs only the
work: the next attempt comes after a pause that doubles.
"""

from collections.abc import Callable
from signal import SIGKILL

import msgspec

from actors import Child, Context, Exit, Nanos
from cluster.compaction.compactor import ENTRY
from cluster.compaction.messages import NotWritten, Plan, Written, encode, from_compactor_decoder
from cluster.compaction.policy import CompactionLimits, Pressure, pressure
from cluster.storage.snapshots import discard_unfinished

PAGE_BYTES = 8              # a compactor shares no memory with the broker


class Compacting:
    """Call `look` now and then. `plan(nice)` gives what to do, None if there is nothing to do it with; `adopt` gets
    each finished snapshot, and says why it is not taken, "" if it is; `set_aside` is told that the snapshot of this
    index, which one had to begin with, is damaged."""

    def __init__(
        self,
        context: Context,
        limits: CompactionLimits,
        plan: Callable[[int], Plan | None],
        adopt: Callable[[Written], str],
        set_aside: Callable[[int, str], None],
    ) -> None:
        self.pressure = Pressure.NONE
        self._context = context
        self._limits = limits
        self._plan = plan
        self._adopt = adopt
        self._set_aside = set_aside
        self._child: Child | None = None
        self._index = 0                     # of the snapshot that it writes
        self._base = 0                      # of the one that it begins with
        self._started: Nanos = 0
        self._heard: Nanos = 0
        self._not_before: Nanos = 0         # after a failure
        self._failures = 0                  # in a row
        self._written: Written | None = None
        self._reason = ""                   # why there is none, whatever else it says
        self._is_base_damaged = False

    @property
    def is_busy(self) -> bool:
        return self._child is not None

    @property
    def may_begin(self) -> bool:
        """It is not at work, and not in the pause after a failure."""
        return self._child is None and self._context.clock.now() >= self._not_before

    @property
    def index(self) -> int:
        """Of the snapshot that is being made, 0 if none is."""
        return self._index if self._child is not None else 0

    def look(
        self,
        log_bytes: int,
        snapshot_bytes: int,
        stagger_ppm: int = 0,
        *,
        waits: bool = False,
        would_make_room: bool = False,
    ) -> None:
        """Judges the log since the last snapshot, of that many bytes, and acts. While it `waits` for a snapshot from
        elsewhere it begins nothing."""
        now = self._context.clock.now()
        self.pressure = pressure(
            self._limits, log_bytes, snapshot_bytes, stagger_ppm, would_make_room=would_make_room
        )
        if self._child is not None:
            if now - self._heard > self._limits.silence_max:
                self._reason = "it was silent for too long"
                self._heard = now
                self._child.signal(SIGKILL)
        elif self.pressure is not Pressure.NONE and not waits and self.may_begin:
            self._start(now)

    def stop(self) -> None:
        """The broker ends, or a snapshot came from elsewhere: what is being written is of no use."""
        child, self._child = self._child, None
        if child is not None:
            child.signal(SIGKILL)

    def _start(self, now: Nanos) -> None:
        plan = self._plan(self._limits.nice if self.pressure < Pressure.URGENT else 0)
        if plan is None:
            return
        self._index, self._base = plan.meta.index, plan.base
        self._started = self._heard = now
        self._written, self._reason, self._is_base_damaged = None, "", False
        callback = self._context.callback
        child: list[Child] = []     # this one, for callbacks that may come when another one runs

        def frame(data: bytes) -> None:
            if self._child is child[0]:
                self._on_frame(data)

        def exit(end: Exit) -> None:
            if self._child is child[0]:
                self._on_exit(end)
            if self._child is None or self._index != plan.meta.index:
                # One that was killed left it, and on a full disk it is in the way of the next.
                files, index = self._context.files, plan.meta.index
                files.submit(lambda: discard_unfinished(files, plan.directory, index), _ignore, background=True)

        spawn = self._context.processes.spawn
        child.append(
            spawn(ENTRY, b"", page_bytes=PAGE_BYTES, on_frame=callback(frame), on_exit=callback(exit))
        )
        self._child = child[0]
        self._child.send(encode(plan))
        self._context.log.event("compaction_started", base=plan.base, index=plan.meta.index, nice=plan.nice)

    def _on_frame(self, data: bytes) -> None:
        self._heard = self._context.clock.now()
        try:
            news = from_compactor_decoder.decode(data)
        except msgspec.MsgspecError:
            self._reason = "it said something that no compactor says"
            return
        if isinstance(news, Written):
            self._written = news
        elif isinstance(news, NotWritten):
            self._reason = news.reason
            self._is_base_damaged = news.is_base_damaged

    def _on_exit(self, end: Exit) -> None:
        self._child = None
        reason = self._reason or self._outcome(end)
        if not reason:
            self._failures = 0
            return
        self._failures += 1
        now, limits = self._context.clock.now(), self._limits
        pause = min(limits.retry_min << min(self._failures - 1, 16), limits.retry_max)
        self._not_before = now + pause
        self._context.log.event(
            "compaction_failed", index=self._index, reason=reason, again_after_ms=pause // 1_000_000
        )
        if self._is_base_damaged:
            self._set_aside(self._base, reason)

    def _outcome(self, end: Exit) -> str:
        """Why there is no new snapshot, "" if there is one and it was taken."""
        written = self._written
        if written is None:
            return f"it ended with code {end.code}, signal {end.signal}: {end.stderr.decode(errors='replace')}"
        if written.index != self._index:
            return f"it says that it wrote snapshot {written.index}"
        took_ms = (self._context.clock.now() - self._started) // 1_000_000
        reason = self._adopt(written)
        if not reason:
            self._context.log.event("snapshot_written", index=written.index, size=written.size, took_ms=took_ms)
        return reason


def _ignore(outcome: object) -> None:
    """A file that could not be removed is removed at the next start."""
