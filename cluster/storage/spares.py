"""The files that wait to be used, and those that have had their day: all of it off the loop.

A segment that left the log gives its file to the next one while a spare is wanted: it needs no filling. Files whose
leaving a crash interrupts are found by the next start and go then (`scan.Scan.leftovers`).

A full disk is met here and not by the log, which only writes where it wrote before. It has the rest of its segment
then: the owner is told, spends it on what makes work fewer, and asks again now and then (`prepare`), because nobody
says when there is room. When to ask is the owner's matter: it knows who else would need that room.
"""

from collections.abc import Callable, Sequence

from actors import Files
from cluster.storage.errors import is_lack_of_room
from cluster.storage.segment import Guard, WalLimits, fill_spare, give_up_segment, require_room


class Spares:
    """Files ready to become segments, and the numbers that names are made of: they rise and are never used again.

    `on_change` is told when a spare is ready, and when `lacks_room` has become another.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        limits: WalLimits,
        ready: Sequence[int],
        next_number: int,
        guard: Guard,
        on_change: Callable[[], None],
    ) -> None:
        self.unprepared_rolls = 0  # segments that were begun without a spare at hand
        self.keep_free_bytes = 0  # for what else must be written here: a spare that would take them is not begun
        self.failure: BaseException | None = None  # why the last file could not be filled or given up
        self._files = files
        self._directory = directory
        self._limits = limits
        self._ready = list(ready)
        self._next_number = next_number
        self._on_change = on_change
        self._found_no_room = False     # when it was last tried
        self._filling: int | None = None
        self._leaving: list[int] = []  # segments whose files are to be given up; the first of them is, by a job
        self._stopped = False
        self._chunk_done = guard(self._filled)
        self._file_gone = guard(self._gave_up)

    def new_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def take(self) -> int | None:
        """A spare for the segment that is begun now; None if there is none at hand."""
        if self._ready:
            return self._ready.pop(0)
        self.unprepared_rolls += 1
        return None

    def prepare(self) -> None:
        """Sees to it that one is at hand: fills a file with zeros, a chunk per job."""
        if not self._ready and self._filling is None and not self._leaving and not self._stopped:
            self._filling = self.new_number()
            self._fill(self._filling, 0)

    def retire(self, numbers: Sequence[int]) -> None:
        """These segments have left the log: their files become spares or go, one job after another."""
        if self._stopped:
            return  # the next start finds them
        is_busy = bool(self._leaving)
        self._leaving += numbers
        if self._leaving and not is_busy:
            self._give_up()

    def stop(self) -> None:
        """What is under way ends, nothing follows; an unfinished file is removed by the next open."""
        self._stopped = True
        self._filling = None
        del self._leaving[1:]

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    @property
    def lacks_room(self) -> bool:
        """No spare is at hand, and the disk had no room for one when it was last tried."""
        return self._found_no_room and not self._ready

    @property
    def is_filling(self) -> bool:
        return self._filling is not None

    @property
    def is_retiring(self) -> bool:
        """Files of the directory are about to change their names or to go."""
        return bool(self._leaving)

    def _fill(self, number: int, filled: int) -> None:
        keep_free = self.keep_free_bytes

        def job() -> int:
            if not filled:
                # Also because a full disk would be written to the brim, in vain, at every try.
                require_room(self._files, self._directory, self._limits.segment_bytes + keep_free)
            return fill_spare(self._files, self._directory, number, filled, self._limits)

        self._files.submit(job, lambda outcome: self._chunk_done(number, outcome), background=True)

    def _filled(self, number: int, outcome: int | BaseException) -> None:
        if self._filling != number:
            return
        if isinstance(outcome, BaseException):
            self._filling = None
            self.failure = outcome  # the log then grows its next segment
            if is_lack_of_room(outcome) and not self._found_no_room:
                self._found_no_room = True
                self._on_change()
        elif outcome < self._limits.segment_bytes:
            self._fill(number, outcome)
        else:
            self._filling = None
            self._add(number)

    def _add(self, number: int) -> None:
        self._ready.append(number)
        self._found_no_room = False
        self._on_change()

    def _give_up(self) -> None:
        number = self._leaving[0]
        is_wanted = len(self._ready) < self._limits.spares_max
        self._files.submit(
            lambda: give_up_segment(self._files, self._directory, number, is_wanted, self._limits),
            self._file_gone,
            background=True,
        )

    def _gave_up(self, became_spare: bool | BaseException) -> None:
        number = self._leaving.pop(0)
        if isinstance(became_spare, BaseException):
            self.failure = became_spare  # the file stays until the next start
        elif became_spare:
            self._add(number)
        if self._leaving:
            self._give_up()
        else:
            self.prepare()
