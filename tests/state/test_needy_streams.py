"""What dependencies promise, judged from outside while everything else happens as well: whoever needs others is handed
out when all have ended, with what is recorded of them, or ends and says why; nobody waits in vain."""

from collections import Counter

import pytest
from hash_seeds import assert_same_under_two_hash_seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import assert_goes_on_alike, assert_restored_before_every_entry
from needy_stream import NeedyForgetfulStream, NeedyStream, RivalStream
from random_stream import replay

from cluster.state import dependencies, duplicate_invariants, duplicates, needs, replays, retention
from cluster.state.queues import HEAVY

NEEDY = [NeedyStream, NeedyForgetfulStream]
KINDS = [*NEEDY, RivalStream]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", NEEDY)
def test_who_needs_others_gets_what_became_of_them_and_invariants_hold_after_every_entry(kind, seed):
    stream = kind(seed)
    stream.run(250, check=True)
    stream.finish()
    stream.nobody_waits_in_vain()
    assert stream.met > 6 and stream.unmet > 20 and stream.told > 0
    assert replay(stream.log).full_digest() == stream.machine.full_digest()


@pytest.mark.parametrize("seed", range(4))
def test_ends_that_are_told_over_many_entries_are_told_all_the_same(monkeypatch, seed):
    monkeypatch.setattr(dependencies, "SETTLED_MAX", 2)
    monkeypatch.setattr(retention, "OVERDUE_BYTES_MAX", 3_000)
    stream = NeedyForgetfulStream(50 + seed)
    stream.may_lose = True
    stream.run(200, check=False)
    stream.finish()
    stream.machine.check()
    stream.nobody_waits_in_vain()
    assert_goes_on_alike(stream.log, 100 + seed)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", NEEDY)
def test_tasks_whose_inputs_are_too_many_to_lie_ready_are_handed_out_all_the_same(monkeypatch, kind, seed):
    monkeypatch.setattr(dependencies, "INPUTS_AHEAD_BYTES_MAX", dependencies.INPUT_OVERHEAD_BYTES)
    stream = kind(70 + seed)
    stream.run(200, check=True)
    stream.finish()
    stream.nobody_waits_in_vain()
    assert any(task.alone == HEAVY for task in stream.machine._tables.tasks.in_order())
    assert_goes_on_alike(stream.log, 100 + seed)


def test_rivals_for_a_key_run_one_after_another_when_there_is_always_too_much(monkeypatch):
    """Few windows are remembered, few are cleared in an entry, ends are told over many, and replays bring few needs."""
    monkeypatch.setattr(duplicates, "WINDOWS_MAX", 1)
    monkeypatch.setattr(duplicate_invariants, "WINDOWS_MAX", 1)
    monkeypatch.setattr(duplicates, "CLEARED_MAX", 1)
    monkeypatch.setattr(dependencies, "SETTLED_MAX", 2)
    monkeypatch.setattr(replays, "NEEDS_COMMAND_MAX", 12)
    monkeypatch.setattr(needs, "NEEDS_KNOWN_MAX", 100)
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 200_000)
    seen: Counter[str] = Counter()
    for seed in range(300, 304):
        stream = RivalStream(seed)
        stream.may_lose = True
        stream.run(200, check=True)
        stream.finish()
        stream.nobody_waits_in_vain()
        assert_goes_on_alike(stream.log, seed % 7 * 25)
        counted = stream.machine.status()["counters"]
        seen.update(behind=len(stream.behind), crowded=stream.crowded)
        seen.update({name: counted[name] for name in ("forgotten_keys", "duplicates", "replayed", "evicted_early")})
    assert all(seen.values()), seen


@given(seed=st.integers(100, 100_000), kind=st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_nobody_waits_in_vain_in_any_stream(seed, kind):
    stream = kind(seed)
    stream.run(120, check=True)
    stream.finish()
    stream.nobody_waits_in_vain()


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_with_dependencies_that_is_restored_before_every_entry_decides_as_one_that_never_stopped(kind):
    stream = kind(3)
    stream.run(130, check=False)
    assert_restored_before_every_entry(stream.log)


@given(seed=st.integers(100, 100_000), at=st.floats(0, 1), kind=st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_a_machine_with_dependencies_restored_anywhere_decides_as_one_that_never_stopped(seed, at, kind):
    stream = kind(seed)
    stream.run(120, check=False)
    assert_goes_on_alike(stream.log, round(at * 120))


def test_two_hash_seeds_give_the_same_digests_with_dependencies():
    assert_same_under_two_hash_seeds("needy_stream.py", "7", "300")
