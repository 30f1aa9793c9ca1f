"""What may become a command: checked once, before it is in every log for ever.

An entry closes at 1 MiB, which is counted with `size_of`; one command may make it larger, but no command may exceed
COMMAND_BYTES_MAX. Senders of ours stay far below that, so what is larger is refused without an answer.
"""

from cluster.state.commands import (
    BODY_BYTES_MAX,
    PRIORITY_MAX,
    SUBMIT_BYTES_MAX,
    SUBMIT_TASKS_MAX,
    Acquire,
    Arm,
    Cancel,
    Command,
    Complete,
    Failure,
    Fire,
    Lapse,
    Options,
    Register,
    Release,
    Replay,
    ScheduleSpec,
    Seen,
    Steer,
    Submit,
)

COMMAND_BYTES_MAX = BODY_BYTES_MAX + SUBMIT_BYTES_MAX       # the largest body, and all that may come with it

# What msgpack adds at most.
NUMBER_BYTES = 9
TEXT_OVERHEAD_BYTES = 5
GROUP_OVERHEAD_BYTES = 3 * NUMBER_BYTES
NEEDS_OVERHEAD_BYTES = 2 * NUMBER_BYTES
CLAIM_OVERHEAD_BYTES = 5 * NUMBER_BYTES
OPTIONS_OVERHEAD_BYTES = 10 * NUMBER_BYTES
LINE_OVERHEAD_BYTES = 4 * NUMBER_BYTES
RULE_OVERHEAD_BYTES = 5 * NUMBER_BYTES
OUTCOME_OVERHEAD_BYTES = 6 * NUMBER_BYTES
SCHEDULE_OVERHEAD_BYTES = 5 * NUMBER_BYTES
FAILURE_OVERHEAD_BYTES = 8 * NUMBER_BYTES


def well_formed(message: Submit) -> bool:
    """What the state relies on; a client of ours never breaks it."""
    tasks = 0
    for group in message.groups:
        tasks += len(group.bodies)
        if group.needs and len(group.needs) != len(group.bodies):
            return False
        if group.first < 1 or not group.name:
            return False
        if any(len(body) > BODY_BYTES_MAX for body in group.bodies):
            return False
        options = group.options
        if options is not None and not (
            0 <= options.priority <= PRIORITY_MAX
            and options.timeout_ms > 0
            and options.delay_ms >= 0
            and options.at_ms >= 0
            and options.queue
        ):
            return False
    return 0 < tasks <= SUBMIT_TASKS_MAX


def size_of(command: Command) -> int:
    """How many bytes a command takes in an entry, beside a few for its own numbers; rather too many than too few."""
    size = 0
    if isinstance(command, Submit):
        for group in command.groups:
            bodies = group.bodies
            size += GROUP_OVERHEAD_BYTES + _text(group.name) + sum(map(len, bodies)) + TEXT_OVERHEAD_BYTES * len(bodies)
            if group.options is not None:
                size += _options(group.options)
            for needs in group.needs:
                size += NEEDS_OVERHEAD_BYTES + NUMBER_BYTES * len(needs)
        size += NUMBER_BYTES * len(command.seen)
    elif isinstance(command, Complete):
        size += OUTCOME_OVERHEAD_BYTES * len(command.outcomes)
        for outcome in command.outcomes:
            size += len(outcome.body)
            if outcome.error is not None:
                size += _failure(outcome.error)
    elif isinstance(command, Cancel | Replay):
        size += NUMBER_BYTES * len(command.tasks)
    elif isinstance(command, Release):
        size += NUMBER_BYTES * len(command.claims)
    elif isinstance(command, Lapse):
        size += NUMBER_BYTES * (len(command.silent) + len(command.over))
    elif isinstance(command, Acquire):
        size += CLAIM_OVERHEAD_BYTES + _text(command.name) + _text(command.note)
    elif isinstance(command, Arm | Fire | Steer):
        size += _text(command.name)
        if isinstance(command, Fire):
            size += NUMBER_BYTES * len(command.slots)
    elif isinstance(command, Seen):
        size += NUMBER_BYTES * len(command.seen)
    elif isinstance(command, Register):
        size += _text(command.name)
        if (worker := command.worker) is not None:
            size += sum(map(_text, (*worker.queues, *worker.names, *worker.labels, *worker.loop_names)))
            size += sum(map(_schedule, worker.schedules))
    return size


def _schedule(spec: ScheduleSpec) -> int:
    size = SCHEDULE_OVERHEAD_BYTES + len(spec.body)
    size += sum(map(_text, (spec.name, spec.task, spec.expression, spec.zone, spec.misfire, spec.on_busy)))
    return size if spec.options is None else size + _options(spec.options)


def _options(options: Options) -> int:
    size = OPTIONS_OVERHEAD_BYTES
    size += sum(map(_text, (options.queue, *options.labels, options.key, options.actor, options.dedup)))
    if options.line is not None:
        size += LINE_OVERHEAD_BYTES + _text(options.line.share) + _text(options.line.limit)
    if options.retry is not None:
        size += RULE_OVERHEAD_BYTES + sum(map(_text, options.retry.on))
    return size


def _failure(failure: Failure) -> int:
    texts = (failure.type, failure.message, failure.traceback, failure.stderr, failure.log)
    return FAILURE_OVERHEAD_BYTES + sum(map(_text, texts)) + sum(map(_text, failure.kinds))


def _text(text: str) -> int:
    return TEXT_OVERHEAD_BYTES + (len(text) if text.isascii() else len(text.encode()))
