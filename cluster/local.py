"""A whole cluster on this machine for demos, tests and benchmarks: `launch` as a child process, and its pids."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from cluster.peer.config import BrokerLimits

__all__ = ["LocalCluster", "free_ports", "write_topology"]

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
POLL_INTERVAL_S = 0.05


class LocalCluster:
    """Runs `python -m cluster.launch TOPOLOGY`; use it as a context manager.

    Entering returns when a leader serves and every worker is registered, or raises TimeoutError with launch's
    output. Leaving sends SIGTERM and waits for the drain. `limits` makes its brokers' logs and snapshots small.
    """

    def __init__(
        self,
        topology: str | Path,
        *,
        log: str | Path | None = None,
        arguments: tuple[str, ...] = (),
        limits: "BrokerLimits | None" = None,
    ) -> None:
        self.topology = Path(topology)
        self.log = Path(log) if log is not None else None
        self.arguments = arguments
        self.limits = limits
        self.launch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        assert self.launch is None or self.launch.poll() is not None, "launch runs already"
        output = self.log.open("ab") if self.log is not None else subprocess.DEVNULL
        command = [sys.executable, "-m", "cluster.launch", str(self.topology), *self.arguments]
        if self.limits is not None:
            command += ["--limits", msgspec.json.encode(self.limits).decode()]
        self.launch = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        if self.log is not None:
            output.close()  # type: ignore[union-attr]

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The status once a leader serves and all workers of the topology are registered."""
        from cluster.topology import load

        plan = load(self.topology)
        expected = {worker.name for worker in plan.workers}
        return self.wait_for(
            lambda status: status["leader"] is not None
            and expected <= {row["node"] for row in status["workers"] if row["pid"]},
            timeout_s,
        )

    def wait_for(self, condition: Any, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The first status that fulfils `condition`; TimeoutError names the last one."""
        end = time.monotonic() + timeout_s
        last: dict[str, Any] | None = None
        while time.monotonic() < end:
            if self.launch is not None and self.launch.poll() is not None:
                raise TimeoutError(f"launch ended with {self.launch.returncode}{self._output()}")
            last = self.status()
            if condition(last):
                return last
            time.sleep(POLL_INTERVAL_S)
        raise TimeoutError(f"not within {timeout_s} s; last status {json.dumps(last)}{self._output()}")

    def status(self) -> dict[str, Any]:
        """What `python -m cluster status --json` prints."""
        from cluster.client.client import Client

        async def ask() -> dict[str, Any]:
            async with Client.connect(self.topology, deadline=2.0, require_leader=False, only_looks=True) as cluster:
                return await cluster.status()

        return asyncio.run(ask())

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Drains and stops; the exit status of launch."""
        assert self.launch is not None
        if self.launch.poll() is None:
            self.launch.send_signal(signal.SIGTERM)
        try:
            return self.launch.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to launch; its children follow."""
        if self.launch is not None and self.launch.poll() is None:
            self.launch.kill()
            self.launch.wait()

    def _output(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return "\n" + self.log.read_text(errors="replace")[-4_000:]


def free_ports(count: int) -> Iterator[int]:
    """Ports that are free now, with their bulk ports (+ 1000), on loopback."""
    found = 0
    port = 20_000 + os.getpid() % 10_000
    while found < count:
        port += 1
        if _is_free(port) and _is_free(port + 1_000):
            found += 1
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def write_topology(
    folder: Path, *, name: str, modules: list[str], brokers: int = 3, workers: int = 2, slots: int | str = 1
) -> Path:
    """A topology file for this machine on free ports, with its data beside it; `slots` may be bounds, as "2..8"."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["[cluster]", f'name = "{name}"', 'data = "data"']
    for number, port in enumerate(free_ports(brokers), start=1):
        lines += ["", "[[broker]]", f'name = "b{number}"', f'address = "127.0.0.1:{port}"']
    for number in range(1, workers + 1):
        lines += ["", "[[worker]]", f'name = "w{number}"']
        lines += [f"slots = {json.dumps(slots)}", f"modules = {json.dumps(modules)}"]
    path = folder / "topology.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
