"""Reads entries back by pread, neighbouring frames at once."""

from collections.abc import Sequence

from actors import File, Files
from cluster.raft.messages import Entry
from cluster.storage.errors import DamagedRead
from cluster.storage.index import LogIndex, Run
from cluster.storage.record import RecordDamaged, decode_records
from cluster.storage.segment import file_name

OPEN_FILES_MAX = 16  # segments kept open for reading


class SegmentReader:
    def __init__(self, files: Files, directory: str, read_bytes_max: int) -> None:
        self._files = files
        self._directory = directory
        self._read_bytes_max = read_bytes_max
        self._open: dict[int, File] = {}

    def read(self, index: LogIndex, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries from `low` on: at least one, then up to `high` or `max_bytes` of records."""
        assert low < high
        entries: list[Entry] = []
        budget = max_bytes
        group: list[Run] = []
        for run in index.runs(low, high):
            if group and not self._is_neighbour(group, run, min(budget, self._read_bytes_max)):
                budget = self._take(group, low, high, budget, entries)
                group = []
                if budget <= 0:
                    return entries
            group.append(run)
        self._take(group, low, high, budget, entries)
        return entries

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def forget(self, segments: Sequence[int]) -> None:
        """These files leave the log: one that stayed open would keep its room when it is removed."""
        for segment in segments:
            file = self._open.pop(segment, None)
            if file is not None:
                file.close()

    @staticmethod
    def _is_neighbour(group: list[Run], run: Run, bytes_max: int) -> bool:
        first = group[0]
        return run.segment == first.segment and run.offset + run.size - first.offset <= bytes_max

    def _take(self, group: list[Run], low: int, high: int, budget: int, entries: list[Entry]) -> int:
        """Reads a group of runs with one pread; returns what is left of the budget, 0 when it is used up."""
        first, last = group[0], group[-1]
        data = memoryview(
            self._file(first.segment).pread(last.offset + last.size - first.offset, first.offset)
        )
        for run in group:
            start = run.offset - first.offset
            try:
                found = decode_records(
                    data[start : start + run.size],
                    from_index=max(low, run.first),
                    to_index=min(high, run.last + 1),
                )
            except RecordDamaged as damage:
                raise self._damaged(run, damage.offset, damage.reason) from damage
            if len(found) != min(high, run.last + 1) - max(low, run.first):
                raise self._damaged(run, 0, "entries are missing")
            for entry in found:
                budget -= len(entry.record)
                if budget < 0 and entries:
                    return 0
                entries.append(entry)
        return max(budget, 0)

    def _damaged(self, run: Run, offset: int, reason: str) -> DamagedRead:
        path = f"{self._directory}/{file_name(run.segment, 'wal')}"
        return DamagedRead(path, run.offset + offset, reason)

    def _file(self, segment: int) -> File:
        file = self._open.get(segment)
        if file is None:
            if len(self._open) >= OPEN_FILES_MAX:
                self._open.pop(next(iter(self._open))).close()
            file = self._files.open(f"{self._directory}/{file_name(segment, 'wal')}")
            self._open[segment] = file
        return file
