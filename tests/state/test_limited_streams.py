"""What limits promise, judged from outside while everything else happens as well."""

import pytest
from hash_seeds import assert_same_under_two_hash_seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import assert_goes_on_alike, assert_restored_before_every_entry
from limited_stream import LimitedStream, TightStream
from random_stream import replay


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [LimitedStream, TightStream])
def test_no_limit_is_exceeded_and_invariants_hold_after_every_entry(kind, seed):
    stream = kind(seed)
    stream.run(250, check=True)
    assert stream.full > 5 and len(stream.ended) > 50
    assert replay(stream.log).full_digest() == stream.machine.full_digest()


@given(seed=st.integers(100, 100_000), kind=st.sampled_from([LimitedStream, TightStream]))
@settings(max_examples=25, deadline=None)
def test_no_limit_is_exceeded_by_any_stream(seed, kind):
    kind(seed).run(120, check=True)


@pytest.mark.parametrize("kind", [LimitedStream, TightStream])
def test_a_machine_with_limits_that_is_restored_before_every_entry_decides_as_one_that_never_stopped(kind):
    stream = kind(2)
    stream.run(130, check=False)
    assert_restored_before_every_entry(stream.log)


@given(seed=st.integers(100, 100_000), at=st.floats(0, 1), kind=st.sampled_from([LimitedStream, TightStream]))
@settings(max_examples=25, deadline=None)
def test_a_machine_with_limits_restored_anywhere_decides_as_one_that_never_stopped(seed, at, kind):
    stream = kind(seed)
    stream.run(120, check=False)
    assert_goes_on_alike(stream.log, round(at * 120))


def test_two_hash_seeds_give_the_same_digests_with_limits():
    assert_same_under_two_hash_seeds("limited_stream.py", "7", "400")
