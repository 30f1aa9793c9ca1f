"""The log in bad times: cuts at every byte, flipped bits, crashes at every call that changes the disk."""

from collections.abc import Callable

import pytest
from wal_rig import PowerLost, Rig

from cluster.raft.messages import Entry
from cluster.storage.frame import Frame, find_frames
from cluster.storage.header import FRAMES_START, HEADER_BYTES, decode_segment_header
from cluster.storage.segment import WalLimits

CALLS_MAX = 400     # no scenario makes more

MODES = pytest.mark.parametrize("mode", ["inline", "thread"])


def frames_of(rig: Rig, path: str) -> list[Frame]:
    data = rig.disk.read(path)
    header = decode_segment_header(data).header
    assert header is not None
    return list(find_frames(data, FRAMES_START, header.salt))


def crash_at_every_call(scenario: Callable[[Rig], None], *, mode: str = "inline", seeds: int = 2) -> int:
    """Runs `scenario` again and again, each time with the power cut one call later. Returns its calls.

    After each cut the log must open with nothing acknowledged lost, go on, and open again.
    """
    for calls in range(CALLS_MAX):
        for seed in range(seeds):
            rig = Rig(seed * 1_000 + calls + 1, mode=mode, latency=1_000)
            rig.disk.cut_power_after(calls)
            try:
                scenario(rig)
            except PowerLost:
                rig.crash()
                reopen_check_and_go_on(rig)
            else:
                assert calls > 5, "the scenario does something"
                return calls
    raise AssertionError("CALLS_MAX is too low")


def reopen_check_and_go_on(rig: Rig) -> None:
    _, recovery = rig.open()
    rig.check(recovery)
    rig.adopt(recovery)
    rig.write(2, term=rig.term + 1)
    rig.clock.advance()
    rig.wal.close()
    _, recovery = rig.open()
    rig.check(recovery)


@MODES
def test_nothing_acknowledged_is_lost_in_a_crash_at_any_call_of_appending(mode):
    def scenario(rig: Rig) -> None:
        rig.open()
        rig.clock.advance()
        rig.write(3, term=1)
        rig.write(1, term=2, vote=1)
        rig.append(2)
        rig.append(2, truncate_from=3)
        rig.append(1, term=3)
        rig.wal.flush()
        rig.clock.advance()
        rig.write(0, term=4, vote=2)
        rig.write(1, size=2_000)

    assert crash_at_every_call(scenario, mode=mode, seeds=4) > 20


@MODES
def test_nothing_acknowledged_is_lost_in_a_crash_at_any_call_of_rolling(mode):
    def scenario(rig: Rig) -> None:
        rig.open()
        for _ in range(4):
            rig.write(8, term=1, size=200)
            rig.write(3, truncate_from=len(rig.log) - 1, size=200)
            rig.clock.advance()
        # One turn that fills several segments.
        for _ in range(6):
            rig.append(5, size=300)
        rig.wal.flush()
        rig.clock.advance()

    assert crash_at_every_call(scenario, mode=mode) > 40


@MODES
def test_nothing_acknowledged_is_lost_in_a_crash_at_any_call_of_recovery(mode):
    def scenario(rig: Rig) -> None:
        # The fuse of this run is for the recovery: the way there is not under test.
        fuse, rig.disk._fuse = rig.disk._fuse, None
        rig.open()
        rig.clock.advance()
        for _ in range(5):
            rig.write(4, term=2, vote=1, size=300)
        rig.append(3, size=700)
        rig.append(2, truncate_from=20)
        rig.disk.cut_power_after(1)
        try:
            rig.wal.flush()
            rig.clock.advance()
        except PowerLost:
            pass
        rig.crash()
        rig.disk._fuse = fuse
        rig.open()

    assert crash_at_every_call(scenario, mode=mode, seeds=4) > 5


def test_a_crash_in_the_recovery_from_a_crash_in_a_recovery_loses_nothing():
    for seed in range(60):
        rig = Rig(seed)
        rig.open()
        rig.clock.advance()
        for _ in range(3):
            rig.write(4, term=2, vote=1, size=300)
        for _ in range(6):
            rig.crash()
            rig.disk.cut_power_after(rig.entropy.below(9))
            try:
                rig.open()
            except PowerLost:
                continue
        rig.crash()
        reopen_check_and_go_on(rig)


