"""What a worker changes in a child's claim page beyond one word. All of it is done under the page's lock."""

from cluster.worker.page import ClaimPage
from cluster.worker.slots import Held, Slot


def withdraw_waiting(page: ClaimPage, slot: Slot, running: int | None) -> list[Held] | None:
    """Withdraws all that the child has not claimed; nothing, and None, if `running` is no longer the last one claimed.

    The slot still holds what is withdrawn as if it were with the child.
    """
    claimed = page.claimed
    if running is not None and claimed != running:
        return None
    waiting = slot.waiting(claimed)
    for held in waiting:
        withdrawn = page.withdraw(held.number)
        assert withdrawn, "a number above the last one claimed can be withdrawn"
    return waiting


def withdraw_or_stop(page: ClaimPage, number: int) -> bool:
    """Withdraws a task, and says so, or asks it to stop. One that has ended is left alone: its outcome waits to be
    collected."""
    if page.withdraw(number):
        return True
    if page.claimed == number:
        page.stop(number)
    return False
