"""A random stream in which most tasks have shares and limits, and some a key of their work. It judges what limits
promise from outside: by what was submitted and handed out, knowing nothing of lines and rings.

`python limited_stream.py SEED ENTRIES` prints the digests, for comparing processes with different hash seeds.
"""

import sys

import msgspec
from random_stream import Stream

from cluster.state.commands import LineRule, Options
from cluster.state.effects import Effects

# Each limit has one set of terms: they are judged.
LINES = (
    None,
    LineRule(share="a"),
    LineRule(share="b"),
    LineRule(concurrency=1),
    LineRule(concurrency=3, share="a"),
    LineRule(concurrency=3, share="b"),
    LineRule(starts=2, period_ms=300, limit="slow"),
    LineRule(starts=2, period_ms=300, limit="slow", share="c"),
    LineRule(starts=2, period_ms=300, limit="slow", share="d"),
    LineRule(starts=250, period_ms=5_000, limit="wide"),
    LineRule(concurrency=2, limit="narrow"),
    LineRule(concurrency=2, limit="narrow", share="a"),
    LineRule(concurrency=5, starts=9, period_ms=1_000, share="e"),
)


class LimitedStream(Stream):
    """`starts` are the hand-outs of each limit, by their stamps."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rules: dict[int, tuple[tuple[str, str], LineRule]] = {}       # task -> its limit
        self.under: dict[tuple[str, str], list[int]] = {}                   # limit -> its tasks
        self.starts: dict[tuple[str, str], list[int]] = {}
        self.full = 0                                                       # how often a limit was found full
        self.noted = 0                                                      # of `confirmed`

    def _options(self) -> Options | None:
        options = super()._options() or Options()
        line = self.random.choice(LINES)
        options = options if options.key else msgspec.structs.replace(options, line=line)
        if self.random.randrange(6) == 0:
            dedup, dedup_ms = self.random.choice(("k1", "k2", "k3")), self.random.choice((0, 200, 2_000))
            options = msgspec.structs.replace(options, dedup=dedup, dedup_ms=dedup_ms)
        return options

    def _watch(self, effects: Effects) -> None:
        super()._watch(effects)
        self._note()
        now_ms = self.machine.now_ms
        for assignments in effects.assignments.values():
            for given in assignments:
                if given.task in self.rules:
                    limit, rule = self.rules[given.task]
                    if rule.starts:
                        dates = self.starts.setdefault(limit, [])
                        dates.append(now_ms)
                        recent = [date for date in dates if date > now_ms - rule.period_ms]
                        assert len(recent) <= rule.starts, f"{limit} started {len(recent)} in {rule.period_ms} ms"
                        self.full += len(recent) == rule.starts
        for limit, numbers in self.under.items():
            live = self.under[limit] = [number for number in numbers if number not in self.ended]
            _, rule = self.rules[numbers[0]] if numbers else (limit, LineRule())
            if rule.concurrency:
                running = sum(self.machine.state_of(number) == "processing" for number in live)
                assert running <= rule.concurrency, f"{limit} has {running} with workers"
                self.full += running == rule.concurrency

    def _note(self) -> None:
        """The limits of the tasks that were confirmed in this entry."""
        for task in self.machine._tables.tasks.find(self.confirmed[self.noted :]):
            rule = None if task is None else task.spec.line
            if task is not None and rule is not None and (rule.concurrency or rule.starts):
                limit = (rule.limit, "") if rule.limit else (task.spec.name, rule.share)
                self.rules[task.id] = limit, rule
                self.under.setdefault(limit, []).append(task.id)
        self.noted = len(self.confirmed)


class TightStream(LimitedStream):
    """Much in each entry, and many submits: limits are full all the time, and lines come and go within an entry."""

    COMMANDS = (2, 4, 8, 14)
    CANCELLED = 20

    def _bodies(self) -> list[bytes]:
        return [b"body"] * self.random.choice((1, 1, 2, 3))


if __name__ == "__main__":
    stream = LimitedStream(int(sys.argv[1]))
    stream.run(int(sys.argv[2]), check=False)
    machine = stream.machine
    sys.stdout.write(f"{machine.digest} {machine.rolling} {machine.full_digest()} {machine.status()}\n")
