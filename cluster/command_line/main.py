"""All commands, and what their errors mean to a shell.

A command lives in a module of its group and is listed here: in COMMANDS, as `tasks ...` in OF_TASKS, or as `cron ...`
in OF_CRON.
"""

import sys

import click

from cluster.command_line import completion, cron, lock, nodes, parts, replay, results, status, submit, tasks, top
from cluster.command_line.common import EXIT_SAID, EXIT_WRONG_CALL, Said, explained
from cluster.errors import ClusterError, TaskNotFound, TopologyError

PROGRAM = "quorumq"
COMPLETION_VARIABLE = "_QUORUMQ_COMPLETE"       # click's name for that program, however it was started

COMMANDS: tuple[click.Command, ...] = (
    status.status,
    parts.brokers,
    parts.workers,
    parts.queues,
    top.top,
    submit.submit,
    results.result,
    results.cancel,
    replay.replay,
    nodes.drain,
    nodes.restart,
    tasks.tasks,
    lock.lock,
    lock.locks,
    cron.cron,
    completion.completion,
)
OF_TASKS: tuple[click.Command, ...] = (
    tasks.list_,
    tasks.show,
    results.cancel,
    replay.replay,
)
OF_CRON: tuple[click.Command, ...] = (
    cron.list_,
    cron.show,
    cron.history,
    cron.run_now,
    cron.pause,
    cron.resume,
    cron.delete,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def main() -> None:
    """Look at a quorumq cluster and give it work. Start one with `python -m cluster.launch TOPOLOGY`.

    Exit status: 0 done, 1 the cluster said no or cannot be reached, 2 a wrong call or topology; `result` has more.
    """


for _command in COMMANDS:
    main.add_command(_command)
for _command in OF_TASKS:
    tasks.tasks.add_command(_command)
for _command in OF_CRON:
    cron.cron.add_command(_command)


def run() -> None:
    """Errors of ours in one line: exit 2 for a wrong call or topology, 1 for what the cluster said."""
    try:
        main(standalone_mode=True, complete_var=COMPLETION_VARIABLE)
    except (TopologyError, TaskNotFound) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_WRONG_CALL)
    except ClusterError as error:
        click.echo(f"error: {explained(error)}", err=True)
        sys.exit(EXIT_SAID)
    except Said as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
