"""The log in good times: what was written is read back, in both modes."""

import pytest
from wal_rig import DIRECTORY, Rig

from actors.errors import Locked
from cluster.raft.messages import Entry
from cluster.storage.errors import ForeignDirectory, WalFailed
from cluster.storage.frame import FRAME_HEADER_BYTES, find_frames
from cluster.storage.header import FRAMES_START, decode_segment_header
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits


def frames_of(rig: Rig, path: str) -> list:
    data = rig.disk.read(path)
    header = decode_segment_header(data).header
    assert header is not None
    return list(find_frames(data, FRAMES_START, header.salt))


@pytest.fixture(params=["inline", "thread"])
def rig(request):
    rig = Rig(mode=request.param)
    rig.open()
    return rig


def reopened(rig: Rig):
    rig.wal.close()
    return rig.open()


def test_a_new_directory_is_empty_and_stays_so_until_something_is_stored():
    rig = Rig()
    _, first = rig.open()
    assert first.empty
    assert (first.first_index, first.last_index, first.terms) == (1, 0, ())
    _, second = reopened(rig)
    assert second.empty
    rig.write()
    assert not reopened(rig)[1].empty


def test_what_was_persisted_is_there_after_reopening(rig):
    rig.write(3, term=2)
    rig.commit = 2
    rig.write(2, term=3, vote=1)
    assert rig.persisted == [1, 2]
    assert rig.wal.last_index == 5
    before = rig.read_all()
    wal, recovery = reopened(rig)
    rig.check(recovery)
    assert rig.read_all() == before
    assert recovery.terms == ((1, 2), (4, 3))
    assert [wal.term(index) for index in range(6)] == [0, 2, 2, 2, 3, 3]
    assert (recovery.hard_state.term, recovery.hard_state.vote, recovery.hard_state.commit) == (3, 1, 2)


def test_the_writes_of_a_turn_share_one_frame_and_one_sync():
    rig = Rig()
    rig.open()
    rig.write(1, term=1)
    calls = rig.disk.calls
    rig.append(1)
    rig.append(2)
    rig.append(1)
    rig.wal.flush()
    assert rig.disk.calls - calls == 2, "one write, one sync"
    assert rig.persisted == [1, 2, 3, 4]
    last = [frame for frame in frames_of(rig, rig.segment()) if frame.runs][-1]
    assert (last.first_index, last.last_index) == (2, 5)


def test_nothing_is_written_for_a_commit_index_alone_and_its_write_id_still_comes():
    rig = Rig()
    rig.open()
    rig.write(2, term=1)
    calls = rig.disk.calls
    rig.commit = 2
    rig.write(0)
    assert rig.disk.calls == calls
    assert rig.persisted == [1, 2]


def test_truncation_is_a_number_in_the_next_frame(rig):
    rig.write(6, term=1)
    rig.write(2, term=2, truncate_from=4)
    assert rig.wal.last_index == 5
    assert [rig.wal.term(index) for index in range(1, 6)] == [1, 1, 1, 2, 2]
    expected = rig.read_all()
    _, recovery = reopened(rig)
    rig.check(recovery)
    assert rig.read_all() == expected
    rig.adopt(recovery)
    rig.write(0, truncate_from=2)
    _, recovery = reopened(rig)
    assert recovery.last_index == 1


def test_a_change_of_vote_is_in_two_frames_of_one_sync():
    rig = Rig()
    rig.open()
    calls = rig.disk.calls
    rig.write(0, term=4, vote=2)
    assert rig.disk.calls - calls == 3, "one write, one sync, one marker"
    assert [(frame.term, frame.vote) for frame in frames_of(rig, rig.segment())[-3:]] == [(4, 2)] * 3
    rig.write(2, term=5, vote=3)
    with_vote = [frame for frame in frames_of(rig, rig.segment()) if frame.term == 5]
    assert len(with_vote) == 3, "one in front, one with the entries, and the marker"


def test_a_marker_says_what_is_durable_in_a_quiet_moment(rig):
    rig.write(2, term=1)
    marker = frames_of(rig, rig.segment())[-1]
    assert marker.runs == ()
    assert marker.synced_seq == marker.seq - 1
    rig.write(1)
    rig.wal.flush()
    frames = frames_of(rig, rig.segment())
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1].synced_seq == frames[-1].seq - 1


