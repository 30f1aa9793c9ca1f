"""Single tasks, as a broker sees them: what the state has, and whether what is held runs or waits at its slot.

That is known from the workers' heartbeats, which name the tasks that run and go to the leader only. They are up to half
a second old: what has begun since counts as waiting.
"""

from msgspec import structs

from cluster.broker.link import Links
from cluster.state.machine import Machine
from cluster.state.task_rows import PLACE_RUNS, PLACE_UNKNOWN, PLACE_WAITS, TaskRow
from cluster.wire import ListTasks, ShowTask, TaskRows, TaskShown


def listed(machine: Machine, links: Links, question: ListTasks, *, leading: bool) -> TaskRows:
    """The page that was asked for."""
    page = machine.page(question.after, question.limit, question.states, question.queue, question.name)
    rows = _placed(page.rows, links) if leading else page.rows
    return TaskRows(question.request, rows, page.after)


def shown(machine: Machine, links: Links, question: ShowTask, *, leading: bool) -> TaskShown:
    """The task that was asked for."""
    found = machine.details(question.task)
    if found is not None and leading:
        (row,) = _placed([found.row], links)
        found = structs.replace(found, row=row)
    return TaskShown(question.request, found)


def _placed(rows: list[TaskRow], links: Links) -> list[TaskRow]:
    running: dict[int, frozenset[int]] = {}     # of the sessions that hold some of these
    placed: list[TaskRow] = []
    for row in rows:
        if row.place == PLACE_UNKNOWN:
            link = links.of_session(row.session)
            if row.session not in running:
                running[row.session] = frozenset(link.running if link is not None else ())
            runs = row.task in running[row.session]
            row = structs.replace(row, place=PLACE_RUNS if runs else PLACE_WAITS)
        placed.append(row)
    return placed
