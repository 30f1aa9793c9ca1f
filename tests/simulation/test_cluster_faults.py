"""The faults of a cluster's seed: what must happen happens, and not in heaps."""

import pytest

from actors.runtime.ports import SECOND, Ports
from actors.simulation import World
from cluster.simulation.faults import ClusterFaults


def start(ports: Ports) -> None:
    file = ports.files.open("log", create=True)

    def tick() -> None:
        file.pwrite([b"0123456789"], file.size())
        file.sync()
        ports.clock.call_at(ports.clock.now() + SECOND, tick)

    tick()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_missing_strikes_once_however_long_no_victim_was_to_be_had(seed):
    world = World(seed)
    brokers = [world.process(name, start) for name in ("b1", "b2", "b3")]
    world.run_for(SECOND)
    faults = ClusterFaults(world, brokers=brokers, others=[], on_damage=lambda name, snapshots: None)
    for broker in brokers:
        world.pause(broker)
    assert faults.missing[:2] == ["crash", "partition"]
    faults.prolong(60 * SECOND)
    world.run_for(20 * SECOND)
    assert faults.counts["crash"] == 0, "nobody was there to be hit"
    for broker in brokers:
        world.resume(broker)
    world.run_for(40 * SECOND)
    assert faults.counts["crash"] == 1
    assert faults.counts["partition"] == 1