def test_a_marker_is_written_once_and_not_between_writes():
    rig = Rig()
    rig.open()
    rig.write(1, term=1)
    calls = rig.disk.calls
    rig.wal.mark()
    assert rig.disk.calls == calls, "the last marker vouches for everything"
    rig.append(1)
    rig.wal.mark()
    assert rig.disk.calls == calls, "a write is queued: it will vouch"
    rig.wal.flush()
    rig.append(1)
    rig.wal.flush()
    assert rig.disk.calls - calls == 4, "two writes, two syncs"
    before, last = frames_of(rig, rig.segment())[-2:]
    assert last.synced_seq == before.seq, "a write vouches for the one before"


def test_a_marker_that_cannot_be_written_is_a_failed_write():
    rig = Rig()
    rig.open()
    rig.append(1, term=1)
    rig.wal.flush()
    rig.disk.fail_next_write()
    with pytest.raises(WalFailed):
        rig.wal.mark()
    with pytest.raises(WalFailed):
        rig.append(1)
    assert rig.persisted == [1]


def test_a_large_write_is_cut_into_frames_of_a_mebibyte_or_one_larger_record():
    rig = Rig(limits=WalLimits())
    rig.open()
    sizes = [600_000, 600_000, 1_500_000, 10, 10]
    rig.term = 1
    entries = [Entry(n + 1, 1, 0, bytes(size)) for n, size in enumerate(sizes)]
    rig.wal.append(1, 1, 0, 0, 0, entries)
    rig.wal.append(2, 1, 0, 0, 0, [Entry(n + 6, 1, 0, b"") for n in range(5_000)])
    rig.wal.flush()
    rig.settle()
    ranges = [(frame.first_index, frame.last_index) for frame in frames_of(rig, rig.segment()) if frame.runs]
    assert ranges == [(1, 1), (2, 2), (3, 3), (4, 5), (6, 4_101), (4_102, 5_005)]
    assert [len(entry.payload) for entry in rig.wal.read(1, 6, 1 << 30)] == sizes
    assert [entry.index for entry in rig.wal.read(4_000, 5_006, 1 << 30)] == list(range(4_000, 5_006))


def test_segments_follow_each_other_and_the_next_one_is_ready_in_time(rig):
    for _ in range(60):
        rig.write(3, term=1)
        rig.clock.advance()
    assert len(rig.segments()) > 3
    assert rig.wal.unprepared_rolls == 0
    before = rig.read_all()
    assert len(before) == 180
    _, recovery = reopened(rig)
    rig.check(recovery)
    assert rig.read_all() == before


def test_a_segment_without_a_spare_at_hand_is_begun_all_the_same():
    rig = Rig()
    rig.open()
    for _ in range(60):
        rig.write(3, term=1)        # the clock stands: no spare is ever filled
    assert rig.wal.unprepared_rolls > 0
    _, recovery = reopened(rig)
    rig.check(recovery)


def test_a_frame_larger_than_a_segment_has_one_of_its_own(rig):
    rig.write(1, term=1)
    rig.write(1, size=20_000)
    rig.write(1)
    _, recovery = reopened(rig)
    rig.check(recovery)
    assert recovery.last_index == 3


def test_reads_are_bounded_in_bytes_and_give_at_least_one_entry():
    rig = Rig()
    rig.open()
    for _ in range(20):
        rig.write(4, term=1)
    length = len(rig.log[0].record)
    assert [entry.index for entry in rig.wal.read(3, 81, 5 * length)] == [3, 4, 5, 6, 7]
    assert [entry.index for entry in rig.wal.read(80, 81, 1)] == [80]
    assert [entry.index for entry in rig.wal.read(79, 80, 1 << 30)] == [79]
    for low in range(1, 81):
        assert [entry.index for entry in rig.wal.read(low, 81, 1 << 30)] == list(range(low, 81))


def test_truncated_entries_are_not_read_from_the_middle_of_a_frame():
    rig = Rig()
    rig.open()
    rig.write(8, term=1)
    rig.write(3, term=2, truncate_from=4)
    rig.write(2, term=3, truncate_from=6)
    assert [(entry.index, entry.term) for entry in rig.wal.read(1, 8, 1 << 30)] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3),
    ]