@MODES
def test_a_formation_interrupted_at_every_step_resumes(mode):
    def scenario(rig: Rig) -> None:
        told: list[bool] = []
        try:
            rig.open()
            rig.clock.advance()
            rig.wal.store_formation(b"the-id", ("b1", "b2", "b3"), done=lambda: told.append(True))
            rig.clock.advance()
            rig.write(1, term=1)
        except PowerLost:
            rig.crash()
            wal, recovery = rig.open()
            assert recovery.cluster_id == b"the-id" if told else recovery.cluster_id in (None, b"the-id")
            assert recovery.voters == (("b1", "b2", "b3") if recovery.cluster_id else ())
            assert recovery.empty == (recovery.cluster_id is None)
            wal.store_formation(b"the-id", ("b1", "b2", "b3"))
            rig.clock.advance()
            rig.crash()
            assert rig.open()[1].cluster_id == b"the-id"
            raise

    crash_at_every_call(scenario, mode=mode, seeds=4)


@MODES
def test_a_quarantine_interrupted_at_every_step_is_there_if_it_was_told(mode):
    for calls in range(CALLS_MAX):
        rig = Rig(calls, mode=mode)
        told: list[bool] = []
        rig.open()
        rig.clock.advance()
        rig.write(2, term=1)
        rig.disk.cut_power_after(calls)
        try:
            rig.wal.quarantine("for a test", done=lambda told=told: told.append(True))
            rig.clock.advance()
            rig.wal.lift_quarantine()
            rig.clock.advance()
        except PowerLost:
            lifting = rig.wal._meta.quarantine is None
            rig.crash()
            _, recovery = rig.open()
            assert recovery.quarantined or not told or lifting
            assert recovery.last_index == 2
        else:
            return
    raise AssertionError("CALLS_MAX is too low")


def interrupted_write(seed: int = 1) -> tuple[Rig, str, bytes, int]:
    """A log with a synced part and a turn of three frames that was written and not synced.

    Returns the rig (crashed), the segment's path, its bytes with everything in them, and where the unsynced
    ones begin.
    """
    rig = Rig(seed, limits=WalLimits(segment_bytes=FRAMES_START + 8_192, zero_chunk_bytes=8_192))
    rig.open()
    rig.clock.advance()
    rig.write(3, term=1, vote=1)
    rig.write(2, term=2)
    synced_end = frames_of(rig, rig.segment())[-2].end
    rig.append(2)
    rig.append(1, truncate_from=5)
    rig.append(1, term=3, vote=2)
    rig.disk.cut_power_after(1)
    with pytest.raises(PowerLost):
        rig.wal.flush()
    path = rig.segment()
    data = rig.disk.read(path)
    rig.crash()
    return rig, path, data, synced_end


def test_the_log_cut_at_every_byte_after_the_last_synced_frame_opens_with_nothing_acknowledged_lost():
    rig, path, data, synced_end = interrupted_write()
    end = len(data.rstrip(b"\0")) + 8
    assert end - synced_end > 500
    kept_last_indexes = set()
    for cut in range(synced_end, end):
        for tail in (b"", bytes(len(data) - cut)):
            rig, path, _, _ = interrupted_write()
            rig.disk.overwrite(path, data[:cut] + tail)
            _, recovery = rig.open()
            rig.check(recovery)
            kept_last_indexes.add(recovery.last_index)
    assert kept_last_indexes == {5, 7, 6}, "whole frames of the unsynced turn are kept"


def test_any_torn_pattern_of_sectors_opens_with_nothing_acknowledged_lost():
    patterns = set()
    for seed in range(150):
        rig, path, _, _ = interrupted_write(seed)
        patterns.add(rig.disk.read(path))
        reopen_check_and_go_on(rig)
    assert len(patterns) > 3


def test_a_hole_in_an_unsynced_turn_is_a_torn_tail_although_whole_frames_follow():
    rig, path, data, synced_end = interrupted_write()
    holed = bytearray(data)
    holed[synced_end + 64 + 10] ^= 1     # in the first unsynced frame behind the marker
    rig.disk.overwrite(path, bytes(holed))
    _, recovery = rig.open()
    rig.check(recovery)
    assert recovery.last_index == 5
    assert recovery.cut_bytes > 0
    assert recovery.hard_state.term == 3, "a vote behind the cut counts"
    assert recovery.hard_state.vote == 2


