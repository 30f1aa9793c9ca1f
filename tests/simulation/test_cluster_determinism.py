"""One seed is one course of a whole cluster: whatever ran before, however Python hashes, and wherever it stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cluster_course import SHORT, short_run

from cluster.simulation import Scenario

HERE = Path(__file__).parent
SEED = 8


PROJECT = HERE.parent.parent


def digest_in_new_process(hash_seed: str = "1", project: Path = PROJECT) -> int:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(project)}
    command = [sys.executable, str(HERE / "cluster_course.py"), str(SEED)]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_one_seed_of_a_cluster_gives_the_same_trace_twice():
    first, second = Scenario(SEED, SHORT), Scenario(SEED, SHORT)
    reports = first.run(), second.run()
    assert first.world.trace.tail() == second.world.trace.tail()
    assert reports[0] == reports[1]


def test_the_trace_of_a_cluster_is_the_same_under_two_hash_seeds():
    assert digest_in_new_process("1") == digest_in_new_process("4242") == short_run(SEED).digest


def test_the_trace_of_a_cluster_is_the_same_in_a_folder_with_a_longer_name(tmp_path: Path):
    """What tasks raise is sent with its traceback."""
    elsewhere = tmp_path / "a-folder-with-a-long-name"
    for package in ("actors", "cluster"):
        shutil.copytree(PROJECT / package, elsewhere / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert digest_in_new_process(project=elsewhere) == short_run(SEED).digest


def test_the_trace_of_a_cluster_is_the_same_after_twenty_other_seeds():
    alone = short_run(SEED).digest
    others = {short_run(seed).digest for seed in range(100, 120)}
    assert len(others) == 20
    assert short_run(SEED).digest == alone
