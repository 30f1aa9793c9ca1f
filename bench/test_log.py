"""The log's appends against a plain loop that writes and syncs the same bytes.

    pytest bench/test_log.py

One append of the log, one of the plain loop, in turns, on the same disk, on files that were filled with zeros
before: a disk is never as fast as it was a minute ago, and medians of neighbours do not care. The plain loop
gets its bytes in one piece, the frame's 64 included; the log gets entries that were encoded just before, as
in a broker's turn, and does all that it does there: frame header, crc, index, callback. Encoding is
measured apart.

Data lies in bench/results or $QUORUMQ_BENCH_DIR, never in memory.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from time import CLOCK_BOOTTIME, clock_gettime_ns, perf_counter_ns
from typing import Any

import pytest

from actors.runtime.files import OsFiles
from bench.disk import file_system_of
from cluster.raft.messages import Entry
from cluster.storage.record import GROUP, encode_record
from cluster.storage.scan import NodeIdentity
from cluster.storage.wal import Wal

PAYLOAD_BYTES = 272             # with the record's header 300 bytes
APPENDS = 3_000                 # of each kind
WARMUP_APPENDS = 200
FLOOR = 0.75                    # of the plain loop's rate
MIB = 1024 * 1024
PLAIN_FILE_BYTES = 64 * MIB


class BootClock:
    """The part of the clock that the log uses."""

    def now(self) -> int:
        return clock_gettime_ns(CLOCK_BOOTTIME)


@pytest.fixture
def directory(bench_folder: Path) -> Iterator[Path]:
    path = bench_folder.resolve() / f"log-{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


class LogUnderTest:
    def __init__(self, directory: Path, batch: int) -> None:
        self.persisted = 0
        self._posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._files = OsFiles(self._posted.put)
        salts = iter(range(1, 1_000))
        self.wal, _ = Wal.open(
            self._files,
            str(directory / "wal"),
            NodeIdentity("bench"),
            salt=lambda: next(salts),
            clock=BootClock(),  # type: ignore[arg-type]
            on_persisted=self._count,
        )
        self.sync_mode = self.wal.syncing.mode
        self.wal.syncing.mode = "inline"    # on a slow disk too: the plain loop has no thread either
        self._batch = batch
        self._write_id = 0

    def _count(self, _: int) -> None:
        self.persisted += 1

    def next_entries(self) -> list[Entry]:
        """Encoded, outside of what is measured."""
        first = self.wal.last_index + 1
        entries = [Entry(first + n, 1, 0, bytes(PAYLOAD_BYTES)) for n in range(self._batch)]
        for entry in entries:
            encode_record(GROUP, entry)
        return entries

    def append(self, entries: list[Entry]) -> None:
        """What is measured."""
        self._write_id += 1
        self.wal.append(self._write_id, 1, 0, 0, 0, entries)
        self.wal.flush()
        while self.persisted < self._write_id:      # a job writes what begins a segment
            self._posted.get()()

    def settle(self) -> None:
        """Waits for a spare segment that is being filled: nothing else uses the disk while it is measured."""
        while self.wal.is_preparing or not self._posted.empty():
            self._posted.get()()

    def close(self) -> None:
        assert self.persisted == self._write_id
        self.wal.close()
        self._files.close()


class PlainLoop:
    """What the disk gives: one write and one fdatasync, nothing else."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "plain", os.O_RDWR | os.O_CREAT)
        for position in range(PLAIN_FILE_BYTES // MIB):
            os.pwrite(self._descriptor, bytes(MIB), position * MIB)
        os.fsync(self._descriptor)
        self._offset = 0
        self.times_ns: list[int] = []

    def append(self, data: bytes) -> None:
        if self._offset + len(data) > PLAIN_FILE_BYTES:
            self._offset = 0
        descriptor = self._descriptor
        start = perf_counter_ns()
        os.pwrite(descriptor, data, self._offset)
        os.fdatasync(descriptor)
        self.times_ns.append(perf_counter_ns() - start)
        self._offset += len(data)

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.mark.parametrize("batch", [1, 16, 256])
def test_appends_reach_three_quarters_of_a_plain_loop(benchmark: Any, directory: Path, batch: int) -> None:
    log = LogUnderTest(directory, batch)
    plain = PlainLoop(directory)
    log_ns: list[int] = []

    def setup() -> tuple[tuple[list[Entry]], dict[str, object]]:
        log.settle()
        entries = log.next_entries()
        plain.append(bytes(64) + b"".join(entry.record for entry in entries))
        return (entries,), {}

    def append(entries: list[Entry]) -> None:
        start = perf_counter_ns()
        log.append(entries)
        log_ns.append(perf_counter_ns() - start)

    benchmark.pedantic(append, setup=setup, rounds=APPENDS, warmup_rounds=WARMUP_APPENDS)
    log_p50, plain_p50 = median(log_ns), median(plain.times_ns)
    log_mean, plain_mean = sum(log_ns) / len(log_ns), sum(plain.times_ns) / len(plain.times_ns)
    benchmark.extra_info.update(
        {
            "records_per_sync": batch,
            "record_bytes": len(log.next_entries()[0].record),
            "ratio_of_rates": round(plain_mean / log_mean, 3),
            "ratio_of_medians": round(plain_p50 / log_p50, 3),
            "log_p50_us": round(log_p50 / 1_000, 1),
            "plain_p50_us": round(plain_p50 / 1_000, 1),
            "records_per_second": round(batch * 1e9 / log_mean),
            "sync_p50_us": round(log.wal.syncing.p50_ns / 1_000, 1),
            "sync_mode_chosen": log.sync_mode,
            "unprepared_rolls": log.wal.unprepared_rolls,
            "file_system": file_system_of(directory),
        }
    )
    plain.close()
    log.close()
    if not benchmark.disabled:
        # Medians: a stall of the disk hits one of the two by chance, and a few of them decide a mean.
        ratio = plain_p50 / log_p50
        assert ratio >= FLOOR, f"{ratio:.2f} of the plain loop's rate, {FLOOR} expected"


def test_encoding_of_records_apart(benchmark: Any) -> None:
    entries = [Entry(index, 1, 0, bytes(PAYLOAD_BYTES)) for index in range(1, 257)]

    def encode() -> None:
        for entry in entries:
            encode_record(GROUP, entry)

    benchmark(encode)
    if not benchmark.disabled:
        benchmark.extra_info["us_per_record"] = round(benchmark.stats["median"] * 1e6 / len(entries), 2)
