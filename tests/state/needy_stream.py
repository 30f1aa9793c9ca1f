"""A random stream in which tasks need others, and which judges from outside what dependencies promise: by what was
submitted, handed out and told, knowing nothing of how the state counts.

`python needy_stream.py SEED ENTRIES` prints the digests, for comparing processes with different hash seeds.
"""

import sys

import msgspec
from image_rig import ForgetfulStream
from random_stream import Stream
from state_rig import encode_entry

from cluster.state.commands import UNMET_UNKNOWN, Cancel, Command, Needs, Options, Submit, TaskGroup, Tick
from cluster.state.dependencies import End, Inputs
from cluster.state.effects import ANSWER_CROWDED, STATE_COMPLETED, STATE_FAILED, Effects, TaskResult
from cluster.state.queues import HELD

RECENT = 60             # of confirmed tasks, that are mostly needed


class NeedyStream(Stream):
    """`met` counts hand-outs of dependents, `unmet` ends of those that were not run, `told` failures that were told."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.needs: dict[int, Needs] = {}
        self.records: dict[int, TaskResult] = {}    # the last end of each
        self.states: dict[int, list[int]] = {}      # ... and how it ended each time
        self.may_lose = False                       # what others need, since too much of it is beyond its date
        self.behind: dict[int, int] = {}            # who waits until another one has stopped -> that one
        self.met = self.unmet = self.told = 0

    def _needs(self, session: int, first: int, count: int) -> list[Needs]:
        numbers = range(session << 24 | first, (session << 24 | first) + count)
        for number in numbers:      # of a command that came too early and is said no more
            self.needs.pop(number, None)
        if count > 10 or self.random.random() < 0.5:
            return []
        found = [self._some(session, first) for _ in numbers]
        self.needs.update(zip(numbers, found, strict=True))
        return found

    def _some(self, session: int, first: int) -> Needs:
        random = self.random
        known = self.confirmed[-RECENT:] if random.random() < 0.9 else self.confirmed
        if not known or random.random() < 0.02:
            return Needs([session << 24 | first + random.choice((0, 1, 8))])   # perhaps itself, or later ones
        numbers = random.choices(known, k=random.choice((1, 1, 2, 3, 8)))
        completed = [task for task in list(self.records)[-RECENT:] if self.records[task].state == STATE_COMPLETED]
        if completed and random.random() < 0.6:     # most others are cancelled, parked or lost: nobody would be let go
            numbers = [*random.choices(completed, k=len(numbers) // 2 + 1), *numbers[: random.choice((0, 0, 1))]]
        cut = random.choice((0, 0, 1, len(numbers)))
        return Needs(numbers[:cut], numbers[cut:])

    def _watch(self, effects: Effects) -> None:
        for results in effects.results.values():
            for result in results:
                self.records[result.task] = result
                self.states.setdefault(result.task, []).append(result.state)
        for results in effects.results.values():
            for result in results:
                if (unmet := None if result.error is None else result.error.unmet) is not None:
                    self.unmet += 1
                    self._judge_unmet(result)
                    needs = self.needs[result.task]     # one that is not known may have been a duplicate
                    assert unmet.task in (*needs_of(needs), *needs_of(self._followed(needs)))
        for assignments in effects.assignments.values():
            for given in self.machine.passed_on(assignments):
                if given.task in self.needs:
                    self._judge(self._followed(self.needs[given.task]), msgspec.msgpack.decode(given.body, type=Inputs))
        super()._watch(effects)

    def _followed(self, needs: Needs) -> Needs:
        """With those whose work is done in the place of duplicates."""
        first = {number: self.records[number].duplicate_of for number in needs_of(needs) if number in self.records}
        results, outcomes = (
            [first.get(number) or number for number in numbers] for numbers in (needs.results, needs.outcomes)
        )
        return Needs(results, outcomes)

    def _judge_unmet(self, result: TaskResult) -> None:
        assert result.state == STATE_FAILED and result.error is not None and result.error.unmet is not None
        unmet = result.error.unmet
        if unmet.state != UNMET_UNKNOWN:
            assert unmet.state != STATE_COMPLETED and unmet.task in self._followed(self.needs[result.task]).results
            assert unmet.state in self.states[unmet.task]

    def _judge(self, needs: Needs, inputs: Inputs) -> None:
        """A dependent is handed out: everything has ended, and it is told what was recorded."""
        self.met += 1
        assert [end.task for end in inputs.results] == needs.results
        assert [end.task for end in inputs.outcomes] == needs.outcomes
        for end in inputs.results:
            if self.may_lose and end.state == UNMET_UNKNOWN:
                continue
            assert end.state == STATE_COMPLETED and end.body == self.records[end.task].body
        for end in inputs.outcomes:
            self._judge_end(end)

    def _judge_end(self, end: End) -> None:
        record = self.records[end.task]
        if self.may_lose and end.state == UNMET_UNKNOWN:
            return
        assert (end.state, end.body) == (record.state, record.body)
        self.told += end.state != STATE_COMPLETED
        if record.error is not None and record.state != STATE_COMPLETED:
            assert end.error_type == record.error.type and record.error.message.startswith(end.message)

    def finish(self) -> None:
        """All ends are told."""
        while self.machine._tables.dependencies.ends:
            self.log.append(encode_entry(Tick(self.now_ms), now_ms=self.now_ms))
            effects = Effects()
            self.machine.apply(len(self.log), 1, self.log[-1], effects)
            self._watch(effects)

    def nobody_waits_in_vain(self) -> None:
        """Of those that wait, each waits for something that has not ended."""
        for number, dependent in self.machine._tables.dependencies.by_task.items():
            if dependent.missing:
                needs = [*needs_of(self._followed(self.needs.get(number, Needs([])))), self.behind.get(number, 0)]
                states = [self.machine.state_of(need) for need in needs]
                assert "pending" in states or "processing" in states, f"{number} waits in vain"


class NeedyForgetfulStream(NeedyStream, ForgetfulStream):
    """Time passes faster, and results are kept for seconds, unless somebody needs them."""


class RivalStream(NeedyStream):
    """Most tasks have one of a few keys of their work, what runs under one is asked to stop, and what has ended is run
    again. Judged from outside: one of a key runs at a time. `crowded` counts replays that could not bring all needs."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.crowded = 0
        self.wanted: list[tuple[str, str, str]] = []    # what was asked to stop: name, key and work

    def _options(self) -> Options | None:
        random = self.random
        if random.random() < 0.4:
            return super()._options()
        # Little else: what has a key and waits for ever leaves nothing to the others of that.
        window_ms = random.choice((0, 0, 0, 300, 90_000, 90_000))
        delay_ms, expires_ms = random.choice((0, 0, 0, 100)), random.choice((0, 0, 2_000))
        return Options(dedup=random.choice("abcdefgh"), dedup_ms=window_ms, delay_ms=delay_ms, expires_ms=expires_ms)

    def _command(self) -> Command | None:
        running = [
            task.id for task in self.machine._tables.tasks.in_order() if task.spec.dedup and task.state == HELD
        ]
        choice = self.random.random()
        if self.again or not self.clients or not self.workers:
            return super()._command()
        if choice < 0.1 and running:
            stopped = self.random.choices(running, k=3)
            specs = [task.spec for task in self.machine._tables.tasks.find(stopped) if task is not None]
            self.wanted += [(spec.name, spec.key, spec.dedup) for spec in specs]
            session = self.random.choice(self.clients)
            seq = self._seq(session)
            return self._say(Cancel(session, seq, self._low(seq), stopped, 60_000))
        if self.wanted and choice < 0.5:
            return self._want(*self.wanted.pop(0))
        return self._replay() if choice < 0.15 else super()._command()

    def _want(self, name: str, key: str, work: str) -> Command:
        """The same once more, in a command of its own."""
        session = self.random.choice(self.clients)
        seq = self._seq(session)
        number = self.numbers.get(session, 1)
        count = self.random.choice((1, 1, 2))
        if seq == self.seqs[session] - 1:
            self.numbers[session] = number + count
            self.sent[session, seq] = [session << 24 | number + place for place in range(count)]
        options = Options(dedup=work, key=key, actor="A" if key else "", dedup_ms=self.random.choice((0, 0, 90_000)))
        groups = [TaskGroup(name, number, [b"body"] * count, options, self._needs(session, number, count))]
        return self._say(Submit(session, seq, self._low(seq), groups))

    def _watch(self, effects: Effects) -> None:
        self.crowded += sum(answer.code == ANSWER_CROWDED for answer in effects.answers)
        super()._watch(effects)
        running: dict[tuple[str, str, str], int] = {}
        for task in self.machine._tables.tasks.in_order():
            scope = task.spec.name, task.spec.key, task.spec.dedup
            if task.spec.dedup and task.state == HELD:
                assert scope not in running, f"{task.id} and {running[scope]} of key {scope} run"
                running[scope] = task.id
        for number, dependent in self.machine._tables.dependencies.by_task.items():
            if dependent.behind:
                self.behind[number] = dependent.behind


def needs_of(needs: Needs) -> list[int]:
    return [*needs.results, *needs.outcomes]


if __name__ == "__main__":
    stream = NeedyStream(int(sys.argv[1]))
    stream.run(int(sys.argv[2]), check=False)
    machine = stream.machine
    sys.stdout.write(f"{machine.digest} {machine.rolling} {machine.full_digest()} {machine.status()}\n")
