"""Whole clusters on this machine, and what tests need to hurt them: pids, signals, and waiting with a deadline."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster import Client
from cluster.local import LocalCluster, write_topology
from cluster.peer.config import BrokerLimits

MODULE = "cluster_tasks"
TASKS_FILE = Path(__file__).with_name(f"{MODULE}.py")
DEADLINE_S = 30.0       # of any wait in these tests; what is waited for takes milliseconds to a few seconds
POLL_S = 0.01
EXIT_OPERATOR = 2
LOOPS = 1               # children of a worker that are no slots: its module has async tasks

T = TypeVar("T")
Status = dict[str, Any]


# -- clusters ----------------------------------------------------------------------------------------------------


def make_topology(folder: Path, *, brokers: int = 3, workers: int = 2, slots: int | str = 1) -> Path:
    """A topology on free ports with the tests' tasks beside it."""
    path = write_topology(folder, name="tests", modules=[MODULE], brokers=brokers, workers=workers, slots=slots)
    shutil.copy(TASKS_FILE, folder)
    return path


@contextmanager
def running(
    topology: Path, *, arguments: tuple[str, ...] = (), limits: BrokerLimits | None = None
) -> Iterator[LocalCluster]:
    """The cluster of a topology, from ready to drained; whatever a test stopped or left ends with it."""
    cluster = LocalCluster(topology, log=topology.with_name("launch.log"), arguments=arguments, limits=limits)
    try:
        cluster.start()
        cluster.wait_ready()
        yield cluster
        if cluster.launch is not None and cluster.launch.poll() is None:
            cluster.stop()
    finally:
        cluster.kill()


@contextmanager
def launched(topology: Path, *arguments: str, within: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """`python -m cluster.launch` in a process group of its own, not waited for; killed in the end, if it still runs.
    `within` is a command that runs it.
    """
    process = subprocess.Popen(
        [*within, sys.executable, "-m", "cluster.launch", str(topology), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def refused(topology: Path, *arguments: str, within: tuple[str, ...] = (), timeout_s: float = DEADLINE_S) -> str:
    """What `launch` says before it ends with status 2."""
    with launched(topology, *arguments, within=within) as launch:
        output, _ = launch.communicate(timeout=timeout_s)
        assert launch.returncode == EXIT_OPERATOR, output
    return output


def command_line(*arguments: str, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


# -- status ------------------------------------------------------------------------------------------------------


def row(rows: list[Status], name: str) -> Status:
    return next(row for row in rows if row.get("node", row.get("name")) == name)


def broker_pid(status: Status, *, leading: bool) -> int:
    """Of the leader, or of the first of its followers."""
    pid: int = next(
        row["pid"] for row in status["brokers"] if row["pid"] and (row["node"] == status["leader"]) == leading
    )
    return pid


def total(status: Status, key: str) -> int:
    """A counter of all queues together."""
    return sum(row[key] for row in status["queues"])


def is_whole(status: Status, slots: int = 1) -> bool:
    """Whether a leader, all followers, and the children of all workers are there."""
    return (
        status["leader"] is not None
        and all(row["role"] in ("leader", "follower") for row in status["brokers"])
        and all(row["pid"] and len(row["children"]) == slots + LOOPS for row in status["workers"])
    )


async def status_when(client: Client, what: str, condition: Callable[[Status], object]) -> Status:
    """The first status that fulfils the condition."""
    last: Status = {}

    async def look() -> bool:
        nonlocal last
        last = await client.status()
        return last["leader"] is not None and bool(condition(last))

    try:
        await until(what, look)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; last status {last}") from None
    return last


# -- waiting -----------------------------------------------------------------------------------------------------


async def until(
    what: str, condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = DEADLINE_S
) -> None:
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


def wait_until(
    what: str, condition: Callable[[], object], timeout_s: float = DEADLINE_S, poll_s: float = POLL_S
) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s)


# -- processes ---------------------------------------------------------------------------------------------------


class Process:
    """A process by its pid and its start, so that another one under the same number is not taken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = _stat(pid)[19]

    @property
    def is_alive(self) -> bool:
        """Zombies are dead: whose task it is to reap them is not the question here."""
        try:
            fields = _stat(self.pid)
        except OSError:
            return False
        return fields[19] == self._started and fields[0] not in "ZX"

    def __repr__(self) -> str:
        return f"<process {self.pid}>"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children(pid: int) -> list[int]:
    """Living ones."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(number) for number in (thread / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[Process]:
    found: list[Process] = []
    for child in children(pid):
        found += [Process(child), *descendants(child)]
    return found


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP, and in the end SIGCONT."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            cont(pid)


def cont(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
