"""Processes of a run: started with a log, watched, ended by pid. Every wait has a deadline."""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

END_TIMEOUT_S = 15.0
POLL_S = 0.05
LOG_TAIL_BYTES = 1_500
HOST = "127.0.0.1"

Process = subprocess.Popen[str]


class PeerFailed(Exception):
    """Something of a peer did not do what it was started for; the text is what its row of the report says."""


def start(command: Sequence[str], log: Path, environment: Mapping[str, str], *, talks: bool = False) -> Process:
    """It leads a process group, so that `end` reaches what it starts. With `talks` it has pipes for both ways."""
    pipe = subprocess.PIPE if talks else None
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command],
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or file,
            stderr=file,
            env={**os.environ, **environment},
            text=True,
            start_new_session=True,
        )


def end(process: Process) -> None:
    """SIGTERM to the leader, and after END_TIMEOUT_S at the latest SIGKILL to all that is left of its group."""
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_TIMEOUT_S)


def wait_until(what: str, condition: Callable[[], bool], timeout_s: float) -> None:
    """Raises PeerFailed with `what` did not happen in time."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            raise PeerFailed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Conversation:
    """A client in its own process (`bench.peers.client`): one request at a time, answers in JSON."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._process = start(command, log, environment, talks=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(
        self, request: str, count: int, timeout_s: float, progress: Callable[[int], None] = lambda so_far: None
    ) -> dict[str, Any]:
        """The answer, within `timeout_s` seconds; `progress` is told of what is confirmed until then."""
        assert self._process.stdin is not None
        limit = time.monotonic() + timeout_s
        with suppress(BrokenPipeError):     # it has ended: the empty line below says so
            self._process.stdin.write(json.dumps({"do": request, "count": count}) + "\n")
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                raise PeerFailed(f"{request}: no answer of the client within {timeout_s:.0f} s") from None
            if not line:
                raise PeerFailed(f"{request}: the client ended: {tail(self._log)}")
            answer = json.loads(line)
            if "error" in answer:
                raise PeerFailed(f"{request}: {answer['error']}")
            if "done" in answer:
                done: dict[str, Any] = answer["done"]
                return done
            progress(answer["so_far"])

    def end(self) -> None:
        end(self._process)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def tail(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
