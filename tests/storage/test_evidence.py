"""What a log remembers of its damage fits into its header, whatever the damage is."""

import msgspec
from wal_rig import DIRECTORY, PowerLost, Rig

from cluster.storage.evidence import (
    EVIDENCE_NAMES_MAX,
    EVIDENCE_RUNS_MAX,
    REASON_BYTES_MAX,
    evidence_of,
    is_evidence,
    quarantine_because,
)
from cluster.storage.header import (
    HEADER_BYTES,
    Damage,
    LogStart,
    Meta,
    Quarantine,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
)

SEGMENTS = 1_000


def rotten_log(rig: Rig, count: int = SEGMENTS) -> None:
    """A chain of so many segments without frames, and a rotten frame at its begin: none of it can be kept."""
    rig.open()
    rig.write(3, term=4, vote=2)
    rig.wal.close()
    rig.settle_release()
    files = rig.disk.mount(9)
    number = int(rig.segment()[-20:-4])
    header = decode_segment_header(rig.disk.read(rig.segment())).header
    assert header is not None
    rig.disk.flip_bit(rig.segment(), 8_192 + 70)
    for following in range(number + 1, number + count):
        head = SegmentHeader(9, following, following - 1, 50, 1, header.meta)
        file = files.open(f"{DIRECTORY}/{following:016d}.wal", create=True)
        file.pwrite((encode_segment_header(head),) * 2, 0)
        file.sync()
    files.sync_dir(DIRECTORY)


def aside(rig: Rig) -> list[int]:
    return [int(path.rpartition("/")[2].partition(".")[0]) for path in rig.disk.paths() if path.endswith(".damaged")]


def test_damage_in_a_log_of_a_thousand_segments_is_kept_aside_and_the_log_comes_up():
    rig = Rig()
    rotten_log(rig)
    _, recovery = rig.open()
    damage = recovery.damaged
    assert damage is not None and recovery.quarantined
    assert len(aside(rig)) == SEGMENTS
    assert all(is_evidence(recovery.quarantine, number) for number in aside(rig))
    assert len(rig.segments()) == 1
    rig.wal.close()
    _, again = rig.open()
    assert again.damaged == damage and len(aside(rig)) == SEGMENTS


def test_a_start_that_dies_while_it_keeps_much_aside_is_followed_by_one_that_goes_on_with_it():
    for calls in (1_300, 1_700, 2_100):
        rig = Rig(calls)
        rotten_log(rig)
        rig.disk.cut_power_after(calls)
        try:
            rig.open()
        except PowerLost:
            rig.crash()
        else:
            rig.wal.close()
        _, recovery = rig.open()
        assert recovery.damaged is not None
        assert len(aside(rig)) == SEGMENTS


def test_evidence_takes_a_bounded_part_of_the_header():
    every_third = [number for number in range(1, 50_000) if number % 3]
    names, runs = evidence_of(every_third, range(1, 50_000))
    assert len(names) <= EVIDENCE_NAMES_MAX and len(runs) <= EVIDENCE_RUNS_MAX
    damage = Damage("1.damaged", 1 << 60, 1 << 60, 1 << 60, "why", names, runs)
    voters = tuple(f"{voter}".ljust(63, "x") for voter in range(9))
    mark = quarantine_because("é" * 5_000, damage)
    assert all(is_evidence(mark, number) for number in every_third)
    assert len(mark.reason.encode()) <= REASON_BYTES_MAX
    meta = Meta("n" * 63, "c" * 63, 1 << 63, b"i" * 16, voters, quarantine=mark, start=LogStart(1 << 60, 1 << 60, 9))
    copy = encode_segment_header(SegmentHeader(1, 50_000, 49_999, 1 << 60, 1, meta))
    assert len(copy) == HEADER_BYTES


def test_runs_reach_over_numbers_that_no_segment_has_and_not_over_segments_that_stay():
    assert evidence_of([1, 3, 9, 11], [1, 3, 5, 7, 9, 11])[1] == ((1, 3), (9, 11))
    assert evidence_of([], [1])[1] == ()


def test_evidence_that_an_earlier_version_named_is_known():
    old = msgspec.msgpack.encode(["a.damaged", 0, 1, 0, "why", ["0000000000000007.damaged"]])
    mark = Quarantine("why", msgspec.msgpack.decode(old, type=Damage))
    assert is_evidence(mark, 7) and not is_evidence(mark, 8)


def test_a_reason_of_any_length_is_stored():
    rig = Rig()
    wal, _ = rig.open()
    wal.quarantine("why " * 2_000)
    rig.settle()
    wal.close()
    _, recovery = rig.open()
    assert recovery.quarantine is not None and recovery.quarantine.reason.startswith("why why")
