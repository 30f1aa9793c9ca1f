"""Bugs that tests plant in dependencies: in the state of all brokers."""

from collections.abc import Iterable
from enum import Enum

from cluster.state.commands import Needs
from cluster.state.machine import Machine
from cluster.state.needs import Dependencies, Dependent

FORGETS_ONE_IN = 7


class ForgetfulDependencies(Dependencies):
    """Now and then the end of a task is not told to those that wait for it."""

    __slots__ = ()

    def note(self, tasks: Iterable[int]) -> None:
        super().note(task for task in tasks if task % FORGETS_ONE_IN)


class HastyDependencies(Dependencies):
    """Who needs several tasks is let go without the last one."""

    __slots__ = ()

    def enter(self, task: int, dependent: Dependent) -> None:
        results, outcomes = dependent.needs.results, dependent.needs.outcomes
        if len(outcomes) > 1:
            dependent.needs = Needs(results, outcomes[:-1])
        elif len(results) > 1:
            dependent.needs = Needs(results[:-1], outcomes)
        super().enter(task, dependent)


class PlantedNeed(Enum):
    """What is wrong with dependencies."""

    COUNT_DOWN_LOST = "the end of a task is not always told to those that wait for it"
    LET_GO_EARLY = "who needs several tasks does not wait for the last of them"


DEPENDENCIES: dict[PlantedNeed, type[Dependencies]] = {
    PlantedNeed.COUNT_DOWN_LOST: ForgetfulDependencies,
    PlantedNeed.LET_GO_EARLY: HastyDependencies,
}


def plant_need(planted: PlantedNeed, machine: Machine) -> None:
    """A machine was made, or has got a state."""
    machine._tables.dependencies.__class__ = DEPENDENCIES[planted]
