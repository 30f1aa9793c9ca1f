"""The commit hint never speaks of entries that recovery does not find: found by the simulated cluster, as a broker that
applied an entry of term 2 where the others had committed one of term 3.
"""

import pytest
from wal_rig import PowerLost, Rig

CALLS_MAX = 100


def overwrite_in_a_new_segment(rig: Rig) -> None:
    """Two entries of term 2 are overwritten by term 3, committed already, in a write that no longer fits into the
    segment."""
    rig.open()
    rig.clock.advance()
    rig.write(6, term=2, size=400)
    rig.commit = 4
    rig.write(2, size=400)
    rig.commit = 9
    rig.write(3, term=3, truncate_from=7, size=400)


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_new_segment_does_not_commit_what_its_first_frame_replaces(mode: str):
    for calls in range(CALLS_MAX):
        rig = Rig(calls + 1, mode=mode, latency=1_000)
        rig.disk.cut_power_after(calls)
        try:
            overwrite_in_a_new_segment(rig)
        except PowerLost:
            rig.crash()
            wal, recovery = rig.open()
            commit = recovery.hard_state.commit
            assert commit <= 6 or wal.term(7) == 3, f"after {calls} calls entry 7 of term 2 counts as committed"
        else:
            assert calls > 5, "the scenario does something"
            assert len(rig.segments()) == 2, "the overwriting write began a segment"
            return
    raise AssertionError("CALLS_MAX is too low")
