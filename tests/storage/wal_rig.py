"""A log on a simulated disk, and the model that it is compared with."""

import heapq
from collections.abc import Callable
from functools import partial
from random import Random

from actors.runtime.ports import Nanos
from actors.simulation.disk import PowerLost, SimulatedDisk
from cluster.raft.messages import Entry, EntryKind
from cluster.storage.header import FRAMES_START
from cluster.storage.record import GROUP, encode_record
from cluster.storage.recovery import Recovery
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.wal import Wal

DIRECTORY = "data/b1"
SMALL = WalLimits(segment_bytes=FRAMES_START + 4_096, zero_chunk_bytes=4_096)


class VirtualCall:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.time = 0
        self._calls: list[tuple[Nanos, int, VirtualCall]] = []
        self._count = 0

    def now(self) -> Nanos:
        return self.time

    def wall_ms(self) -> int:
        return self.time // 1_000_000

    def call_soon(self, callback: Callable[[], None]) -> VirtualCall:
        return self.call_at(self.time, callback)

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> VirtualCall:
        call = VirtualCall(callback)
        self._count += 1
        heapq.heappush(self._calls, (when, self._count, call))
        return call

    def advance(self, duration: Nanos = 1_000_000_000) -> None:
        end = self.time + duration
        while self._calls and self._calls[0][0] <= end:
            self.time, _, call = heapq.heappop(self._calls)
            if call.callback is not None:
                call.callback()
        self.time = end

    def finish(self, jobs: object) -> None:
        """The oldest of these jobs of a `SimulatedFiles` ends now; the time stands, and so does everything else."""
        for _, _, call in self._calls:
            if isinstance(call.callback, partial) and call.callback.args == (jobs,):
                finish = call.callback
                call.cancel()
                finish()
                return
        raise AssertionError("no job is under way")


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)


State = tuple[tuple[int, int, bytes], ...]      # (index, term, payload) of every entry


class Rig:
    """One node: its disk, its log while it is open, and what the log has acknowledged."""

    def __init__(
        self, seed: int = 1, *, mode: str = "inline", limits: WalLimits = SMALL, latency: Nanos = 0
    ) -> None:
        self.clock = VirtualClock()
        self.entropy = SeededEntropy(seed)
        self.disk = SimulatedDisk(self.clock, self.entropy, lambda: latency)
        self.mode = mode
        self.limits = limits
        self.identity = NodeIdentity("b1", "test", 7)
        self.persisted: list[int] = []
        self.failures: list[Exception] = []
        # (write id or -1, (term, vote), entries) after each step of a write.
        self.states: list[tuple[int, tuple[int, int], State]] = [(0, (0, 0), ())]
        self.term, self.vote, self.commit = 0, 0, 0
        self.log: list[Entry] = []
        self.next_write = 1
        self.pid = 1
        self.wal: Wal | None = None

    def settle_release(self) -> None:
        """The log was closed, and has nothing under way: its directory is given up behind all jobs in the background.
        """
        foreground, background = self.files._lanes
        while background and not foreground:
            self.clock.finish(background)

    def open(self, **options: object) -> tuple[Wal, Recovery]:
        if self.wal is not None and self.wal._closed:
            self.settle_release()
        self.files = self.disk.mount(self.pid, self.clock)
        self.wal, recovery = Wal.open(
            self.files, DIRECTORY, self.identity,
            salt=lambda: self.entropy.bits(64),
            clock=self.clock,
            limits=self.limits,
            sync_mode=self.mode,  # type: ignore[arg-type]
            on_persisted=self.persisted.append,
            on_failed=self.failures.append,
            **options,  # type: ignore[arg-type]
        )
        return self.wal, recovery

    def crash(self) -> None:
        """Power is lost; the model starts anew from what the next recovery says."""
        self.disk.crash()
        self.pid += 1
        self.wal = None

    def append(
        self, count: int = 1, *, term: int | None = None, vote: int | None = None, truncate_from: int = 0,
        size: int = 100,
    ) -> int:
        """Queues one write of `count` entries, in the log and in the model; returns its id."""
        assert self.wal is not None
        if term is not None and term > self.term:
            self.term, self.vote = term, 0
        if vote is not None:
            self.vote = vote
        if truncate_from:
            self.log = self.log[: truncate_from - 1]
            self._note()
        entries = []
        for _ in range(count):
            index = len(self.log) + 1
            payload = f"{index}/{self.term}/{self.next_write} ".encode().ljust(size, b"x")
            entries.append(Entry(index, self.term, EntryKind.NORMAL, payload))
            encode_record(GROUP, entries[-1])
            self.log.append(entries[-1])
            self._note()
        write_id, self.next_write = self.next_write, self.next_write + 1
        self._note(write_id)
        self.wal.append(write_id, self.term, self.vote, self.commit, truncate_from, entries)
        return write_id

    def write(self, count: int = 1, **options: int) -> int:
        """One write, and time enough until the next that a marker follows it."""
        write_id = self.append(count, **options)  # type: ignore[arg-type]
        assert self.wal is not None
        self.wal.flush()
        self.settle()
        self.wal.mark()
        self.settle()
        return write_id

    def settle(self) -> None:
        """With syncs on the loop only what is too much for it is left to jobs; those of the log's own end at once."""
        assert self.wal is not None
        if self.mode == "thread":
            self.clock.advance()
        while not self.wal.is_idle and not self.failures:
            self.clock.finish(self.files._lanes[0])
        if self.mode == "inline" and self.failures:
            raise self.failures[-1]

    def check(self, recovery: Recovery) -> None:
        """Nothing acknowledged is lost, and nothing is there that was never written."""
        acknowledged = self.persisted[-1] if self.persisted else 0
        position = max(n for n, state in enumerate(self.states) if state[0] <= acknowledged and state[0] >= 0)
        _, vote, _ = self.states[position]
        assert recovery.damaged is None
        assert not recovery.quarantined
        state = recovery.hard_state
        assert (state.term, state.vote) >= vote, f"forgot {vote}"
        assert (state.term, state.vote) <= (self.term, self.vote)
        admissible = {entries for _, _, entries in self.states[position:]}
        found = self.read_all()
        assert found in admissible, f"acknowledged {acknowledged}, found {len(found)} entries"

    def adopt(self, recovery: Recovery) -> None:
        """Goes on from what was recovered, as a node does."""
        state = recovery.hard_state
        self.term, self.vote, self.commit = state.term, state.vote, state.commit
        assert self.wal is not None
        self.log = self.wal.read(1, self.wal.last_index + 1, 1 << 30) if self.wal.last_index else []
        self.persisted.clear()
        self.next_write = 1
        self.states = [(0, (self.term, self.vote), self.read_all())]

    def read_all(self) -> State:
        assert self.wal is not None
        if not self.wal.last_index:
            return ()
        entries = self.wal.read(1, self.wal.last_index + 1, 1 << 30)
        return tuple((entry.index, entry.term, entry.payload) for entry in entries)

    def segments(self) -> list[str]:
        return [path for path in self.disk.paths() if path.endswith(".wal")]

    def segment(self) -> str:
        return self.segments()[-1]

    def _note(self, write_id: int = -1) -> None:
        """A state that a torn write may leave (-1), or the one after a whole write."""
        entries = tuple((entry.index, entry.term, entry.payload) for entry in self.log)
        self.states.append((write_id, (self.term, self.vote), entries))


__all__ = ["DIRECTORY", "SMALL", "PowerLost", "Rig", "SeededEntropy", "VirtualClock"]
