"""Our core does what etcd's does, message for message: its data-driven tests, and transcripts of our own.

`--transcripts DIR` (any folder, may be given several times) names etcd's files: interaction files and quorum files in
any layout. Output is compared as it is, but for lines of etcd's log. Files that need what the core does not have yet
(configuration change, leadership transfer) are skipped with that reason.
"""

from pathlib import Path

import pytest
from etcd import grammar, runner

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT.parent / "shared" / "conformance" / "etcd-raft"
OWN = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transcript" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("transcripts") or ([DEFAULT] if DEFAULT.exists() else [])
    cases = []
    for folder in map(Path, given):
        found = runner.find(folder) if folder.exists() else []
        if not found:
            raise pytest.UsageError(f"--transcripts {folder}: no transcripts (*.txt) there")
        base = folder if folder.is_dir() else folder.parent
        cases += [pytest.param(path, id=path.relative_to(base).as_posix()) for path in found]
    if not cases:
        no_folder = pytest.mark.skip(reason=f"no transcripts: give --transcripts DIR ({DEFAULT.name} is not here)")
        cases = [pytest.param(None, id="none", marks=no_folder)]
    metafunc.parametrize("transcript", cases)


def test_etcd_transcript(transcript, record_property):
    record_property("transcript", transcript.name)
    if reason := runner.reason_to_skip(grammar.parse_file(transcript)):
        pytest.skip(reason)
    runner.run(transcript)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_transcript(path):
    runner.run(path)
