"""The simulated disk: what survives a loss of power is what was synced, and a seeded part of the rest."""

import pytest
from wal_rig import PowerLost, SeededEntropy, VirtualClock

from actors.errors import Locked
from actors.simulation.disk import SimulatedDisk
from actors.simulation.inode import SECTOR_BYTES


def new_disk(seed: int = 1, latency: int = 0) -> tuple[SimulatedDisk, VirtualClock]:
    clock = VirtualClock()
    disk = SimulatedDisk(clock, SeededEntropy(seed), lambda: latency)
    return disk, clock


def synced_file(disk: SimulatedDisk, sectors: int = 8):
    files = disk.mount()
    files.make_dirs("d")
    file = files.open("d/f", create=True)
    file.pwrite([b"a" * SECTOR_BYTES * sectors], 0)
    file.sync()
    files.sync_dir("d")
    return files, file


def test_synced_bytes_survive_and_unsynced_sectors_are_lost_one_by_one():
    outcomes = set()
    for seed in range(60):
        disk, _ = new_disk(seed)
        _, file = synced_file(disk)
        file.pwrite([b"b" * SECTOR_BYTES * 4], SECTOR_BYTES * 2 + 100)
        disk.crash()
        data = disk.read("d/f")
        assert len(data) == 8 * SECTOR_BYTES
        assert data[: 2 * SECTOR_BYTES + 100] == b"a" * (2 * SECTOR_BYTES + 100)
        outcomes.add(data[200::SECTOR_BYTES])   # a byte of each sector
    assert len(outcomes) > 10
    assert b"aaaaaaaa" in outcomes
    assert b"aabbbbaa" in outcomes


def test_the_death_of_a_process_alone_loses_nothing_that_was_written():
    disk, _ = new_disk()
    files, file = synced_file(disk)
    file.pwrite([b"b"], 0)
    disk.kill()
    assert disk.read("d/f")[:1] == b"b"
    for call in (file.sync, file.size, lambda: files.list("d"), lambda: file.pwrite([b"c"], 0)):
        with pytest.raises(PowerLost):
            call()


def test_names_survive_if_their_directory_was_synced():
    lost = kept = 0
    for seed in range(40):
        disk, _ = new_disk(seed)
        files, _ = synced_file(disk)
        files.open("d/g", create=True).sync()
        files.rename("d/f", "d/h")
        disk.crash()
        assert ("d/f" in disk.paths()) != ("d/h" in disk.paths()), "a rename is atomic"
        lost += "d/g" not in disk.paths()
        kept += "d/g" in disk.paths()
    assert lost > 5
    assert kept > 5
    disk, _ = new_disk()
    files, _ = synced_file(disk)
    files.rename("d/f", "d/h")
    files.sync_dir("d")
    disk.crash()
    assert disk.paths() == ["d/h"]


def test_what_a_failed_sync_should_have_saved_is_readable_and_lost_with_the_power():
    disk, _ = new_disk()
    _, file = synced_file(disk)
    file.pwrite([b"b"], 0)
    disk.fail_next_sync()
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    assert file.pread(1, 0) == b"b"
    disk.crash()
    assert disk.read("d/f")[:1] == b"a"


def test_faults_on_demand_are_counted():
    disk, _ = new_disk()
    _, file = synced_file(disk)
    disk.flip_bit("d/f", 3, 7)
    assert file.pread(4, 0) == b"aaa" + bytes([ord("a") ^ 0x80])
    disk.full = True
    file.pwrite([b"within"], 0)
    with pytest.raises(OSError, match="No space"):
        file.pwrite([b"beyond"], 8 * SECTOR_BYTES)
    disk.fail_next_write()
    with pytest.raises(OSError, match="Input/output"):
        file.pwrite([b"x"], 0)
    assert disk.faults == {"flipped_bit": 1, "no_space": 1, "write_error": 1}


def test_jobs_take_their_latency_and_end_in_order_on_the_clock():
    disk, clock = new_disk(latency=100)
    files = disk.mount(clock=clock)
    ended: list[tuple[int, object]] = []

    def fail() -> None:
        raise OSError("no")

    files.submit(lambda: 1, lambda outcome: ended.append((clock.now(), outcome)))
    files.submit(fail, lambda outcome: ended.append((clock.now(), repr(outcome))))
    disk.slow_syncs(1, 1_000)
    files.submit(lambda: 3, lambda outcome: ended.append((clock.now(), outcome)))
    clock.advance(10_000)
    assert ended == [(100, 1), (1_100, "OSError('no')"), (1_200, 3)]


def test_a_job_that_a_crash_interrupts_is_done_in_part_and_never_reported():
    lengths = set()
    for seed in range(40):
        disk, clock = new_disk(seed, latency=100)
        files, file = synced_file(disk)
        told: list[object] = []

        def job(file=file) -> None:
            for position in range(4):
                file.pwrite([b"b" * SECTOR_BYTES], position * SECTOR_BYTES)
                file.sync()

        files.submit(job, told.append)
        clock.advance(50)
        disk.crash()
        clock.advance(10_000)
        assert told == []
        written = disk.read("d/f").count(b"b") // SECTOR_BYTES
        assert disk.read("d/f").startswith(b"b" * SECTOR_BYTES * written), "its syncs are in order"
        lengths.add(written)
    assert len(lengths) >= 4


def test_jobs_of_both_lanes_are_cut_at_places_of_their_own():
    """Whatever the one has done, the other may have done any part of its own."""
    done = set()
    for seed in range(700):
        disk, clock = new_disk(seed, latency=100)
        files, _ = synced_file(disk)
        both = [files.open(f"d/{lane}", create=True) for lane in range(2)]

        def job(file) -> None:
            for position in range(4):
                file.pwrite([b"b"], position)

        for lane, file in enumerate(both):
            files.submit(lambda file=file: job(file), lambda _: None, background=bool(lane))
        clock.advance(50)
        disk.kill()
        done.add(tuple(len(disk.read(f"d/{lane}")) for lane in range(2)))
    assert {(first, second) for first in range(5) for second in range(5)} == done


def test_a_crash_is_the_same_each_time():
    def run() -> int:
        disk, clock = new_disk(5, latency=100)
        files, file = synced_file(disk)
        for lane in range(2):
            files.submit(lambda: [file.pwrite([b"b"], place * 512) for place in range(8)], print, background=bool(lane))
        clock.advance(50)
        disk.crash()
        return disk.digest()

    assert run() == run()


def test_locks_die_with_their_process_only():
    disk, _ = new_disk()
    disk.mount(1).make_dirs("d")
    disk.mount(1).lock("d/lock")
    other = disk.mount(2)
    with pytest.raises(Locked) as locked:
        other.lock("d/lock")
    assert locked.value.pid == 1
    disk.kill(1)
    lock = other.lock("d/lock")
    lock.release()
    other.lock("d/lock")


def test_the_digest_tells_states_apart_that_behave_differently():
    def run(seed: int, *, sync: bool) -> int:
        disk, _ = new_disk(seed)
        _, file = synced_file(disk)
        file.pwrite([b"a"], 0)
        if sync:
            file.sync()
        return disk.digest()

    assert run(1, sync=True) == run(1, sync=True)
    assert run(1, sync=True) != run(1, sync=False)
