"""`brokers`, `workers` and `queues`: the parts of the status, each by itself."""

import json

import click

from cluster.command_line.common import Said, look_options, stdout, topology_argument
from cluster.command_line.status import look
from cluster.status_tables import print_part, who_leads


@click.command()
@topology_argument
@look_options
def brokers(topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show the brokers, and who leads."""
    _show("brokers", topology, as_json, deadline, stale)


@click.command()
@topology_argument
@look_options
def workers(topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show the workers and what they have."""
    _show("workers", topology, as_json, deadline, stale)


@click.command()
@topology_argument
@look_options
def queues(topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show the queues: what is there now, and what has ended."""
    _show("queues", topology, as_json, deadline, stale)


def _show(part: str, topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    report = look(topology, deadline, as_json=as_json, stale=stale)
    if part != "brokers" and report["leader"] is None and not (stale and report[part]):
        # An empty table would say that there are none.
        raise Said(f"{part} are not known: {who_leads(report)}")
    if as_json:
        click.echo(json.dumps(report[part]))
    else:
        print_part(part, report, stdout())
