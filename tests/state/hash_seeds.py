"""The same program under two seeds of Python's hashes: what it says must not depend on them."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def assert_same_under_two_hash_seeds(script: str, *arguments: str) -> None:
    """`script` is one of this folder, and says digests."""
    said = []
    for hash_seed in ("1", "4242"):
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, str(HERE / script), *arguments]
        said.append(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert said[0] == said[1] != ""
