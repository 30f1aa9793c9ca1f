"""Where a run takes place: the environment of the others, versions and the machine."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import click

from bench.disk import file_system_of, sync_p50_ms

ROOT = Path(__file__).parents[2]
VERSION_TIMEOUT_S = 30.0


class Installed(Protocol):
    """What a row of a report was measured with."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Of the peers' environment."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Debian packages."""


def peers_python() -> Path:
    """Of the environment that `setup.sh` made."""
    found = Path(os.environ.get("QUORUMQ_PEERS_VENV", ROOT / ".venv-peers")).absolute() / "bin/python"
    if not found.exists():
        raise click.ClickException(f"{found} is missing: run `make bench-peers` or `make bench-locks`, which set it up")
    return found


def versions_of(measured: Sequence[Installed], python: Path) -> dict[str, str]:
    """Of the libraries that the peers' environment has, and of the servers that Debian installed."""
    found = {"quorumq": version("quorumq"), "CPython": platform.python_version()}
    for package in sorted({package for one in measured for package in one.packages}):
        ask = f"from importlib.metadata import version; print(version({package!r}))"
        found[package] = output([str(python), "-c", ask])
    for package in sorted({package for one in measured for package in one.servers}):
        debian = output(["dpkg-query", "-W", "-f", "${Version}", package])
        found[package] = debian.partition(":")[2].partition("-")[0] or debian.partition("-")[0]
    return found


def output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True).stdout.strip()


def machine(folder: Path) -> str:
    """In words, for the caption: figures mean nothing without it."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    processor = f" ({names[0]})" if names else ""
    sync = f"fdatasync {sync_p50_ms(folder):.2f} ms"
    return f"{os.cpu_count()} cores{processor}, {file_system_of(folder)}, {sync}, everything on this machine"