def test_formation_and_quarantine_survive_and_the_quarantine_can_be_lifted(rig):
    told = []
    rig.wal.store_formation(b"cluster-id", ("b1", "b2", "b3"), done=lambda: told.append("formed"))
    rig.write(1, term=1)
    rig.wal.quarantine("the leader has seen more", done=lambda: told.append("quarantined"))
    assert rig.wal.quarantined
    rig.clock.advance()
    assert told == ["formed", "quarantined"]
    wal, recovery = reopened(rig)
    assert (recovery.cluster_id, recovery.voters) == (b"cluster-id", ("b1", "b2", "b3"))
    assert recovery.quarantined
    assert recovery.damaged is None
    wal.lift_quarantine()
    rig.clock.advance()
    assert not wal.quarantined
    assert not reopened(rig)[1].quarantined


def test_an_emptied_broker_stores_id_and_quarantine_in_one_step():
    rig = Rig()
    rig.open()
    rig.wal.store_formation(b"id", ("b1",), quarantine="the disk was lost")
    rig.settle()
    _, recovery = reopened(rig)
    assert recovery.cluster_id == b"id"
    assert recovery.quarantined


def test_the_mark_is_carried_into_later_segments(rig):
    rig.wal.store_formation(b"id", ("b1",))
    rig.wal.quarantine("for a test")
    for _ in range(40):
        rig.write(3, term=1)
    assert len(rig.segments()) > 2
    _, recovery = reopened(rig)
    assert recovery.quarantined
    assert recovery.cluster_id == b"id"


def test_appends_of_several_turns_share_a_sync_while_one_is_pending():
    rig = Rig(mode="thread", latency=1_000_000)
    rig.open()
    rig.clock.advance()
    rig.append(1, term=1)
    rig.wal.flush()
    rig.clock.advance(400_000)
    for _ in range(3):
        rig.append(1)
        rig.wal.flush()
    assert rig.persisted == []
    assert rig.wal.last_index == 0
    assert rig.wal.oldest_pending_ns(rig.clock.now()) == 400_000
    rig.clock.advance(600_000)
    assert rig.persisted == [1]
    assert rig.wal.oldest_pending_ns(rig.clock.now()) == 600_000
    rig.clock.advance(1_000_000)
    assert rig.persisted == [1, 2, 3, 4]
    assert rig.wal.oldest_pending_ns(rig.clock.now()) == 0
    assert rig.wal.last_index == 4


def test_a_failed_sync_is_never_retried_inline():
    rig = Rig()
    rig.open()
    rig.write(1, term=1)
    rig.disk.fail_next_sync()
    rig.append(1)
    with pytest.raises(WalFailed):
        rig.wal.flush()
    calls = rig.disk.calls
    with pytest.raises(WalFailed):
        rig.wal.flush()
    with pytest.raises(WalFailed):
        rig.append(1)
    with pytest.raises(WalFailed):
        rig.wal.quarantine("too late")
    assert rig.disk.calls == calls
    assert rig.persisted == [1]


def test_a_failed_sync_is_never_retried_in_thread_mode():
    rig = Rig(mode="thread", latency=1_000_000)
    rig.open()
    rig.clock.advance()
    rig.write(1, term=1)
    rig.append(1)
    rig.disk.fail_next_sync()
    rig.wal.flush()
    rig.append(1)
    rig.clock.advance()
    assert len(rig.failures) == 1
    calls = rig.disk.calls
    with pytest.raises(WalFailed):
        rig.wal.flush()
    rig.clock.advance()
    assert rig.disk.calls == calls
    assert rig.persisted == [1]


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_what_a_failed_sync_left_readable_is_made_durable_before_it_is_used(mode):
    """"Can Applications Recover from fsync Failures?": the page is clean, readable, and not on the disk."""
    rig = Rig(mode=mode)
    rig.open()
    rig.clock.advance()
    rig.write(1, term=1)
    rig.disk.fail_next_sync()
    rig.append(1)
    if mode == "inline":
        with pytest.raises(WalFailed):
            rig.wal.flush()
    else:
        rig.wal.flush()
        rig.clock.advance()
    rig.disk.kill()
    rig.pid += 1
    _, recovery = rig.open()
    assert recovery.last_index == 2
    seen = rig.read_all()
    rig.crash()
    rig.open()
    assert rig.read_all() == seen


