"""A seeded stream of entries: what clients, workers and a leader may say, in all the wrong orders as well.

`python random_stream.py SEED ENTRIES` prints the digests, for comparing processes with different hash seeds.
"""

import sys
from random import Random

import msgspec
from state_rig import EPOCH_MS, encode_entry

from cluster.state.commands import (
    GRACE_NONE,
    NEVER,
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    OUTCOME_TIMED_OUT,
    PREFETCH_AUTO,
    REPLAYED_BITS,
    RESULT_TTL_DEFAULT_MS,
    ROLE_CLIENT,
    ROLE_WORKER,
    Acquire,
    Arm,
    Cancel,
    Close,
    Command,
    Complete,
    Drain,
    Expire,
    Extend,
    Failure,
    Fire,
    Lapse,
    Needs,
    Options,
    Outcome,
    Register,
    Release,
    Replay,
    Resize,
    RetryRule,
    ScheduleSpec,
    Seen,
    Steer,
    Submit,
    TaskGroup,
    Tick,
    WorkerSpec,
)
from cluster.state.effects import ANSWER_GAP, ANSWER_OK, CLAIM_WANTED, Assignment, Effects
from cluster.state.machine import Machine

NAMES = ("f", "g", "häßlich", "nobody")
QUEUES = ("default", "other", "bulk")
LABELS = ("gpu", "eu")
KEYS = ("", "", "", "k1", "k2", "k3", "k4")
ACTORS = ("A", "A", "f")
LEAP_CHANCE = 0.02          # of an entry, to come so much later than the one before it: results are forgotten meanwhile
LEAPS_MS = (5_000, 61_000, 61_000, 1_800_000)
LOCKS = (("a", 1, 1), ("a", 1, 1), ("b", 1, 1), ("pool", 1, 3), ("pool", 2, 3), ("rw", 1, 9), ("rw", 9, 9), ("b", 1, 2))
# Name, how busy ones are treated, exclusive, period; one name with several terms.
SCHEDULES = (
    ("s1", "skip", True, 1_000),
    ("s1", "queue", True, 1_000),
    ("s2", "wait", True, 5_000),
    ("s2", "replace", True, 5_000),
    ("s2", "queue", True, 7_000),
    ("s3", "queue", True, 1_000),
    ("s4", "skip", False, 1_000),
)
STATUSES = (
    OUTCOME_FAILED,
    OUTCOME_CRASHED,
    OUTCOME_TIMED_OUT,
    OUTCOME_RETURNED,
    OUTCOME_CANCELLED,
    OUTCOME_SUSPECTED,
    42,
)


