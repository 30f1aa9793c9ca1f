"""What an earlier version wrote is read by this one: the directories of `tests/kept` (see `kept_log.py`)."""

import json
import shutil
from pathlib import Path

import pytest
from kept_log import IDENTITY, KEPT, LIMITS, Restored, what_is_in
from wal_rig import VirtualClock

from actors.runtime.files import OsFiles
from cluster.storage.wal import Wal

NAMES = sorted(path.name for path in KEPT.iterdir() if path.is_dir())


@pytest.fixture
def files():
    posted: list[object] = []       # what a job has to say is heard by nobody
    files = OsFiles(posted.append)
    yield files
    files.close()


def test_there_are_kept_files():
    assert {"log-1", "log-2", "log-3"} <= set(NAMES)
    assert len(list((KEPT / "log-2").glob("*.snap"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_of_an_earlier_version_is_read_again_and_again(name: str, tmp_path: Path, files: OsFiles):
    expected = json.loads((KEPT / f"{name}.json").read_text())
    directory = tmp_path / "b1"
    shutil.copytree(KEPT / name, directory)
    salts = iter(range(1, 100))
    for _ in range(2):      # as it was written, and as this version leaves it
        start = Restored(files, str(directory))
        wal, recovery = Wal.open(
            files, str(directory), IDENTITY,
            salt=lambda: next(salts), clock=VirtualClock(), limits=LIMITS, sync_mode="inline", restore=start.mark,
        )
        assert what_is_in(start.machine, wal, recovery) == expected
        wal.close()
        files.close()       # the directory is given up by a job
