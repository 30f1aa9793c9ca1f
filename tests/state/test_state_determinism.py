"""The same log gives the same state, whoever applies it, whenever, and under whatever hash seed."""

import pytest
from hash_seeds import assert_same_under_two_hash_seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from random_stream import Stream, replay
from state_rig import Rig

from cluster.state import eviction, evidence, invariants, retention
from cluster.state.commands import OUTCOME_RETURNED
from cluster.state.ledger import DIGEST_INTERVAL


@pytest.mark.parametrize("seed", range(8))
def test_invariants_hold_after_every_entry_of_a_random_stream(seed):
    stream = Stream(seed)
    stream.run(250, check=True)
    assert len(stream.ended) > 50
    assert len(stream.assigned) > 100


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_replay_gives_the_same_digests(seed):
    stream = Stream(seed)
    stream.run(600, check=False)
    again = replay(stream.log)
    assert again.digest == stream.machine.digest
    assert again.digest[0] == 2 * DIGEST_INTERVAL
    assert again.rolling == stream.machine.rolling
    assert again.full_digest() == stream.machine.full_digest()


@given(seed=st.integers(200, 10_000), first=st.integers(0, 120), length=st.integers(0, 120))
@settings(max_examples=15, deadline=None)
def test_effects_do_not_change_what_is_decided(seed, first, length):
    stream = Stream(seed)
    stream.run(120, check=False)
    led_for_a_while = replay(stream.log, range(first, first + length))
    assert led_for_a_while.rolling == stream.machine.rolling
    assert led_for_a_while.full_digest() == stream.machine.full_digest()


@pytest.mark.parametrize("seed", range(300, 304))
def test_invariants_hold_when_there_is_always_too_much(seed, monkeypatch):
    """Small limits: records go before their date, evidence is blanked, and no entry gets everything done."""
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 30_000)
    monkeypatch.setattr(evidence, "EVIDENCE_BYTES_MAX", 600)
    monkeypatch.setattr(invariants, "EVIDENCE_BYTES_MAX", 600)
    monkeypatch.setattr(eviction, "EVICTIONS_MAX", 3)
    stream = Stream(seed)
    stream.run(300, check=True)
    counters = stream.machine.status()["counters"]
    assert counters["evicted"] >= counters["evicted_early"] > 100
    assert counters["blanked_attempts"] > 3
    again = replay(stream.log)
    assert again.rolling == stream.machine.rolling
    assert again.full_digest() == stream.machine.full_digest()


def test_the_random_stream_forgets_what_it_has_seen_and_what_it_has_not():
    stream = Stream(1)
    stream.run(600, check=False)
    counters = stream.machine.status()["counters"]
    assert counters["evicted"] > len(stream.ended) // 3
    assert counters["ignored_seen"] > 0
    assert len(stream.machine._tables.tasks) < len(stream.confirmed)


def test_two_hash_seeds_give_the_same_digests():
    assert_same_under_two_hash_seeds("random_stream.py", "7", "600")


def test_the_digest_is_reported_at_multiples_of_256(rig: Rig):
    assert rig.leader.digest == (0, 0)
    client = rig.client()
    for _ in range(DIGEST_INTERVAL - 2):
        client.submit()
    assert rig.leader.digest == (0, 0)
    client.submit()
    assert rig.leader.digest == (DIGEST_INTERVAL, rig.leader.rolling)
    client.submit()
    assert rig.leader.digest != (DIGEST_INTERVAL, rig.leader.rolling)
    assert rig.leader.digest[0] == DIGEST_INTERVAL


def test_the_digest_sees_a_different_decision():
    """The same commands, but one replica returned a task in between: slot, attempt and order differ."""
    digests = []
    for returns in (False, True):
        rig = Rig()
        client, worker = rig.client(), rig.worker(prefetch=2)
        client.submit(count=2)
        if returns:
            worker.end(worker.inbox[1], OUTCOME_RETURNED)
        else:
            worker.report()
        worker.complete(worker.inbox[0])
        digests.append(rig.leader.rolling)
    assert digests[0] != digests[1]


def naive(slots: list[tuple[int, int]], prefetch: int, tasks: int) -> list[list[int]]:
    """Dispatch as it is described, one message at a time. `slots` are (key, count) in turn; returns tasks per
    slot."""
    given: dict[int, list[int]] = {key: [] for key, _ in slots}
    count = dict(slots)
    idle = [key for key, held in slots if held == 0]
    ring = [key for key, held in slots if 0 < held < prefetch]
    waiting = list(range(tasks))
    while waiting and (idle or ring):
        key = idle.pop(0) if idle else ring.pop(0)
        given[key].append(waiting.pop(0))
        count[key] += 1
        if count[key] < prefetch:
            ring.append(key)
    return list(given.values())


@given(
    prefetch=st.integers(1, 9),
    slots=st.integers(1, 6),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    completions=st.lists(st.integers(0, 1_000), max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_rounds_in_bulk_give_what_single_rounds_would(prefetch, slots, counts, completions):
    rig = Rig()
    client, worker = rig.client(), rig.worker(slots=slots, prefetch=prefetch)
    for count in counts:
        while completions and worker.inbox:
            worker.complete(worker.inbox[completions.pop() % len(worker.inbox)])
        if rig.queue_is_empty():
            (pool,) = rig.leader._tables.credit.pools.values()
            listed = [*pool.idle.values(), *pool.open.values()]
            expected = naive([(slot.key, slot.count) for slot in listed], prefetch, count)
            tasks = client.submit(count=count)
            new = [assignment for assignment in worker.inbox if assignment.task in tasks]
            got = [[tasks.index(a.task) for a in new if a.slot == slot.index] for slot in listed]
            assert got == expected
        else:
            client.submit(count=count)
