"""The oracle of duplicates knows who has a key: also one that is to run again and has not begun."""

from cluster.broker.entries import EntryBuilder
from cluster.simulation.dedup_oracle import DedupOracle
from cluster.simulation.verdict import Judge
from cluster.state.commands import ROLE_CLIENT, Cancel, Command, Options, Register, Replay, Stamp, Submit, TaskGroup
from cluster.state.effects import Effects
from cluster.state.machine import Machine

TASK = 1 << 24 | 1
KEY = Options(dedup="report")


class Judged:
    """A machine, whose entries the oracle sees."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.judge = Judge(0, lambda: 0)
        self.oracle = DedupOracle(self.judge)
        self.apply(Register("c", 1, ROLE_CLIENT))

    def apply(self, *commands: Command) -> None:
        builder, effects = EntryBuilder(), Effects()
        for command in commands:
            builder.add(command, 0)
        index = self.machine.applied_index + 1
        (payload,) = builder.take(Stamp(index, 1))
        self.machine.apply(index, 1, payload, effects)
        self.oracle.applied(payload, effects, self.machine)


def submit(seq: int) -> Submit:
    return Submit(1, seq, 1, [TaskGroup("work", seq, [b"\x92\x90\x80"], KEY)])


def test_one_that_is_to_run_again_has_its_key_before_it_begins():
    judged = Judged()
    judged.apply(submit(1))
    judged.apply(Cancel(1, 2, 1, [TASK]))
    judged.apply(Replay(1, 3, 1, [TASK]))
    judged.apply(submit(4))
    assert judged.oracle.duplicate_of == {TASK + 3: TASK} and judged.judge.violations == []


def test_one_that_has_ended_has_its_key_no_more():
    judged = Judged()
    judged.apply(submit(1))
    judged.apply(Cancel(1, 2, 1, [TASK]))
    judged.apply(submit(3))
    assert judged.oracle.duplicate_of == {} and judged.judge.violations == []
    judged.oracle._known[TASK].is_unfinished = True         # as if it had not
    judged.apply(Cancel(1, 4, 1, [TASK + 2]))
    judged.apply(submit(5))
    assert [violation.oracle for violation in judged.judge.violations] == ["at most one"]
