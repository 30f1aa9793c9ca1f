"""Raft's promises hold in many drawn worlds, and the same worlds catch the classical mistakes."""

import pytest
import raft_world
from raft_rig import Disk

from cluster.raft import replication
from cluster.raft.core import Raft
from cluster.raft.messages import NO_NODE, Message, MessageType

SEEDS = 300
EVENTS = 800
SEEDS_UNTIL_CAUGHT_MAX = SEEDS


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_promise_is_broken_and_progress_returns(first):
    """Figure 3 of the paper: Election Safety, Log Matching, Leader Completeness, State Machine Safety."""
    worlds = [raft_world.run(seed, EVENTS) for seed in range(first, first + 50)]
    assert sum(world.record.commits for world in worlds) > 500, "the worlds do too little to mean anything"
    assert sum(len(world.record.leaders) for world in worlds) > 100
    assert sum(world.record.restores for world in worlds) > 20, "too few snapshots travel"


def test_the_same_seed_gives_the_same_history():
    one, other = raft_world.run(7, EVENTS), raft_world.run(7, EVENTS)
    assert one.record == other.record
    assert one.mail == other.mail


def figure_8() -> raft_world.World:
    """Figure 8 of the paper: an entry of term 1 gets onto a majority in term 3 and is overwritten in a later term."""
    world = raft_world.World(1, 5, pre_vote=False, check_quorum=False, append_bytes_max=1)
    log = {node: world.nodes[node].core.log for node in world.nodes}
    world.elect(1, 2, 3, 4, 5)
    world.nodes[1].core.tick()
    assert world.exchange(1, 2, 3, 4, 5, until=lambda: all(log[node].committed == 1 for node in log))
    # (a) Node 1 proposes an entry that only node 2 gets.
    world.propose(1)
    assert world.exchange(1, 2, until=lambda: log[2].last_index == log[1].last_index == log[1].offset - 1)
    contested = log[1].last_index
    # (b) Node 5 leads another term and puts an entry of its own there, which nobody gets.
    world.elect(5, 3, 4)
    # (c) Node 1 leads again: now node 3 has the entry of term 1 as well, and node 1 knows. It goes no further.
    world.elect(1, 2, 3, 4)
    node_3 = world.nodes[1].core.tracker.progress
    world.nodes[1].core.tick()
    world.look(world.nodes[1])
    assert world.exchange(1, 2, 3, until=lambda: node_3[3].match >= contested)
    # (d) Node 5 leads again, elected by nodes 3 and 4, and overwrites it.
    world.elect(5, 3, 4)
    return world


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting():
    """Section 5.4.2, Figure 8."""
    world = figure_8()
    contested = len(world.record.committed) + 1
    terms = {node: world.nodes[node].core.log.term(contested) for node in (1, 2, 3, 5)}
    assert terms[1] == terms[2] == terms[3] != terms[5]


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


class EagerCandidate(Raft):
    """Asks for votes before its own term is durable, as etcd does."""

    def send(self, message: Message) -> None:
        if message.type is MessageType.VOTE:
            self.outbox.append(message)
        else:
            super().send(message)


def broken_promise(core: type[Raft] = Raft, disk: type[Disk] = Disk) -> str:
    """What the first world that notices says."""
    for seed in range(SEEDS_UNTIL_CAUGHT_MAX):
        try:
            raft_world.run(seed, EVENTS, core, disk)
        except AssertionError as error:
            return str(error)
    return ""


def test_a_vote_that_is_not_persisted_is_caught():
    assert broken_promise(disk=ForgetfulDisk) == "two votes in one term"


def test_an_acknowledgement_before_the_write_is_caught():
    assert broken_promise(core=HastyCore) == "committed while no majority has it durably"


def test_a_request_for_votes_before_the_term_is_durable_is_caught():
    assert broken_promise(core=EagerCandidate) == "two votes in one term"


def test_committing_entries_of_earlier_terms_by_counting_is_caught(monkeypatch):
    monkeypatch.setattr(replication, "maybe_commit", commit_by_counting)
    with pytest.raises(AssertionError, match="Leader Completeness"):
        figure_8()