def test_a_full_disk_fails_the_log_only_where_it_has_to_grow():
    rig = Rig()
    rig.open()
    rig.clock.advance()
    rig.disk.full = True
    with pytest.raises(WalFailed, match="No space left"):
        for _ in range(60):
            rig.write(3, term=1)
            rig.clock.advance()
    assert len(rig.segments()) > 1, "the spare was used before"


def test_the_directory_of_another_node_or_cluster_is_refused_and_left_alone():
    rig = Rig()
    rig.open()
    rig.wal.store_formation(b"one", ("b1",))
    rig.settle()
    rig.wal.close()
    content = {path: rig.disk.read(path) for path in rig.segments()}
    for identity, what in [
        (NodeIdentity("b2", "test", 7), "node"),
        (NodeIdentity("b1", "other", 7), "cluster"),
        (NodeIdentity("b1", "test", 7, b"two"), "cluster id"),
    ]:
        rig.identity = identity
        with pytest.raises(ForeignDirectory) as refused:
            rig.open()
        assert refused.value.what == what
    assert {path: rig.disk.read(path) for path in rig.segments()} == content
    rig.identity = NodeIdentity("b1", "test", 7, b"one")
    rig.open()


def test_the_lock_is_held_while_the_log_is_open_and_dies_with_the_process():
    rig = Rig()
    rig.open()
    rig.pid = 2
    with pytest.raises(Locked) as locked:
        rig.open()
    assert locked.value.pid == 1
    assert locked.value.path == f"{DIRECTORY}/lock"
    rig.disk.kill(1)
    rig.open()


def test_old_segments_become_spares_and_their_bytes_mean_nothing():
    rig = Rig()
    rig.open()
    rig.clock.advance()
    salts = set()
    for _ in range(6):
        rig.write(2, term=1)
        _, recovery = reopened(rig)
        salts.add(decode_segment_header(rig.disk.read(rig.segment())).header.salt)
        rig.check(recovery)
        rig.adopt(recovery)
        spares = [path for path in rig.disk.paths() if path.endswith(".spare")]
        assert len(rig.segments()) == 1
        assert 1 <= len(spares) <= 2
    assert any(b"1/1/" in rig.disk.read(path) for path in spares), "recycled unwiped"
    assert len(salts) == 6, "what a file held under an old salt is not the log's"


def test_close_in_thread_mode_lets_the_job_end_before_the_lock_goes():
    rig = Rig(mode="thread", latency=1_000_000)
    rig.open()
    rig.clock.advance()
    rig.append(1, term=1)
    rig.wal.flush()
    rig.wal.close()
    with pytest.raises(Locked):
        rig.open()
    rig.clock.advance()
    _, recovery = rig.open()
    assert recovery.last_index == 1


def test_auto_mode_probes_the_disk_and_leaves_slow_ones_to_the_thread():
    for latency, mode in [(100_000, "inline"), (900_000, "thread")]:
        rig = Rig(mode="auto")

        def spend(_: int, rig: Rig = rig, latency: int = latency) -> None:
            rig.clock.time += latency

        rig.disk.busy = spend
        wal, _ = rig.open()
        assert wal.syncing.mode == mode
        assert wal.syncing.p50_ns == latency
        rig.mode = mode
        rig.write(2, term=1)
        _, recovery = reopened(rig)
        rig.check(recovery)


def test_a_start_that_others_disturb_does_not_choose_the_thread():
    rig = Rig(mode="auto")
    syncs = 0

    def spend(_: int) -> None:
        nonlocal syncs
        syncs += 1
        rig.clock.time += 700_000 if syncs <= 60 else 100_000

    rig.disk.busy = spend
    wal, _ = rig.open()
    assert wal.syncing.mode == "inline"
    assert wal.syncing.p50_ns == 100_000


def test_frame_headers_take_64_bytes_and_frames_lie_back_to_back():
    rig = Rig()
    rig.open()
    rig.write(2, term=1)
    frames = frames_of(rig, rig.segment())
    assert frames[0].offset == FRAMES_START
    assert [frame.offset for frame in frames[1:]] == [frame.end for frame in frames[:-1]]
    assert all(frame.end - frame.offset == FRAME_HEADER_BYTES for frame in frames if not frame.runs)
