"""Processor time by role: which process of a cluster spends how much on a task."""

import os
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STAT_UTIME, STAT_STIME = 11, 12         # of /proc/PID/stat, counted behind the name of the command


def processor_s(pid: int) -> float:
    """User and system time that a process has taken so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[STAT_UTIME]) + int(fields[STAT_STIME])) / TICKS_PER_S


class Meter:
    """Processor time of a cluster's processes from `start` on, by role. The client is this process."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._roles: dict[str, list[int]] = {"client": [os.getpid()]}
        for row in status["brokers"]:
            role = "leader" if row["node"] == status["leader"] else "followers"
            self._roles.setdefault(role, []).append(row["pid"])
        self._roles["workers"] = [row["pid"] for row in status["workers"]]
        self._roles["children"] = [pid for row in status["workers"] for pid in row["children"]]
        self._before: dict[str, float] = {}

    def start(self) -> None:
        self._before = self._now()

    def us_per_task(self, tasks: int) -> dict[str, float]:
        """Microseconds of processor time for each of `tasks`; of several processes of a role together."""
        return {role: round((now - self._before[role]) * 1e6 / tasks, 2) for role, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {role: sum(map(processor_s, pids)) for role, pids in self._roles.items()}
