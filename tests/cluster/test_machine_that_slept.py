"""A machine that slept, with the leader and everybody else on it: nobody was silent in that time."""

import pytest
from client_world import ClientWorld, pause, unserved

from actors import SECOND, Ports
from cluster import Client
from cluster.broker.lease_table import CLIENT_LEASE, WORKER_LEASE
from cluster.state.commands import TASK_NUMBER_BITS

SLEEP = CLIENT_LEASE + 600 * SECOND
NAP_S = 2.0                 # of a user, between two submits


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_slept_ends_no_session_for_the_silence_of_that_time(seed):
    """All wake up at once, so that the leader looks who is silent before it can have heard anybody."""
    rig = ClientWorld(seed)
    confirmed: list[int] = []

    async def user(cluster: Client, ports: Ports) -> None:
        for _ in range(2):
            confirmed.append((await cluster.submit(unserved)).id)
            await pause(ports, NAP_S)

    name = rig.start(user)
    rig.until(lambda: confirmed)
    everybody = [*rig.brokers.values(), *rig.workers.values(), rig.clients[name]]
    for process in everybody:
        rig.world.pause(process)
    rig.world.run_for(SLEEP)
    for process in everybody:
        rig.world.resume(process)
    rig.finish(name)
    first, second = confirmed
    assert first >> TASK_NUMBER_BITS == second >> TASK_NUMBER_BITS
    rig.world.run_for(2 * WORKER_LEASE)
    events = [event for _, event in rig.log]
    assert "lease_expired" not in events
    assert events.count("leading") == 1, "another leader would have given everybody a full lease"
