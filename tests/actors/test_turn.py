"""The turn of a loop, and for how long it held the loop."""

from actors import MILLISECOND, SECOND, Ports
from actors.simulation import Process, World
from actors.turn import Turn


def test_the_longest_turn_since_the_last_question_is_told_once():
    world = World(1)
    turns: list[Turn] = []

    def start(ports: Ports) -> None:
        turns.append(Turn(ports.clock))

    process: Process = world.process("node", start)
    world.run_for(SECOND)
    (turn,) = turns
    loop = process.loop
    assert loop is not None
    for work in (3, 40, 5):
        loop.deliver(lambda work: turn.at_end(lambda: loop.charge(work * MILLISECOND)), work)
        world.run_for(SECOND)
    assert turn.take_longest() // MILLISECOND == 40
    assert turn.take_longest() == 0
