"""A simulated operator, who takes nodes out and back in as the command line does, whatever breaks meanwhile.

Mostly he restarts everything, one node after another, sometimes only workers or brokers, and sometimes he drains one
worker. He gives up when a node is not back in time, for example because a fault has hit it, and begins anew later.
"""

from collections.abc import Coroutine
from typing import Any

from actors import SECOND, Nanos, Ports
from actors.simulation import World
from cluster.client import Client
from cluster.client.nodes import carry_out
from cluster.client.rolling import Course, Limits, Wanted
from cluster.errors import Unavailable
from cluster.simulation.launched import Node
from cluster.simulation.workload import ports_pause
from cluster.topology import Topology

OPERATOR = "operator"
ONE_IN = 2                          # seeds that have one
INTERVAL_NS: Nanos = 6 * SECOND     # mean, between two courses
LIMITS = Limits(running=2 * SECOND, back=8 * SECOND)
DEADLINE_S = 2.0
PATIENCE_NS: Nanos = 1_000 * SECOND


class OperatorProcess(Node):
    """`courses` counts those that came to their end, `turns` the nodes that were ended and came back."""

    def __init__(self, world: World, plan: Topology) -> None:
        self.plan = plan
        self.random = world.stream(OPERATOR)
        self.is_over = self.is_busy = False
        self.courses = self.turns = 0
        self.failures: list[str] = []   # why courses were given up
        super().__init__(world, OPERATOR)

    def _start(self, ports: Ports) -> Coroutine[Any, Any, None]:
        return self._live(ports)

    async def _live(self, ports: Ports) -> None:
        while True:
            await ports_pause(ports, int(self.random.expovariate(1.0) * INTERVAL_NS))
            if self.is_over:
                break
            try:
                async with Client(self.plan, lambda: ports, DEADLINE_S, only_looks=True) as client:
                    await self._take_a_course(client)
            except Unavailable:
                continue
        await ports_pause(ports, PATIENCE_NS)

    async def _take_a_course(self, client: Client) -> None:
        course = self._course()
        self.is_busy = True
        try:
            failure = await carry_out(client, course)
        finally:
            self.is_busy = False
            self.turns += len(course.turns)
        if failure is None:
            self.courses += 1
        else:
            self.failures.append(failure.reason)

    def _course(self) -> Course:
        workers, brokers = [node.name for node in self.plan.workers], [node.name for node in self.plan.brokers]
        kind = self.random.randrange(5)
        if kind == 0:
            return Course(Wanted.OUT, [self.random.choice(workers)], [], named=True, limits=LIMITS)
        if kind == 1:
            workers = []
        elif kind == 2:
            brokers = []
        return Course(Wanted.AGAIN, workers, brokers, named=False, limits=LIMITS)
