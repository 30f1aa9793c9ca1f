"""What a worker is told, and what it says when it cannot start."""

import re

import msgspec

from actors import Exit
from cluster.worker.child_messages import StartFailed
from cluster.worker.scaling import PACE, ScalingPace
from cluster.worker.wear import UNLIMITED, WearLimits

NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'(?:; .*)?")


class WorkerConfig(msgspec.Struct, array_like=True, frozen=True):
    """What a worker process is told. `brokers` are (name, control address); `path` goes before the usual
    places; `directory` is its own folder below the data, for its lock. With `slots_min` > 0 it opens and closes slots
    between that and `slots`.
    """

    cluster: str
    node: str
    brokers: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]
    slots: int = 1
    queues: tuple[str, ...] = ("default",)
    prefetch: int = 0
    labels: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    directory: str = ""
    wear: WearLimits = UNLIMITED        # of each child
    async_tasks: int = 0
    slots_min: int = 0
    pace: ScalingPace = PACE


def explain(failure: StartFailed | Exit) -> str:
    """Why the children did not come up, for the operator."""
    if isinstance(failure, StartFailed):
        module = failure.module
        if not module:
            return failure.traceback
        last = failure.traceback.rstrip().rpartition("\n")[2]
        if (missing := NO_MODULE.fullmatch(last)) and f"{module}.".startswith(f"{missing[1]}."):
            where = "beside the topology file, in the folder where launch was started, and on Python's path"
            return f"module {module} cannot be imported: No module named {missing[1]!r} (looked {where})"
        return f"module {failure.module} cannot be imported:\n{failure.traceback}"
    how = f"signal {failure.signal}" if failure.signal is not None else f"exit code {failure.code}"
    stderr = failure.stderr.decode("utf-8", "replace")
    return f"a child ended by {how} while it imported the modules:\n{stderr}"
