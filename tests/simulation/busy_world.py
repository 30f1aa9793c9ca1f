"""A small world in which everything happens that a world can do; run as a script it prints the digest of its
seed.

Three replicas write what they hear to their disks and gossip over links that break; a worker has children.
"""

import asyncio
import sys

from actors.runtime.ports import MILLISECOND, SECOND, Exit, Ports
from actors.simulation import ChildPort, FaultMix, FaultPlan, Rate, World

REPLICAS = ("r1", "r2", "r3")
BUSY_MIX = FaultMix(flipped_bit=Rate(at_least=1, lasts_ns_max=SECOND))


class Replica:
    """Ticks, gossips and syncs."""

    def __init__(self, ports: Ports, name: str) -> None:
        self.ports = ports
        self.heard = 0
        self.offset = 0
        self.ticks = 0
        ports.files.make_dirs("data")
        self.file = ports.files.open("data/log", create=True)
        self.offset = self.file.size()
        self.listener = ports.network.listen(name, on_message=self.on_message, on_garbage=lambda remote: None)
        identity = name.encode() + ports.entropy.bits(112).to_bytes(14)
        self.links = [
            ports.network.dial(
                other, identity, on_message=self.on_answer, on_up=self.on_up, on_down=self.on_down
            )
            for other in REPLICAS
            if other != name
        ]
        self.tick()

    def tick(self) -> None:
        self.ticks += 1
        self.ports.clock.call_at(self.ports.clock.now() + 10 * MILLISECOND, self.tick)
        if self.ticks % 10 == 0:
            for link in self.links:
                link.send(b"gossip %d" % self.ports.entropy.below(1_000))

    def on_message(self, peer: bytes, data: bytes) -> None:
        self.heard += 1
        self.file.pwrite([data, b"\n"], self.offset)
        self.offset += len(data) + 1
        if self.heard % 5 == 0:
            self.file.sync()
            self.listener.send(peer, b"synced %d" % self.offset)

    def on_answer(self, data: bytes) -> None:
        self.ports.log.event("replica.answer", size=len(data))

    def on_up(self) -> None:
        self.ports.log.event("replica.up")

    def on_down(self) -> None:
        self.ports.log.event("replica.down", at=self.ports.clock.wall_ms())


async def worker(ports: Ports) -> None:
    """Keeps one child busy, and gets another when it dies."""
    while True:
        gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        child = ports.processes.spawn(
            "body", b"", page_bytes=64, on_frame=lambda frame: None, on_exit=gone.set_result
        )
        for number in range(50):
            child.send(b"task %d" % number)
            if await asyncio.wait([gone], timeout=0.05) != (set(), {gone}):
                break
        else:
            child.signal(9)
            await gone


async def body(port: ChildPort, argument: bytes) -> None:
    while (frame := await port.receive()) is not None:
        if port.page.acquire(MILLISECOND):
            port.page.view[0] = (port.page.view[0] + 1) % 256
            port.page.release()
        await port.work(port.entropy.below(20 * MILLISECOND))
        port.send(b"done " + frame)


def busy_world(seed: int, span: int = 30 * SECOND) -> World:
    """The world of a seed after `span`; its processes still run."""
    world = World(seed)
    world.register_entry("body", body)
    members = [
        world.process(name, lambda ports, name=name: Replica(ports, name))    # type: ignore[misc]
        for name in REPLICAS
    ]
    others = [world.process("w1", worker)]
    plan = FaultPlan(world, BUSY_MIX, members=members, others=others)
    plan.start(span * 3 // 4)
    world.run_for(span)
    assert sum(plan.counts.values()) > 0
    return world


if __name__ == "__main__":
    sys.stdout.write(f"{busy_world(int(sys.argv[1])).digest}\n")