def test_a_cut_torn_frame_is_not_vouched_for_by_later_writes():
    rig, path, data, synced_end = interrupted_write()
    holed = bytearray(data)
    holed[synced_end + 64 + 10] ^= 1
    rig.disk.overwrite(path, bytes(holed))
    for _ in range(3):
        _, recovery = rig.open()
        rig.check(recovery)
        rig.adopt(recovery)
        rig.write(2, term=rig.term + 1)
        rig.crash()


@MODES
@pytest.mark.parametrize("count", [1, 3])
def test_an_orderly_end_leaves_no_frame_that_nothing_vouches_for(mode, count):
    rig = Rig(mode=mode)
    rig.open()
    rig.clock.advance()
    rig.write(2, term=1, vote=1)
    for _ in range(count):
        rig.append(1)
        rig.wal.flush()
    rig.wal.close()     # in thread mode while the write is under way
    rig.clock.advance()
    rig.disk.kill()
    rig.pid += 1
    last = [frame for frame in frames_of(rig, rig.segment()) if frame.runs][-1]
    rig.disk.flip_bit(rig.segment(), last.offset + 70)
    _, recovery = rig.open()
    assert recovery.quarantined


def test_a_flipped_bit_in_any_frame_that_a_later_synced_seq_covers_quarantines():
    rig = Rig()
    rig.open()
    rig.clock.advance()
    rig.write(2, term=1, vote=2, size=20)
    rig.write(1, size=33)
    rig.write(1, truncate_from=3, size=5)
    rig.write(0, term=2, vote=1)
    path, log = rig.segment(), rig.read_all()
    rig.wal.close()
    rig.disk.kill()
    frames = frames_of(rig, path)
    covered = frames[-1].synced_seq
    content = {name: rig.disk.read(name) for name in rig.disk.paths()}
    tried = 0
    for frame in frames:
        for offset in range(frame.offset, frame.end):
            for name in rig.disk.paths():
                if name not in content and not name.endswith("lock"):
                    rig.disk._names.visible.pop(name)
                    rig.disk._names.durable.pop(name, None)
            for name, data in content.items():
                if rig.disk.lookup(name) is None:
                    rig.disk.mount(99).open(name, create=True)
                rig.disk.overwrite(name, data)
            rig.disk.flip_bit(path, offset, offset % 8)
            wal, recovery = rig.open()
            state = recovery.hard_state
            if frame.seq <= covered:
                damage = recovery.damaged
                assert recovery.quarantined
                assert damage is not None
                assert damage.offset == frame.offset
                assert damage.first_index == recovery.last_index + 1
                aside = f"data/b1/{damage.file}"
                assert rig.disk.lookup(aside) is not None, "the file is kept aside"
                assert rig.disk.read(aside)[frame.offset :] != content[path][frame.offset :]
            else:
                assert not recovery.quarantined
            assert (state.term, state.vote) == (2, 1), "one frame of each pair is enough for the vote"
            assert rig.read_all() == log[: recovery.last_index] or recovery.last_index == 3
            wal.close()
            rig.disk.kill()
            tried += 1
    assert tried == frames[-1].end - FRAMES_START


def test_damage_in_an_earlier_segment_cuts_there_and_keeps_everything_behind_it_aside():
    rig = Rig()
    rig.open()
    for _ in range(30):
        rig.write(3, term=1)
        rig.clock.advance()
    rig.write(1, term=7, vote=3)
    rig.wal.close()
    paths = rig.segments()
    assert len(paths) >= 4
    last = frames_of(rig, paths[1])[-2]
    before = rig.read_all()
    rig.disk.flip_bit(paths[1], last.offset + 70)
    _, recovery = rig.open()
    damage = recovery.damaged
    assert damage is not None
    assert damage.file == paths[1].rpartition("/")[2].replace(".wal", ".damaged")
    assert len(damage.kept_aside) == len(paths) - 1
    assert 0 < recovery.last_index < damage.last_index
    assert damage.last_index == len(before)
    assert rig.read_all() == before[: recovery.last_index]
    assert recovery.hard_state.term == 7, "the vote was in a segment that left the log"
    assert recovery.hard_state.vote == 3
    for _ in range(3):      # later starts still know, and the evidence does not grow
        rig.wal.close()
        _, again = rig.open()
        assert again.damaged == damage
        aside = [path for path in rig.disk.paths() if path.endswith(".damaged")]
        assert len(aside) == len(damage.kept_aside)
    assert len(rig.segments()) == 2


