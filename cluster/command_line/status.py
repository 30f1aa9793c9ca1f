"""`status`: brokers, workers and queues."""

import json
from typing import Any

import click

from cluster.client.client import Client
from cluster.command_line.common import STALE_DEADLINE_S, busy, look_options, run, stdout, topology_argument
from cluster.status_tables import print_tables


@click.command()
@topology_argument
@look_options
def status(topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show brokers, workers and queues."""
    report = look(topology, deadline, as_json=as_json, stale=stale)
    if as_json:
        click.echo(json.dumps(report))
    else:
        print_tables(report, stdout(), stale=stale)


def look(topology: str, deadline: float, *, as_json: bool, stale: bool) -> dict[str, Any]:
    """The report of the cluster, whether it has a leader or not."""
    return run(_status(topology, min(deadline, STALE_DEADLINE_S) if stale else deadline, as_json, stale))


async def _status(topology: str, deadline: float, as_json: bool, stale: bool) -> dict[str, Any]:
    client = Client.connect(topology, deadline=deadline, require_leader=False, only_looks=True)
    async with busy("looking for a leader", quiet=as_json), client as cluster:
        return await cluster.status(stale=stale)