class Stream:
    """Drives `machine`, which it also watches: no attempt is assigned twice, no task ends more often than it
    was replayed and once, nothing that was confirmed is unknown."""

    COMMANDS: tuple[int, ...] = (1, 1, 2, 3, 6)     # of an entry
    CANCELLED = 0                                   # of so many that were confirmed last; 0 = of all

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.machine = Machine()
        self.log: list[bytes] = []
        self.now_ms = EPOCH_MS
        self.seqs: dict[int, int] = {}              # session -> next command
        self.numbers: dict[int, int] = {}           # client session -> next task number
        self.clients: list[int] = []
        self.workers: list[int] = []
        self.incarnations: dict[int, int] = {}
        self.held: dict[int, list[Assignment]] = {}
        self.sent: dict[tuple[int, int], list[int]] = {}        # (session, seq) -> tasks, until answered
        self.confirmed: list[int] = []
        self.assigned: dict[tuple[int, int], int] = {}
        self.ended: dict[int, int] = {}
        self.ends: dict[int, int] = {}              # how often a task has ended
        self.replaying: dict[tuple[int, int], list[int]] = {}   # (session, seq) -> tasks, until answered
        self.replays: dict[int, int] = {}           # how often it may have been replayed
        self.unsaid: dict[int, list[int]] = {}      # client session -> numbers whose results it has, not yet said
        self.owners: dict[int, tuple[int, int, str, str]] = {}      # epoch -> session, slot, actor, key
        self.claims: dict[int, list[int]] = {}      # client session -> its claims of locks, ended ones too
        self.fence = 0                              # the highest that was granted
        self.late: list[Assignment] = []
        self.said: dict[tuple[int, int], Command] = {}      # (session, seq) -> command, to say it again
        self.again: list[Command] = []

    def run(self, entries: int, check: bool) -> None:
        for _ in range(entries):
            self.now_ms += self.random.choice((0, 1, 5, 50, 400))
            if self.random.random() < LEAP_CHANCE:
                self.now_ms += self.random.choice(LEAPS_MS)
            commands = [self._command() for _ in range(self.random.choice(self.COMMANDS))]
            stamp = self.now_ms if self.random.random() < 0.9 else None
            payload = encode_entry(*[command for command in commands if command is not None], now_ms=stamp)
            if self.random.random() < 0.01:
                payload = self.random.choice((b"", b"\xc1", payload[:-1]))
            self.log.append(payload)
            draining = self._draining()
            effects = Effects()
            self.machine.apply(len(self.log), 1, payload, effects)
            self._watch(effects)
            # Before the entry or within it: dispatch comes last.
            assert not effects.assignments.keys() & (draining | self._draining()), "a draining worker was given a task"
            self._are_open(effects)
            if check:
                self.machine.check()
        for task in self.confirmed:
            assert self.machine.state_of(task) is not None or task in self.ended, f"{task} was confirmed and is unknown"
        for task in self.ended:
            assert self.machine.state_of(task) not in ("pending", "processing")

    def _are_open(self, effects: Effects) -> None:
        for number, assignments in effects.assignments.items():
            session = self.machine.session(number)
            assert session is not None and session.worker is not None
            count = session.slots_open or session.worker.slots
            assert all(one.slot < count or one.slot == session.worker.slots for one in assignments), "a slot is shut"

    def _draining(self) -> set[int]:
        return {session.id for session in self.machine.worker_sessions() if session.draining}

    def _watch(self, effects: Effects) -> None:
        for registered in effects.registered:
            if registered.code == ANSWER_OK and registered.session not in self.seqs:
                self.seqs[registered.session] = registered.next_seq
                self.incarnations[registered.session] = registered.incarnation
                known = self.machine.session(registered.session)
                if known is not None:
                    (self.clients if known.role == ROLE_CLIENT else self.workers).append(known.id)
        for answer in effects.answers:
            tasks = [] if answer.code == ANSWER_GAP else self.sent.pop((answer.session, answer.seq), [])
            if answer.code == ANSWER_OK:
                self.confirmed += tasks
            elif answer.code == ANSWER_GAP and not self.again:
                # What a client does: it goes back to the number expected and repeats all from there.
                seqs = range(answer.value, self.seqs[answer.session])
                self.again = [self.said[answer.session, seq] for seq in seqs]
        replayed = self._replayed(effects)
        for session, assignments in effects.assignments.items():
            for assignment in assignments:
                if assignment.key:
                    owner = (session, assignment.slot, assignment.actor, assignment.key)
                    assert self.owners.setdefault(assignment.epoch, owner) == owner, "an epoch has two owners"
                key = (assignment.task, assignment.attempt)
                assert key not in self.assigned, f"{key} was assigned twice"
                assert assignment.task not in self.ended, f"{assignment.task} was assigned after its end"
                self.assigned[key] = session
            self.held.setdefault(session, []).extend(assignments)
        for results in effects.results.values():
            for result in results:
                ends = self.ends[result.task] = self.ends.get(result.task, 0) + 1
                assert ends <= 1 + self.replays.get(result.task, 0), f"{result.task} ended {ends} times"
                self.ended[result.task] = result.state
                self.unsaid.setdefault(result.task >> 24, []).append(result.task & 0xFFFFFF)
        self._are_pending(replayed)
        for news in effects.claims.values():
            for item in news:
                assert not item.fence or item.why == CLAIM_WANTED or item.fence > self.fence, "an old fence"
        self.fence = self.machine.locks.fences
        for session in effects.ended:
            for sessions in (self.clients, self.workers):
                if session in sessions:
                    sessions.remove(session)
            self.late += self.held.pop(session, [])

    def _replayed(self, effects: Effects) -> list[int]:
        """Tasks that commands answered in this entry may have replayed."""
        tasks: list[int] = []
        for answer in effects.answers:
            if answer.code != ANSWER_GAP:
                named = self.replaying.pop((answer.session, answer.seq), [])
                count = answer.value & ((1 << REPLAYED_BITS) - 1)
                assert 0 <= count <= len(named) or not named
                tasks += named if count else []
        for task in tasks:
            self.replays[task] = self.replays.get(task, 0) + 1
        self._are_pending(tasks)
        return tasks

    def _are_pending(self, tasks: list[int]) -> None:
        """Of these tasks some have ended and wait again."""
        for task in tasks:
            if self.machine.state_of(task) in ("pending", "processing"):
                self.ended.pop(task, None)

    def _command(self) -> Command | None:
        if self.again:
            return self.again.pop(0)
        choice = self.random.random()
        if not self.workers or choice < 0.03:
            return self._register_worker()
        if not self.clients or choice < 0.05:
            return Register(f"c{self.random.randrange(3)}", self.random.randrange(6), ROLE_CLIENT)
        if choice < 0.08:
            session = self.random.choice(self.clients + self.workers * 2)
            end = self.random.choice((Expire, Close))
            return end(session, self.incarnations[session] + (self.random.random() < 0.2))
        if choice < 0.35:
            return self._submit()
        if choice < 0.42:
            return self._cancel()
        if choice < 0.45:
            return Tick(self.now_ms)
        if choice < 0.465:
            session = self.random.choice(self.clients + self.workers)
            return Seen(session, self._seen(session))
        if choice < 0.48:
            return self._drain()
        if choice < 0.52:
            return self._replay()
        if choice < 0.57:
            return self._claim()
        if choice < 0.63:
            return self._schedule()
        if choice < 0.65:
            return self._resize()
        return self._complete()

    def _register_worker(self) -> Register:
        random = self.random
        names = tuple(random.sample(NAMES[:3], random.randint(1, 3)))
        queues = tuple(random.sample(QUEUES, random.randint(1, 3)))
        labels = tuple(random.choices(LABELS, k=random.choice((0, 0, 1, 3))))
        spec = WorkerSpec(random.randint(1, 4), queues, names, random.choice((PREFETCH_AUTO, 1, 3, 20)), labels)
        if random.random() < 0.4:
            loop_names = tuple(random.sample(NAMES[:3], random.randint(1, 3)))
            spec = msgspec.structs.replace(spec, loop_names=loop_names, loop_tasks=random.choice((0, 1, 4, 30)))
        if random.random() < 0.7:
            spec = msgspec.structs.replace(spec, schedules=self._schedules())
        if random.random() < 0.5:
            spec = msgspec.structs.replace(spec, slots_min=random.randint(1, spec.slots))
        return Register(f"w{random.randrange(5)}", random.randrange(40), ROLE_WORKER, spec)

    def _schedules(self) -> tuple[ScheduleSpec, ...]:
        random = self.random
        found: dict[str, ScheduleSpec] = {}
        for name, on_busy, exclusive, period_ms in random.sample(SCHEDULES, random.randint(1, 5)):
            options = msgspec.structs.replace(self._options() or Options(), key="", actor="", priority=5)
            found[name] = ScheduleSpec(
                name, random.choice(NAMES[:3]), "", "", period_ms, 0, "once", on_busy, exclusive, b"body",
                random.choice((None, None, options)),
            )  # fmt: skip
        return tuple(found.values())

    def _seq(self, session: int) -> int:
        """The next number; sometimes one too far."""
        seq = self.seqs[session]
        if self.random.random() < 0.03:
            return seq + 2
        self.seqs[session] = seq + 1
        return seq

    def _say(
        self, command: Submit | Cancel | Replay | Complete | Drain | Acquire | Release | Extend | Steer | Resize
    ) -> Command:
        """Remembers a command that got its number in turn; sometimes says an older one instead, and this one
        then."""
        session, seq = command.session, command.seq
        if seq < self.seqs[session]:
            self.said[session, seq] = command
        if self.random.random() < 0.05:
            older = self.said.get((session, seq - self.random.randint(1, 4)))
            if older is not None:
                self.again.append(command)
                return older
        return command

    def _low(self, seq: int) -> int:
        return max(1, seq - self.random.randint(0, 70))

    def _submit(self) -> Submit:
        random = self.random
        session = random.choice(self.clients)
        seq = self._seq(session)
        fresh = seq == self.seqs[session] - 1
        number = self.numbers.get(session, 1)
        groups: list[TaskGroup] = []
        tasks: list[int] = []
        for _ in range(random.randint(1, 3)):
            bodies = self._bodies()
            name, options = random.choice(NAMES), self._options()
            groups.append(TaskGroup(name, number, bodies, options, self._needs(session, number, len(bodies))))
            tasks += [session << 24 | number + place for place in range(len(bodies))]
            number += len(bodies) + (random.random() < 0.1)
        if fresh:
            self.numbers[session] = number
            self.sent[session, seq] = tasks
        seen = self._seen(session) if fresh and random.random() < 0.5 else []
        return self._say(Submit(session, seq, self._low(seq), groups, seen))

    def _needs(self, session: int, first: int, count: int) -> list[Needs]:
        """Of so many tasks that are submitted: none here."""
        return []

    def _bodies(self) -> list[bytes]:
        return [b"body"] * self.random.choice((1, 2, 10, 60))

    def _seen(self, session: int) -> list[int]:
        """What a client has, mostly; else what it cannot have, or has said before."""
        random = self.random
        if random.random() < 0.2:
            first = random.choice((-1, 0, 1, 1, 40, 1 << 24))
            return [first, first + random.choice((-1, 0, 30, 1 << 24)), *[7] * random.randrange(2)]
        flat: list[int] = []
        for number in sorted(self.unsaid.pop(session, ())):
            if flat and flat[-1] + 1 == number:
                flat[-1] = number
            else:
                flat += (number, number)
        return flat

    def _options(self) -> Options | None:
        random = self.random
        if random.random() < 0.5:
            return None
        key = random.choice(KEYS)
        return Options(
            key=key,
            actor=random.choice(ACTORS) if key else random.choice(("", "A")),
            queue=random.choice(QUEUES),
            priority=random.choice((0, 5, 5, 9, 9, 9 + (random.random() < 0.05))),
            delay_ms=random.choice((0, 0, 0, 100, 1_000)),
            expires_ms=random.choice((0, 0, 0, 50, 2_000)),
            result_ttl_ms=random.choice((RESULT_TTL_DEFAULT_MS, RESULT_TTL_DEFAULT_MS, 0, 700, 120_000)),
            retries=random.choice((0, 0, 1, 4)),
            labels=random.choice(((), (), (), ("gpu",), ("eu", "gpu", "eu"))),
            soft_timeout_ms=random.choice((0, 0, 700)),
            retry=random.choice((None, RetryRule(0, 0), RetryRule(50, 1_000), RetryRule(10, 100, on=("E",)))),
        )

    def _cancel(self) -> Cancel | None:
        if not self.confirmed:
            return None
        session = self.random.choice(self.clients)
        seq = self._seq(session)
        tasks = [self.random.choice(self.confirmed[-self.CANCELLED :]) for _ in range(self.random.choice((1, 3, 80)))]
        return self._say(Cancel(session, seq, self._low(seq), tasks, self.random.choice((GRACE_NONE, 0, 500, 1 << 60))))

    def _replay(self) -> Replay | None:
        """Any tasks, mostly such as have ended."""
        if not self.ended:
            return None
        session = self.random.choice(self.clients)
        seq = self._seq(session)
        tasks = self.random.choices(list(self.ended)[-300:], k=self.random.choice((1, 5, 40)))
        tasks.append(self.random.choice((0, -1, 1 << 62, *self.confirmed[-1:])))
        if seq == self.seqs[session] - 1:
            self.replaying[session, seq] = tasks
        return self._say(Replay(session, seq, self._low(seq), tasks))

    def _claim(self) -> Command:
        """Of a few locks; sometimes with terms that are refused, or of claims that are another's or none."""
        random = self.random
        session = random.choice(self.clients)
        seq = self._seq(session)
        claims = self.claims.setdefault(session, [])
        what = random.random()
        if what < 0.5:
            number = len(claims) + 1
            claims.append(session << 24 | number)
            name, units, limit = random.choice(LOCKS)
            terms = (random.choice((2_000, 30_000, 30_000, 7)), random.random() < 0.7, "me")
            turn = (random.choice((0, 0, 5_000)), random.random() < 0.1) if limit == 1 else ()
            return self._say(Acquire(session, seq, self._low(seq), number, name, units, limit, *terms, *turn))
        known = [claim for some in self.claims.values() for claim in some[-12:]] or [0]
        if what < 0.8:
            mine = claims[-12:] if random.random() < 0.8 else known
            chosen = [random.choice(mine or known) for _ in range(random.choice((1, 2, 5)))]
            return self._say(Release(session, seq, self._low(seq), chosen, random.choice((0, 0, 0, 4_000, -1))))
        if what < 0.9:
            terms = (random.choice((5_000, 0, 1)), random.choice((0, 0, 9_000)))
            return self._say(Extend(session, seq, self._low(seq), random.choice(known), *terms))
        self.seqs[session] = min(self.seqs[session], seq)       # the leader's own has no number
        pairs = [[random.choice(known), random.choice((0, 0, 0, 1, 2))] for _ in range(2)]
        return Lapse(*pairs)

    def _schedule(self) -> Command | None:
        """What a leader proposes, or one that was replaced, and what operators want."""
        random = self.random
        schedules = self.machine.schedules.by_name
        if not schedules:
            return None
        name = random.choice(sorted(schedules))
        schedule = schedules[name]
        if random.random() < 0.25:
            session = random.choice(self.clients)
            seq = self._seq(session)
            name = random.choice((name, name, name, "s9"))
            return self._say(Steer(session, seq, self._low(seq), name, random.choice((0, 1, 1, 2, 2, 3, 4))))
        version = schedule.version - (random.random() < 0.05)
        if schedule.next_ms == 0 or random.random() < 0.05:
            return Arm(name, version, random.choice((self.now_ms - 1_000, self.now_ms + 1, self.now_ms + 5_000, NEVER)))
        first = schedule.next_ms + (random.random() < 0.05)
        slots = [first + step * 1_000 for step in range(random.choice((0, 1, 1, 1, 3, 120)))]
        slots = slots[random.choice((0, 0, 1)) :]
        after_ms = random.choice((self.now_ms + 1, self.now_ms + 3_000, self.now_ms, NEVER))
        return Fire(name, version, first, slots, after_ms, random.random() < 0.2)

    def _resize(self) -> Resize:
        """Mostly within its bounds."""
        session = self.random.choice(self.workers)
        known = self.machine.session(session)
        assert known is not None and known.worker is not None
        seq = self._seq(session)
        return self._say(Resize(session, seq, self._low(seq), self.random.randint(0, known.worker.slots)))

    def _drain(self) -> Command:
        session = self.random.choice(self.workers)
        seq = self._seq(session)
        return self._say(Drain(session, seq, self._low(seq)))

    def _complete(self) -> Command:
        random = self.random
        session = random.choice(self.workers)
        seq = self._seq(session)
        held = self.held.get(session, [])
        said = held[: random.choice((1, 1, 5, 100))]
        if random.random() < 0.2:
            said = random.sample(held, len(held) // 2)
        if seq == self.seqs[session] - 1:
            gone = [(assignment.task, assignment.attempt) for assignment in said]
            self.held[session] = [kept for kept in held if (kept.task, kept.attempt) not in gone]
        if self.late and random.random() < 0.2:
            said = [*said, random.choice(self.late)]
        outcomes = [self._outcome(assignment) for assignment in said]
        return self._say(Complete(session, seq, self._low(seq), outcomes))

    def _outcome(self, assignment: Assignment) -> Outcome:
        random = self.random
        run_us = random.choice((3, 40, 700, 30_000))
        # What has crashed goes alone, and mostly crashes again, so that some are dead.
        if random.random() < (0.3 if assignment.alone else 0.8):
            log = Failure("", "", log=f"task {assignment.task}\n") if assignment.task % 5 == 0 else None
            return Outcome(assignment.task, assignment.attempt, OUTCOME_COMPLETED, self.now_ms, run_us, b"ok", log)
        attempt = assignment.attempt + (random.random() < 0.1)
        started_ms = random.choice((0, self.now_ms))
        error = Failure("E", "m", "t", 1, kinds=random.choice(((), ("E", "Exception"), ("F", "Exception"))))
        status = OUTCOME_CRASHED if assignment.alone and random.random() < 0.7 else random.choice(STATUSES)
        return Outcome(assignment.task, attempt, status, started_ms, run_us, b"", error)


class CrowdedStream(Stream):
    """Few keys and small slots, and much in each entry: tasks of a key are submitted, cancelled and expire, and homes
    come and go, before dispatch has seen any of it."""

    COMMANDS = (2, 4, 8, 14)
    CANCELLED = 20

    def _command(self) -> Command | None:
        choice = self.random.random()
        if self.again or not self.workers or not self.clients or choice > 0.6:
            return super()._command()
        if choice < 0.25:
            return self._submit()
        if choice < 0.4:
            return self._cancel()
        if choice < 0.45:
            return self._drain()
        if choice < 0.5:
            session = self.random.choice(self.workers)
            return self.random.choice((Expire, Close))(session, self.incarnations[session])
        return self._complete()

    def _bodies(self) -> list[bytes]:
        return [b"body"] * self.random.choice((1, 1, 2, 3))

    def _options(self) -> Options | None:
        return msgspec.structs.replace(
            super()._options() or Options(),
            key=self.random.choice(("", "k1", "k2", "k3")),
            actor="A",
            queue="default",
            labels=self.random.choice(((), (), ("gpu",))),
        )

    def _register_worker(self) -> Register:
        random = self.random
        names = tuple(random.sample(NAMES[:2], random.randint(1, 2)))
        labels = random.choice(((), (), ("gpu",)))
        spec = WorkerSpec(random.randint(1, 2), ("default",), names, random.choice((PREFETCH_AUTO, 1, 3)), labels)
        if random.random() < 0.3:
            spec = msgspec.structs.replace(spec, loop_names=("g",), loop_tasks=random.choice((1, 4)))
        return Register(f"w{random.randrange(3)}", random.randrange(400), ROLE_WORKER, spec)


def replay(log: list[bytes], effects_for: range | None = None) -> Machine:
    """Applies a log again; effects are built for the entries of `effects_for` only, as if that were a
    term."""
    machine = Machine()
    for index, payload in enumerate(log, 1):
        machine.apply(index, 1, payload, Effects() if effects_for and index in effects_for else None)
    return machine


if __name__ == "__main__":
    stream = Stream(int(sys.argv[1]))
    stream.run(int(sys.argv[2]), check=False)
    machine = stream.machine
    sys.stdout.write(f"{machine.digest} {machine.rolling} {machine.full_digest()} {machine.status()}\n")