def test_a_crash_at_any_call_of_the_recovery_from_damage_ends_in_quarantine():
    for calls in range(CALLS_MAX):
        rig = Rig(calls)
        rig.open()
        for _ in range(12):
            rig.write(3, term=1)
            rig.clock.advance()
        rig.wal.close()
        path = rig.segments()[0]
        rig.disk.flip_bit(path, frames_of(rig, path)[2].offset + 9)
        rig.crash()
        rig.disk.cut_power_after(calls)
        try:
            rig.open()
        except PowerLost:
            rig.crash()
            _, recovery = rig.open()
            assert recovery.damaged is not None
            assert recovery.last_index < 36
            assert sorted(path for path in rig.disk.paths() if path.endswith(".damaged")) == [
                f"data/b1/{name}" for name in recovery.damaged.kept_aside
            ]
        else:
            assert calls > 5
            return


def test_one_bad_copy_of_a_header_is_survived_and_two_are_damage():
    for copies in (1, 2):
        rig = Rig()
        rig.open()
        rig.wal.store_formation(b"id", ("b1",))
        rig.write(2, term=3, vote=1)
        rig.wal.close()
        for copy in range(copies):
            rig.disk.flip_bit(rig.segment(), copy * HEADER_BYTES + 70)
        _, recovery = rig.open()
        assert (recovery.hard_state.term, recovery.hard_state.vote) == (3, 1)
        if copies == 1:
            rig.check(recovery)
            assert recovery.cluster_id == b"id"
        else:
            assert recovery.damaged is not None
            assert not recovery.empty
            assert recovery.last_index == 0


def test_a_missing_segment_is_damage():
    rig = Rig()
    rig.open()
    for _ in range(30):
        rig.write(3, term=1)
        rig.clock.advance()
    rig.wal.close()
    rig.disk.mount(9).remove(rig.segments()[1])
    _, recovery = rig.open()
    assert recovery.damaged is not None
    assert recovery.damaged.offset == 0
    assert recovery.last_index == 0


def test_the_commit_hint_is_that_of_the_entries_that_are_kept():
    rig = Rig()
    rig.open()
    rig.write(6, term=1)
    rig.commit = 3
    rig.write(1)
    rig.write(2, term=2, truncate_from=5)
    rig.commit = 6
    rig.write(1)
    rig.wal.close()
    truncation = next(frame for frame in frames_of(rig, rig.segment()) if frame.truncate_from)
    rig.disk.flip_bit(rig.segment(), truncation.offset + 3)
    _, recovery = rig.open()
    assert recovery.damaged is not None
    assert recovery.last_index == 7
    assert recovery.hard_state.commit == 3, "5 and 6 were replaced before they were committed"


def test_the_commit_hint_never_exceeds_the_entries_that_are_kept():
    rig = Rig(limits=WalLimits(segment_bytes=1 << 20))
    rig.open()
    rig.wal.append(1, 1, 0, 5_000, 0, [Entry(index, 1, 0, b"") for index in range(1, 5_001)])
    rig.wal.flush()
    rig.settle()
    path = rig.segment()
    second = [frame for frame in frames_of(rig, path) if frame.runs][1]
    rig.wal.close()
    rig.disk.overwrite(path, rig.disk.read(path)[: second.offset])
    _, recovery = rig.open()
    assert recovery.last_index == 4_096
    assert recovery.hard_state.commit == 4_096


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_with_crashes_kills_and_torn_writes_lose_nothing(seed):
    rig = Rig(seed, mode="thread" if seed % 2 else "inline", latency=1_000)
    below = rig.entropy.below
    _, recovery = rig.open()
    for _ in range(25):
        rig.disk.cut_power_after(below(40))
        try:
            while True:
                kind = below(10)
                if kind == 0:
                    rig.append(0, term=rig.term + 1, vote=below(3))
                elif kind == 1 and len(rig.log) > 2:
                    rig.append(1, term=rig.term + 1, truncate_from=len(rig.log) - below(3))
                else:
                    rig.append(1 + below(4), term=max(rig.term, 1), size=below(300) + 20)
                if below(3) == 0:
                    rig.wal.flush()
                    rig.clock.advance(below(3_000))
                if below(4) == 0:
                    rig.wal.mark()
        except PowerLost:
            if below(4) == 0:
                rig.disk.kill()
                rig.pid += 1
            else:
                rig.crash()
        _, recovery = rig.open()
        rig.check(recovery)
        rig.adopt(recovery)
    assert rig.disk.faults["crash"] > 5
