"""Bugs that tests plant in slots that workers open and shut: in the state of all brokers."""

from enum import Enum

from cluster.state.credit import Credit, Slot, is_shut
from cluster.state.machine import Machine


class GenerousCredit(Credit):
    """Slots are opened, and not shut again."""

    __slots__ = ()

    def resize(self, slots: dict[int, Slot], count: int) -> dict[int, Slot]:
        opened = {key: slot for key, slot in slots.items() if not is_shut(slot, count)}
        return super().resize(opened, count)


class StayingCredit(Credit):
    """Nobody hears which slots are shut, so what they own stays there."""

    __slots__ = ()

    def resize(self, slots: dict[int, Slot], count: int) -> dict[int, Slot]:
        super().resize(slots, count)
        return {}


class PlantedSlot(Enum):
    """What is wrong with slots."""

    NEVER_SHUT = "a slot that was opened is never shut"
    HOMES_STAY = "keys stay at a slot that was shut"


CREDITS: dict[PlantedSlot, type[Credit]] = {
    PlantedSlot.NEVER_SHUT: GenerousCredit,
    PlantedSlot.HOMES_STAY: StayingCredit,
}


def plant_slot(planted: PlantedSlot, machine: Machine) -> None:
    """A machine was made, or has got a state."""
    machine._tables.credit.__class__ = CREDITS[planted]
