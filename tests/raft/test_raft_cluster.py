"""Raft's promises hold in many drawn worlds, and the same worlds catch the classical mistakes."""

import pytest
import raft_world
from raft_rig import Disk

from cluster.raft import replication
from cluster.raft.core import Raft
from cluster.raft.messages import NO_NODE, Message

SEEDS = 300
EVENTS = 800
SEEDS_UNTIL_CAUGHT_MAX = 600


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_promise_is_broken_and_progress_returns(first):
    """Figure 3 of the paper: Election Safety, Log Matching, Leader Completeness, State Machine Safety."""
    worlds = [raft_world.run(seed, EVENTS) for seed in range(first, first + 50)]
    assert sum(world.record.commits for world in worlds) > 200, "the worlds do too little to mean anything"
    assert sum(len(world.record.leaders) for world in worlds) > 75


def test_the_same_seed_gives_the_same_history():
    one, other = raft_world.run(7, EVENTS), raft_world.run(7, EVENTS)
    assert one.record == other.record
    assert one.mail == other.mail


class ForgetfulDisk(Disk):
    """Keeps the term and loses the vote."""

    def complete(self) -> int:
        write_id = super().complete()
        self.hard_state = self.hard_state._replace(vote=NO_NODE)
        return write_id


class HastyCore(Raft):
    """Answers before what it says is durable."""

    def send(self, message: Message) -> None:
        super().send(message)
        hasty = [message for message in self.gated if message.to != self.id]
        self.gated = [message for message in self.gated if message.to == self.id]
        self.outbox += hasty


def commit_by_counting(raft: Raft) -> bool:
    """Commits whatever a majority has, of whichever term (Figure 8 of the paper)."""
    index = raft.tracker.committed()
    if index <= raft.log.committed:
        return False
    raft.log.commit_to(index)
    return True


def broken_promise(core: type[Raft] = Raft, disk: type[Disk] = Disk) -> str:
    """What the first world that notices says."""
    for seed in range(SEEDS_UNTIL_CAUGHT_MAX):
        try:
            raft_world.run(seed, EVENTS, core, disk)
        except AssertionError as error:
            return str(error)
    return ""


def test_a_vote_that_is_not_persisted_is_caught():
    assert broken_promise(disk=ForgetfulDisk) == "Election Safety"


def test_an_acknowledgement_before_the_write_is_caught():
    assert broken_promise(core=HastyCore) != ""


def test_committing_entries_of_earlier_terms_by_counting_is_caught(monkeypatch):
    monkeypatch.setattr(replication, "maybe_commit", commit_by_counting)
    assert broken_promise() in ("Leader Completeness", "a committed entry was lost")
