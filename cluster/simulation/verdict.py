"""Where oracles say what they found."""

from collections.abc import Callable
from dataclasses import dataclass

from actors import SECOND, Nanos

VIOLATIONS_MAX = 20         # of one seed: the first says what went wrong, the rest what followed


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise was broken."""

    seed: int
    at: Nanos               # world time
    oracle: str
    detail: str
    course: str = "--seeds 1"       # how the command line is told what was run

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, {self.at / SECOND:.6f} s: {self.oracle}: {self.detail}\n"
            f"  again: python -m cluster.simulation {self.course} --from {self.seed} --verbose"
        )


class Judge:
    """Collects the violations of one seed."""

    def __init__(self, seed: int, now: Callable[[], Nanos]) -> None:
        self.seed = seed
        self.course = "--seeds 1"
        self.violations: list[Violation] = []
        self.muted: set[str] = set()        # oracles that are not listened to, so that others can be put to the test
        self._now = now

    def violated(self, oracle: str, detail: str) -> None:
        if oracle not in self.muted and len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(self.seed, self._now(), oracle, detail, self.course))

    def require(self, condition: object, oracle: str, detail: str) -> None:
        if not condition:
            self.violated(oracle, detail)
