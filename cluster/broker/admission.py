"""What may become a command: checked once, before it is in every log for ever."""

from cluster.state.commands import BODY_BYTES_MAX, PRIORITY_MAX, SUBMIT_TASKS_MAX, Submit


def well_formed(message: Submit) -> bool:
    """What the state relies on; a client of ours never breaks it."""
    tasks = 0
    for group in message.groups:
        tasks += len(group.bodies)
        if group.first < 1 or not group.name:
            return False
        if any(len(body) > BODY_BYTES_MAX for body in group.bodies):
            return False
        options = group.options
        if options is not None and not (
            0 <= options.priority <= PRIORITY_MAX and options.timeout_ms > 0 and options.delay_ms >= 0 and options.queue
        ):
            return False
    return 0 < tasks <= SUBMIT_TASKS_MAX
