"""What is decided for tasks that use nothing new stays what it was, entry by entry.

The digests below were computed by earlier versions of the state machine, from streams that are made here and depend on
nothing else in these tests. An option that comes later must not change what happens to tasks without it. Whoever means
to decide otherwise computes them anew, and says why: run this file as a program.
"""

import sys

import pytest
from state_rig import EPOCH_MS, encode_entry

from cluster.state.commands import (
    GRACE_NONE,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    PREFETCH_AUTO,
    ROLE_CLIENT,
    ROLE_WORKER,
    Cancel,
    Close,
    Command,
    Complete,
    Drain,
    Expire,
    Failure,
    Options,
    Outcome,
    Register,
    Replay,
    RetryRule,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.machine import Machine

ENTRIES = 600
NAMES = ("f", "g", "h")
BROKEN = (OUTCOME_FAILED, OUTCOME_FAILED, OUTCOME_CRASHED, OUTCOME_RETURNED, OUTCOME_SUSPECTED)
# Seed -> the rolling digest after half of its stream, and after all of it.
DIGESTS: dict[int, tuple[int, int]] = {
    1: (4_187_030_716, 3_932_953_040),
    2: (900_110_797, 3_146_321_136),
    3: (3_171_328_911, 3_664_283_029),
    4: (2_000_136_976, 4_233_363_300),
    5: (1_556_528_487, 4_032_105_030),
    6: (322_922_586, 2_320_182_754),
}


class Lots:
    """Chance that is the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        self._state = (self._state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % (1 << 64)
        return (self._state >> 33) % bound


class PlainStream:
    """Two clients and a few workers that come and go, and `machine`, which applies what they say."""

    def __init__(self, seed: int) -> None:
        self.machine = Machine()
        self._lots = Lots(seed)
        self._index = 0
        self._now_ms = EPOCH_MS
        self._seqs: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._submitted: list[int] = []
        self._incarnation = 0
        for name in ("c1", "c2"):
            self._apply(Register(name, 1, ROLE_CLIENT))

    def run(self, entries: int) -> None:
        for _ in range(entries):
            self._now_ms += self._lots.below(120)
            self._apply(*[self._command() for _ in range(1 + self._lots.below(4))])

    def _apply(self, *commands: Command) -> None:
        self._index += 1
        self.machine.apply(self._index, 1, encode_entry(*commands, now_ms=self._now_ms), None)

    def _command(self) -> Command:
        workers = self.machine.worker_sessions()
        roll = self._lots.below(100)
        if len(workers) < 2 or roll < 4:
            return self._worker()
        session = workers[self._lots.below(len(workers))]
        if roll < 6:
            return Expire(session.id, session.incarnation)
        if roll < 7:
            return Close(session.id, session.incarnation)
        if roll < 9:
            return Drain(session.id, *self._next(session.id))
        if roll < 45:
            return self._submit(1 + self._lots.below(2))
        if roll < 50:
            return Cancel(1, *self._next(1), self._some(4), (GRACE_NONE, 300)[self._lots.below(2)])
        if roll < 53:
            return Replay(2, *self._next(2), self._some(6))
        return self._complete(session.id)

    def _next(self, session: int) -> tuple[int, int]:
        """Its next number, and the lowest that it waits for."""
        known = self.machine.session(session)
        assert known is not None
        seq = self._seqs[session] = max(self._seqs.get(session, 0) + 1, known.next_seq)
        return seq, seq

    def _some(self, count: int) -> list[int]:
        recent = self._submitted[-200:] or [0]
        return [recent[self._lots.below(len(recent))] for _ in range(1 + self._lots.below(count))]

    def _worker(self) -> Command:
        below = self._lots.below
        self._incarnation += 1
        names = NAMES[: 1 + below(3)]
        labels = ((), (), ("gpu",))[below(3)]
        prefetch = (PREFETCH_AUTO, PREFETCH_AUTO, 1, 4)[below(4)]
        queues = ("default", "other")[: 1 + below(2)]
        loop = (("h",), 8) if below(3) == 0 else ((), 0)
        spec = WorkerSpec(1 + below(4), queues, names, prefetch, labels, *loop)
        return Register(f"w{below(5)}", self._incarnation, ROLE_WORKER, spec)

    def _submit(self, session: int) -> Command:
        below = self._lots.below
        groups: list[TaskGroup] = []
        first = self._numbers.get(session, 0) + 1
        for _ in range(1 + below(3)):
            count = (1, 3, 20)[below(3)]
            groups.append(TaskGroup(NAMES[below(3)], first, [b"body"] * count, self._options()))
            self._submitted += [session << 24 | number for number in range(first, first + count)]
            first += count
        self._numbers[session] = first - 1
        return Submit(session, *self._next(session), groups)

    def _options(self) -> Options | None:
        below = self._lots.below
        if below(2):
            return None
        key = ("", "", "", "k1", "k2")[below(5)]
        return Options(
            queue=("default", "default", "other")[below(3)],
            priority=(5, 5, 0, 9)[below(4)],
            delay_ms=(0, 0, 0, 150)[below(4)],
            expires_ms=(0, 0, 0, 400)[below(4)],
            result_ttl_ms=(3_600_000, 1_000)[below(2)],
            retries=(0, 2)[below(2)],
            labels=((), (), ("gpu",))[below(3)],
            retry=(None, RetryRule(0, 0), RetryRule(40, 500))[below(3)],
            key=key,
            actor="A" if key else "",
        )

    def _complete(self, session: int) -> Command:
        below = self._lots.below
        outcomes: list[Outcome] = []
        for given in self.machine.held_by(session)[: (1, 4, 40)[below(3)]]:
            status = OUTCOME_COMPLETED if below(6) else BROKEN[below(len(BROKEN))]
            error = None if status == OUTCOME_COMPLETED else Failure("E", "m", kinds=("E", "Exception"))
            run_us = (5, 300, 2_000, 40_000)[below(4)]
            outcomes.append(Outcome(given.task, given.attempt, status, self._now_ms, run_us, b"ok", error))
        return Complete(session, *self._next(session), outcomes)


def digests_of(seed: int) -> tuple[int, int]:
    """After half of the stream and at its end."""
    stream = PlainStream(seed)
    stream.run(ENTRIES // 2)
    middle = stream.machine.rolling
    stream.run(ENTRIES // 2)
    stream.machine.check()
    queues = stream.machine.status()["queues"]
    assert min(sum(row[state] for row in queues) for state in ("completed", "failed", "dead", "cancelled")) > 0
    return middle, stream.machine.rolling


@pytest.mark.parametrize("seed", DIGESTS)
def test_tasks_without_new_options_meet_the_decisions_that_they_always_met(seed: int) -> None:
    assert digests_of(seed) == DIGESTS[seed]


if __name__ == "__main__":
    for number in range(1, 7):
        middle, last = digests_of(number)
        sys.stdout.write(f"    {number}: ({middle:_}, {last:_}),\n")
