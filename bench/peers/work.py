"""What every queue here is given to do. Workers and clients of all peers import it: it needs nothing but Python."""

import os
import time
from pathlib import Path

PAYLOAD = "x" * 100
NAP_S = 0.01                    # of a task that leaves a mark: two slots do at most 200 a second
RUNS_FOLDER = "PEERS_RUNS"      # environment variable of workers


def echo(number: int, payload: str) -> int:
    """A no-op; returns the number because some queues keep no result that is None."""
    return number


def mark(number: int, payload: str) -> int:
    """Takes NAP_S, then appends the number to a file of this process. The line is the proof that the task ran."""
    time.sleep(NAP_S)
    with (Path(os.environ[RUNS_FOLDER]) / f"ran.{os.getpid()}").open("a") as file:
        file.write(f"{number}\n")
    return number
