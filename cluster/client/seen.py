"""Which results a client has: told to the cluster as ranges, so that it may forget them early."""


class SeenNumbers:
    """Task numbers whose results arrived since they were last told. Results come in the order in which tasks end, so
    they are sorted only when they are told: neighbours become one range."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, number: int) -> None:
        self._numbers.append(number)

    def take(self, items_max: int) -> list[int]:
        """Flat inclusive ranges [first, last, first, last, ...] of at most `items_max` items; the rest waits."""
        assert items_max % 2 == 0
        numbers = sorted(self._numbers)
        ranges: list[int] = []
        for position, number in enumerate(numbers):
            if ranges and ranges[-1] + 1 >= number:
                ranges[-1] = number
            elif len(ranges) == items_max:
                self._numbers = numbers[position:]
                return ranges
            else:
                ranges += (number, number)
        self._numbers = []
        return ranges

    def give_back(self, ranges: list[int]) -> None:
        """What was taken could not be told."""
        for first, last in zip(ranges[::2], ranges[1::2], strict=True):
            self._numbers += range(first, last + 1)
