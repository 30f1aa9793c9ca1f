"""What locks promise, judged from both ends: by what the log did, and by what holders believe.

In the log: a claim ends only by its own session's word, with that session, by a Lapse that names it, or because it
waited and somebody came to replace whoever is there; whoever comes first is granted first; nothing that is free is kept
from the one that waits for it; fences rise; and nothing is taken under a fence that nobody holds. This looks at the
claims themselves after each entry and at the commands in it, and not at how the state came from one to the other.

Among holders: whenever an entry is applied for the first time, nobody believes, by its own clock, in a hold that is no
longer in the state; and when one is told that it holds a lock, all others who believe so must have room beside it. The
first makes the second true, and is judged also when nobody waits for the lock. Who was stopped believes what its clock
would tell it now. One that believed no more must not begin again, so it is looked at until its owner gives it up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.simulation.verdict import Judge
from cluster.state.commands import Acquire, Command, Lapse, Release, Submit
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.effects import ANSWER_OK, Effects
from cluster.state.machine import Machine


@dataclass(frozen=True, slots=True)
class Seen:
    """A claim as it was after an entry; `place` is its place in the order of arrival."""

    place: int
    session: int
    lock: str
    units: int
    fence: int


@dataclass(slots=True, eq=False)
class Believer:
    """Somebody who was told that it holds a lock, and has not said since that it does not."""

    process: str
    units: int
    fence: int
    believes: Callable[[], bool]


class LockOracle:
    """Of one world. `granted` and `lapsed` count, for reports."""

    def __init__(self, judge: Judge) -> None:
        self.granted = 0
        self.lapsed = 0
        self._judge = judge
        self._claims: dict[int, Seen] = {}
        self._places = 0
        self._fence = 0                                     # the highest that was granted
        self._taken: set[tuple[int, int]] = set()           # submits with a fence: session and number
        self._believers: dict[str, list[Believer]] = {}     # by lock

    # -- holders ----------------------------------------------------------------------------------------------------

    def begins(self, lock: str, limit: int, believer: Believer) -> None:
        """It was told that it holds the lock, just now."""
        known = self._believers.setdefault(lock, [])
        others = [other for other in known if other.believes()]
        taken = sum(other.units for other in others) + believer.units
        names = ", ".join(f"{other.process} (fence {other.fence})" for other in others)
        self._judge.require(
            taken <= limit,
            "two holders",
            f"{believer.process} holds {lock} under fence {believer.fence}, and so do {names}",
        )
        known.append(believer)

    def ends(self, lock: str, believer: Believer) -> None:
        """It knows that it does not hold it any more."""
        self._believers[lock] = [other for other in self._believers[lock] if other is not believer]

    def claims_of_others(self, session: int) -> list[int]:
        """Claims as the log has them now, which are of other sessions."""
        return [number for number, seen in self._claims.items() if seen.session not in (0, session)]

    def died(self, process: str) -> None:
        """Who is not there believes nothing."""
        for lock, believers in self._believers.items():
            self._believers[lock] = [believer for believer in believers if believer.process != process]

    # -- the log ----------------------------------------------------------------------------------------------------

    def applied(self, payload: bytes, effects: Effects, machine: Machine) -> None:
        """`machine` has applied an entry."""
        locks = machine.locks
        if not (self._claims or locks.claims or effects.claims):
            return
        commands = _commands(payload)
        before = self._claims
        now: dict[int, Seen] = {}
        for claim in locks.claims.values():
            known = before.get(claim.id)
            if known is None:
                self._places += 1
            place = known.place if known is not None else self._places
            session = 0 if claim.rest_ms else claim.session
            now[claim.id] = Seen(place, session, claim.lock.name, claim.units, claim.fence)
        self._claims = now
        self._judge_fences(before, now, commands, effects)
        self._judge_ends(before, now, commands, machine)
        self._judge_order(now)
        self._judge_room(now, machine)
        self._judge_belief(machine)

    def _judge_belief(self, machine: Machine) -> None:
        """Judged when the first broker applies an entry: before anybody can be told of what it granted."""
        for lock, believers in self._believers.items():
            for believer in believers:
                self._judge.require(
                    machine.locks.holds(believer.fence) or not believer.believes(),
                    "belief",
                    f"{believer.process} believes that it holds {lock} under fence {believer.fence}, which has ended",
                )

    def _judge_fences(
        self, before: dict[int, Seen], now: dict[int, Seen], commands: list[Command], effects: Effects
    ) -> None:
        old = {seen.fence for seen in before.values() if seen.fence}
        new = [seen.fence for seen in now.values() if seen.fence and seen.fence not in old]
        self._judge.require(
            all(fence > self._fence for fence in new) and len(set(new)) == len(new),
            "fence",
            f"fences {new} were granted after {self._fence}",
        )
        # What was granted and has ended within one entry is in neither.
        said = [news.fence for items in effects.claims.values() for news in items if news.fence > self._fence]
        acquires = {(command.session, command.seq) for command in commands if isinstance(command, Acquire)}
        answers = {(answer.session, answer.seq): answer for answer in effects.answers}
        said += [answer.value for place, answer in answers.items() if place in acquires and answer.value > self._fence]
        self.granted += len(new)
        held = old | set(new) | set(said)
        self._fence = max([self._fence, *new, *said])
        for command in commands:
            if not isinstance(command, Submit) or not command.fence:
                continue
            place = (command.session, command.seq)
            if place not in answers or answers[place].code != ANSWER_OK or place in self._taken:
                continue            # refused, or taken before and said again
            self._taken.add(place)
            self._judge.require(
                command.fence in held,
                "fence",
                f"tasks were taken under fence {command.fence}, under which nobody holds anything",
            )

    def _judge_ends(
        self, before: dict[int, Seen], now: dict[int, Seen], commands: list[Command], machine: Machine
    ) -> None:
        released: set[tuple[int, int]] = set()
        lapsed: set[int] = set()
        replaced: set[str] = set()
        for command in commands:
            if isinstance(command, Release):
                released.update((command.session, claim) for claim in command.claims)
            elif isinstance(command, Lapse):
                lapsed.update((*command.silent[::2], *command.over[::2]))
            elif isinstance(command, Acquire) and command.replaces:
                replaced.add(command.name)
        for number, seen in before.items():
            if number in now:
                continue
            self.lapsed += number in lapsed and seen.session != 0
            self._judge.require(
                (seen.session, number) in released
                or number in lapsed
                or machine.session(seen.session) is None
                or (not seen.fence and seen.lock in replaced),
                "stranger",
                f"claim {number} of session {seen.session} on {seen.lock} ended, and nothing says why",
            )
        for number, seen in now.items():
            self._judge.require(
                seen.session == 0 or machine.session(seen.session) is not None,
                "dead session",
                f"claim {number} on {seen.lock} (fence {seen.fence}) is of session {seen.session}, which has ended",
            )

    def _judge_order(self, now: dict[int, Seen]) -> None:
        """Of each lock: all that hold it came before all that wait."""
        last: dict[str, int] = {}
        for seen in now.values():
            if seen.fence:
                last[seen.lock] = max(last.get(seen.lock, 0), seen.place)
        for number, seen in now.items():
            self._judge.require(
                seen.fence or seen.place > last.get(seen.lock, 0),
                "order",
                f"claim {number} waits for {seen.lock}, and one that came later holds it",
            )

    def _judge_room(self, now: dict[int, Seen], machine: Machine) -> None:
        for name, lock in machine.locks.by_name.items():
            claims = sorted((seen for seen in now.values() if seen.lock == name), key=lambda seen: seen.place)
            taken = sum(seen.units for seen in claims if seen.fence)
            self._judge.require(taken <= lock.limit, "limit", f"{taken} of {lock.limit} units of {name} are held")
            waiting = [seen for seen in claims if not seen.fence]
            self._judge.require(
                not waiting or taken + waiting[0].units > lock.limit,
                "lost wake-up",
                f"{taken} of {lock.limit} units of {name} are held, and one that waits for {waiting[:1]} was not told",
            )


def _commands(payload: bytes) -> list[Command]:
    groups = (decode_entry(payload) or []) if payload else []
    return [command for kind, _, encoded in groups if kind in KINDS for command in decode_commands(kind, encoded)[0]]
