"""One broker's view of workers and queues, for status."""

from collections.abc import Collection

from cluster.broker.link import Links
from cluster.state.effects import Assignment
from cluster.state.machine import Machine
from cluster.state.status import Status
from cluster.wire import CUT_OFF_UNKNOWN


def replica_status(machine: Machine) -> dict[str, object]:
    """What a broker that hears no worker's heartbeats has of the same: all that is held counts as running."""
    status = machine.status()
    workers: list[dict[str, object]] = [
        {
            "node": row["name"],
            "pid": None,
            "slots": row["slots"],
            "slots_min": row["slots_min"],
            "slots_max": row["slots_max"],
            "async_tasks": row["async_tasks"],
            "draining": row["draining"],
            "drained": False,
            "cut_off": None,
            "running": row["held"],
            "waiting": 0,
            "children": [],
        }
        for row in status["workers"]
    ]
    return {"workers": sorted(workers, key=lambda row: str(row["node"])), "queues": status["queues"], **_rest(status)}


def cluster_status(machine: Machine, links: Links, uncomputed: Collection[str]) -> dict[str, object]:
    """What only the leader knows. Running and waiting come from workers' heartbeats, up to 500 ms old; `uncomputed` are
    schedules whose times it cannot compute, each of which is an alarm."""
    status = machine.status()
    workers: list[dict[str, object]] = []
    waiting_in: dict[str, int] = {}
    for session in machine.sessions_open():
        if session.worker is None:
            continue
        link = links.of_session(session.id)
        held = machine.held_by(session.id)
        running = _running(held, link.running if link is not None else (), session.worker.slots)
        waits = [assignment for assignment in held if assignment.task not in running]
        for assignment in waits:
            queue = machine.queue_of(assignment.task) or ""
            waiting_in[queue] = waiting_in.get(queue, 0) + 1
        workers.append(
            {
                "node": session.name,
                "pid": link.pid if link is not None and link.pid else None,
                "slots": session.slots_open or session.worker.slots,
                "slots_min": session.worker.slots_min or session.worker.slots,
                "slots_max": session.worker.slots,
                "async_tasks": session.worker.loop_tasks if session.worker.loop_names else 0,
                "draining": session.draining,
                "drained": False,
                "cut_off": None,
                "running": len(held) - len(waits),
                "waiting": len(waits),
                "children": list(link.children) if link is not None else [],
            }
        )
    there = {row["node"] for row in workers}
    out = {link.name: link.cut_off for link in links if link.stands_by}
    workers += [_drained(name, cut_off) for name, cut_off in out.items() if name not in there]
    queues = []
    for row in status["queues"]:
        waiting = waiting_in.get(row["name"], 0)
        queues.append({**row, "waiting": waiting, "running": row["running"] - waiting})
    known = machine.schedules
    status["schedules"]["alarms"] += sum([name in known.by_name and not known.has_alarm(name) for name in uncomputed])
    return {"workers": sorted(workers, key=lambda row: str(row["node"])), "queues": queues, **_rest(status)}


def _drained(name: str, cut_off: int) -> dict[str, object]:
    """The row of a worker that an operator has taken out."""
    return {
        "node": name,
        "pid": None,
        "slots": 0,
        "slots_min": 0,
        "slots_max": 0,
        "async_tasks": 0,
        "draining": False,
        "drained": True,
        "cut_off": None if cut_off == CUT_OFF_UNKNOWN else cut_off,
        "running": 0,
        "waiting": 0,
        "children": [],
    }


def _rest(status: Status) -> dict[str, object]:
    """What waits for something else than its turn, and what will be submitted by nobody."""
    return {
        "parked": [dict(row) for row in status["parked"]],
        "parked_more": status["parked_more"],
        "limits": [dict(row) for row in status["limits"]],
        "limits_more": status["limits_more"],
        "schedules": dict(status["schedules"]),
    }


def _running(held: list[Assignment], heard: tuple[int, ...], loop: int) -> set[int]:
    """Tasks that run, as far as the last heartbeat tells: those that it named, and for each that has ended since, the
    first one held by another slot. In an event loop, which is slot `loop`, all run."""
    named = set(heard)
    running = {assignment.task: assignment.slot for assignment in held if assignment.task in named}
    slots = set(running.values())
    for assignment in held:
        if len(running) >= len(heard):
            break
        if assignment.slot != loop and assignment.slot not in slots:
            slots.add(assignment.slot)
            running[assignment.task] = assignment.slot
    return {*running, *(assignment.task for assignment in held if assignment.slot == loop)}
