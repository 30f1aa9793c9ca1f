"""Small disks for tests that fill them."""

import subprocess
from pathlib import Path

import pytest


def on_a_disk(folder: Path, options: str) -> tuple[str, ...]:
    """Runs a command where `folder` is a small disk of its own, in namespaces: nothing of this machine is mounted."""
    folder.mkdir()
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder))


def may_mount() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not may_mount(), reason="this machine permits no namespaces")


def fill(path: Path) -> None:
    """Takes what is left of the disk with this file."""
    with path.open("wb", buffering=0) as file:
        size = 1024 * 1024
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
