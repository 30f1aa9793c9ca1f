"""The example of a pipeline on real processes, with files of which one cannot be read; its client leaves at once."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from cluster_rig import running, wait_until

from cluster import Client
from cluster.local import write_topology

ROOT = Path(__file__).parents[2]
FILES = 60
WORDS = ("alpha", "Beta", "gamma", "delta", "omega")
TIMEOUT_S = 60.0


def pipeline(topology: Path, *arguments: str) -> str:
    call = [sys.executable, "-m", "examples.word_count.pipeline", str(topology), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True
    ).stdout


def test_the_words_of_a_folder_are_counted_though_the_client_leaves_and_a_file_cannot_be_read(tmp_path: Path) -> None:
    chance = random.Random(7)
    texts, counts = tmp_path / "texts", Counter[str]()
    texts.mkdir()
    for number in range(FILES):
        words = chance.choices(WORDS, k=chance.randint(5, 400))
        counts.update(word.lower() for word in words)
        (texts / f"{number:03}.txt").write_text(" ".join(words), encoding="utf-8")
    (texts / "broken.txt").write_bytes(b"\xff\xfe\xfd")
    topology = write_topology(tmp_path, name="words", modules=["examples.word_count.tasks"], slots=2)
    with running(topology):
        report = tmp_path / "report.txt"
        task = int(pipeline(topology, str(texts), str(report), "--leave"))
        wait_until("the report is there", report.exists)
        lines = report.read_text(encoding="utf-8").splitlines()
        assert lines[0] == f"{counts.total()} words in {FILES} files"
        ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert [(line.split()[1], int(line.split()[0])) for line in lines[1:-1]] == ranking
        assert lines[-1].startswith("left out: broken.txt: DependencyFailed: task ")
        assert "UnicodeDecodeError" in lines[-1]
        with Client.open(topology) as client:
            assert client.handle(task).result(timeout=TIMEOUT_S) == FILES
        other = tmp_path / "other.txt"
        assert pipeline(topology, str(texts), str(other)) == f"{FILES} of {FILES + 1} files are in {other}\n"
        assert other.read_text(encoding="utf-8").splitlines()[:-1] == lines[:-1]


def test_a_folder_without_texts_is_no_success(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "examples.word_count.pipeline", "no.toml", str(tmp_path / "gone"), "report.txt"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 2 and done.stderr.endswith("gone is no folder with *.txt\n")
