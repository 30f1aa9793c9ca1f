"""Where benchmarks write, and what disk that is: figures of a log mean nothing without it."""

import os
import statistics
import time
from pathlib import Path

import click

RESULTS = Path(__file__).parent / "results"
IN_MEMORY = ("tmpfs", "ramfs")
PROBES = 64
PROBE_BYTES = 4_096


def results_folder() -> Path:
    """$QUORUMQ_BENCH_DIR or bench/results, made if it is not there. Raises ClickException for a file system in memory,
    where a sync costs nothing."""
    folder = Path(os.environ.get("QUORUMQ_BENCH_DIR", RESULTS)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if (kind := file_system_of(folder)) in IN_MEMORY:
        raise click.ClickException(f"{folder} is on {kind}: set QUORUMQ_BENCH_DIR to a folder on a disk")
    return folder


def file_system_of(folder: Path) -> str:
    """The type of the file system that holds `folder`, as /proc/self/mounts names it."""
    best = ("", "unknown")
    target = str(folder.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def sync_p50_ms(folder: Path) -> float:
    """The median of fdatasync after a 4 KiB overwrite, in milliseconds."""
    path = folder / "sync-probe"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.write(descriptor, bytes(PROBE_BYTES))
        os.fsync(descriptor)
        taken = []
        for _ in range(PROBES):
            start = time.perf_counter()
            os.pwrite(descriptor, b"x" * PROBE_BYTES, 0)
            os.fdatasync(descriptor)
            taken.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(descriptor)
        path.unlink()
    return round(statistics.median(taken), 3)
