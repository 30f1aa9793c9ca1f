"""One seed is one course of events: whatever ran before, and however Python hashes."""

import gc
import os
import subprocess
import sys
from pathlib import Path

from busy_world import busy_world

from actors.runtime.ports import SECOND

HERE = Path(__file__).parent
SEED = 7
SPAN = 12 * SECOND


def digest_in_new_process(hash_seed: str) -> int:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(HERE.parent.parent)}
    command = [sys.executable, str(HERE / "busy_world.py"), str(SEED)]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_one_seed_gives_the_same_digest_twice():
    first, second = busy_world(SEED, SPAN), busy_world(SEED, SPAN)
    assert first.trace.tail() == second.trace.tail()
    assert first.digest == second.digest


def test_seeds_differ():
    assert len({busy_world(seed, SPAN).digest for seed in range(5)}) == 5


def test_the_digest_is_the_same_under_two_hash_seeds():
    assert digest_in_new_process("1") == digest_in_new_process("4242")


def test_the_digest_is_the_same_after_twenty_other_seeds():
    alone = busy_world(SEED, SPAN).digest
    kept = []
    for seed in range(100, 120):
        world = busy_world(seed, SPAN)
        if seed % 3 == 0:
            world.close()
        elif seed % 3 == 1:
            kept.append(world)
    assert busy_world(SEED, SPAN).digest == alone


def test_the_digest_does_not_depend_on_when_garbage_is_collected():
    calm = busy_world(SEED, SPAN).digest
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert busy_world(SEED, SPAN).digest == calm
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
