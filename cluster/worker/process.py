"""A worker process: its actor on a loop, and the fork server that its executor children come from."""

import msgspec

from actors import ActorSystem, ExitReason, Failed, Locked, Ports, freeze_memory, on_terminate, process_id, run
from cluster.data_directory import LOCKED_ADVICE, DataUnusable, hold
from cluster.node_report import (
    EXIT_DRAINED,
    EXIT_FAULT,
    EXIT_OPERATOR,
    EXIT_UNUSABLE,
    Drained,
    Parent,
    Ready,
    Refused,
    encode,
)
from cluster.worker.actor import Drain, Worker
from cluster.worker.config import WorkerConfig, explain

__all__ = ["WorkerConfig", "drain", "run_worker", "start_worker"]

EXECUTOR_MODULES = ("cluster.worker.executor", "cluster.worker.loop_executor")


def run_worker(parent: Parent, argument: bytes) -> None:
    """The entry of a worker's process, as `launch` spawns it; `argument` is an encoded WorkerConfig.

    Ends the process with status 0 after a drain (SIGTERM), with one of ASKED after one that an operator asked the
    cluster for, with 2 if a module of tasks cannot be imported, or if
    another process runs under its name on this machine.
    """
    config = msgspec.msgpack.decode(argument, type=WorkerConfig)
    # Modules of tasks are imported by the fork server and the children only: this process runs no user code.
    preload = (*EXECUTOR_MODULES, *config.modules)
    raise SystemExit(
        run(lambda ports: _serve(ports, config, parent), node=config.node, preload=preload, path=config.path)
    )


async def _serve(ports: Ports, config: WorkerConfig, parent: Parent) -> int:
    def refuse(reason: str) -> None:
        parent.send(encode(Refused(reason)))

    try:
        # Held until the process ends. Until then SIGTERM ends it at once: there is nothing to drain.
        lock = await hold(ports.files, ports.clock, config.directory)
    except Locked as error:
        refuse(f"{error}; {LOCKED_ADVICE}")
        return EXIT_OPERATOR
    except DataUnusable as error:
        refuse(str(error))
        return EXIT_UNUSABLE
    parent.send(encode(Ready()))
    worker, system, ended = start_worker(ports, config, process_id())
    on_terminate(lambda: drain(system), interrupt=True)
    freeze_memory()
    await system.wait_stopped()
    lock.release()
    if worker.start_failure is not None:
        refuse(explain(worker.start_failure))
        return EXIT_OPERATOR
    if worker.end_status == EXIT_DRAINED:
        parent.send(encode(Drained(worker.cut_off)))
    return EXIT_FAULT if any(isinstance(reason, Failed) for reason in ended) else worker.end_status


def start_worker(ports: Ports, config: WorkerConfig, pid: int = 0) -> tuple[Worker, ActorSystem, list[ExitReason]]:
    """Starts the actor; the list gets the reason for which it ends. The same in the real and the simulated
    world.
    """
    system = ActorSystem(ports, node=config.node)
    worker = Worker(config, pid)
    ended: list[ExitReason] = []
    system.on_exit(system.spawn(worker, name="worker"), ended.append)
    return worker, system, ended


def drain(system: ActorSystem) -> None:
    """Asks the worker to finish what runs, hand back the rest and end."""
    worker = system.lookup("worker")
    if worker is not None:
        worker.tell(Drain())
