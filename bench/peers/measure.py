"""The measurements of one peer, one after another on the same servers."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers.fates import fates, runs_in
from bench.peers.peers import Peer
from bench.peers.processes import Conversation
from bench.peers.report import Row

REQUEST_TIMEOUT_S = 120.0
RESTART_AFTER_S = 1.0           # between SIGKILL and the new start
RESTARTED_TIMEOUT_S = 100.0
SETTLE_S = 15.0                 # without another run: what has not run by then never will
SETTLED_TIMEOUT_S = 90.0
POLL_S = 0.2
STEPS = ("start", "throughput", "latency", "kill", "stop")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each. A round's tasks follow from a first, short one, so that it takes about `round_s` seconds."""

    probe: int
    round_s: float
    round_max: int
    rounds: int
    singles: int
    marked: int


FULL = Size(probe=1_000, round_s=4.0, round_max=100_000, rounds=3, singles=500, marked=2_000)
QUICK = Size(probe=200, round_s=0.5, round_max=5_000, rounds=1, singles=50, marked=400)


def measure(peer: Peer, folder: Path, size: Size, step: Callable[[str], None]) -> Row:
    """All of one peer; it is stopped whatever happens. `step` is told what begins. Raises whatever fails."""
    runs = folder / "runs"
    runs.mkdir(parents=True)
    row = Row(peer.name, durable=peer.durable, settings=peer.settings)
    try:
        step("start")
        peer.start_servers(folder)
        peer.start_workers(runs)
        client = peer.start_client()
        client.ask("warm", size.probe // 2, REQUEST_TIMEOUT_S)
        step("throughput")
        row.rates = throughput(client, size)
        step("latency")
        taken = sorted(client.ask("latency", size.singles, REQUEST_TIMEOUT_S)["taken_ms"])
        row.p50_ms, row.p99_ms = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
        step("kill")
        survive(peer, client, runs, size.marked, row)
    finally:
        step("stop")
        peer.stop()
    return row


def throughput(client: Conversation, size: Size) -> list[float]:
    """Tasks per second of each round, from the first submit to the last result."""
    rate = size.probe / client.ask("throughput", size.probe, REQUEST_TIMEOUT_S)["seconds"]
    tasks = min(size.round_max, max(size.probe, round(rate * size.round_s)))
    seconds = [client.ask("throughput", tasks, REQUEST_TIMEOUT_S)["seconds"] for _ in range(size.rounds)]
    assert statistics.median(seconds) > 0
    return [tasks / one for one in seconds]


def survive(peer: Peer, client: Conversation, runs: Path, tasks: int, row: Row) -> None:
    """Kills a server when half of `tasks` submits are confirmed, starts it again, and counts in the end."""
    peer.choose_victim()
    accident = Accident(peer)

    def progress(so_far: int) -> None:
        if so_far >= tasks // 2:
            accident.happen()

    answer = client.ask("mark", tasks, REQUEST_TIMEOUT_S, progress)
    accident.wait_over()
    confirmed = answer["confirmed"]
    settle(runs, set(confirmed))
    row.fates = fates(confirmed, runs_in(runs))
    row.refused = len(answer["errors"])
    row.read = client.ask("read", 0, REQUEST_TIMEOUT_S)["read"]


class Accident:
    """The kill and the restart, in a thread: the client goes on meanwhile, as clients do."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def happen(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def wait_over(self) -> None:
        self._thread.join(RESTARTED_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"the restart took more than {RESTARTED_TIMEOUT_S:.0f} s")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._peer.kill()
            time.sleep(RESTART_AFTER_S)
            self._peer.restart()
        except BaseException as error:
            self._error = error


def settle(runs: Path, confirmed: set[int]) -> None:
    """Until all of them have run, or nothing has for SETTLE_S, or SETTLED_TIMEOUT_S are over."""
    begun = grown = time.monotonic()
    count = -1
    while True:
        done = runs_in(runs)
        now = time.monotonic()
        if len(done) != count:
            count, grown = len(done), now
        # A moment more for those that ran: somebody may be running a second time.
        quiet_s = POLL_S * 5 if confirmed <= set(done) else SETTLE_S
        if now - grown > quiet_s or now - begun > SETTLED_TIMEOUT_S:
            return
        time.sleep(POLL_S)
