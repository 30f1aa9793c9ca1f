"""What `make bench-locks` counts, checks and says. Servers are for the benchmark itself."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console

from bench.locks.client import Contenders
from bench.locks.contest import Contender, Door, NotExclusive, contest
from bench.locks.figures import Round, Share, Visit, round_of, share_of
from bench.locks.plot import plot_locks
from bench.locks.report import FAIR_LEAST, TITLES, Report, Row, complaints, least_of, load, markdown, merged, rate_of
from bench.locks.run import run_all
from bench.locks.servers import agreed_leader
from bench.locks.systems import Size, System, all_systems
from bench.peers.report import save

DURABLE = {"-", "majority"}     # as docs/performance.md


def test_cycles_that_were_done_in_the_round_count():
    before, across, inside, after = Visit(0, 1, 9), Visit(9, 9, 10), Visit(11, 12, 19), Visit(18, 19, 20)
    assert share_of([[before, across, inside], [after]], 10, 20).cycles == [2, 0]


def test_a_wait_counts_in_full_if_any_of_it_lies_in_the_round():
    starved = Visit(5, 30, 31)
    visits = [[Visit(8, 9, 12), Visit(13, 14, 15)], [starved], [Visit(20, 21, 22)]]
    assert sorted(share_of(visits, 10, 20).waits_ms) == [1_000, 25_000]


def test_a_round_has_the_waits_of_all_processes():
    found = round_of([Share([60, 30], [1.0] * 90), Share([8, 2], [3.0] * 9 + [70.0])], 2.0)
    assert found == Round(2.0, [60, 30, 8, 2], p50_ms=1.0, p99_ms=70.0, longest_ms=70.0)
    assert found.rate == 50.0
    assert found.least == 0.08


def test_a_process_may_go_without_the_lock_but_not_all():
    assert round_of([Share([0], [2.5]), Share([3], [1.0])], 1.0).least == 0.0
    with pytest.raises(ValueError, match="nobody had the lock"):
        round_of([Share([0], [2.5]), Share([0], [])], 1.0)


def test_only_one_passes_the_door_and_the_next_one_when_it_has_left(tmp_path):
    one, other = Door(tmp_path / "room"), Door(tmp_path / "room")
    one.enter(None)
    with pytest.raises(NotExclusive, match="two hold the lock"):
        other.enter(None)
    one.leave()
    other.enter(None)
    one.close()
    other.close()


def test_the_next_holder_has_a_higher_number(tmp_path):
    one, other = Door(tmp_path / "room"), Door(tmp_path / "room")
    for door, number in ((one, 7), (other, 8), (other, 1_000), (one, 10**18)):
        door.enter(number)
        door.leave()
    with pytest.raises(NotExclusive, match=f"after number {10**18} has number {10**18}"):
        other.enter(10**18)
    one.close()
    other.close()


class Fake:
    """Contends for a lock of this process; `numbers` are those of its holders."""

    def __init__(self, lock: Callable[[], asyncio.Semaphore], numbers: Callable[[], int | None]) -> None:
        self._make, self._numbers = lock, numbers
        self.names: list[str] = []
        self.closed = 0

    async def open(self, name: str) -> None:
        self.names.append(name)
        self._lock = self._make()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[int | None]:
        async with self._lock:
            await asyncio.sleep(0)
            yield self._numbers()

    async def close(self) -> None:
        self.closed += 1


def contest_of(room: Path, holders: int, numbers: Callable[[], int | None] = lambda: None) -> Share:
    """Four contend for a lock that has this many holders, on a clock that goes on by 1 ms each time it is read."""
    ticks = itertools.count()

    async def main() -> Share:
        lock = asyncio.Semaphore(holders)
        contenders: list[Contender] = [Fake(lambda: lock, numbers) for _ in range(4)]
        for contender in contenders:
            await contender.open("one")
        return await contest(contenders, room, 0.01, 1.0, now=lambda: next(ticks) / 1e3)

    return asyncio.run(main())


def test_a_contest_counts_for_each_contender_what_it_did(tmp_path):
    share = contest_of(tmp_path / "room", holders=1, numbers=itertools.count(5).__next__)
    assert len(share.cycles) == 4
    assert all(share.cycles)
    assert len(share.waits_ms) >= sum(share.cycles)
    assert min(share.waits_ms) >= 1.0


def test_a_lock_with_two_holders_is_found_out(tmp_path):
    with pytest.raises(NotExclusive, match="two hold the lock"):
        contest_of(tmp_path / "room", holders=2)


def test_numbers_that_do_not_grow_are_found_out(tmp_path):
    with pytest.raises(NotExclusive, match="after number 3 has number 3"):
        contest_of(tmp_path / "room", holders=1, numbers=lambda: 3)


def test_contenders_are_opened_for_a_name_of_their_own_and_closed_before_the_next(tmp_path):
    made: list[Fake] = []

    def make() -> Fake:
        made.append(Fake(lambda: asyncio.Semaphore(1), lambda: None))
        return made[-1]

    async def main() -> None:
        contenders = Contenders(make, tmp_path, 0.0, 1.0)
        await contenders.open(1)
        await contenders.open(3)

    asyncio.run(main())
    assert [fake.names for fake in made] == [["lock-1"], *[["lock-3"]] * 3]
    assert [fake.closed for fake in made] == [1, 0, 0, 0]


def node(member: str, leader: str | None) -> dict[str, object]:
    return {"header": {"member_id": member}, **({"leader": leader} if leader else {})}


def test_the_leader_is_the_node_that_all_of_them_name():
    assert agreed_leader({1: node("a", "b"), 2: node("b", "b"), 3: node("c", "b")}) == 2
    assert agreed_leader({1: node("a", "b"), 2: node("b", "b"), 3: node("c", "a")}) is None
    assert agreed_leader({1: node("a", None), 2: node("b", None), 3: node("c", None)}) is None


def rounds(*cycles: list[int], wait_ms: float = 2.0) -> list[Round]:
    return [round_of([Share(own, [wait_ms] * 99 + [wait_ms * 10 * n])], 10.0) for n, own in enumerate(cycles, start=1)]


ROWS = [
    Row("redis", "-", "polls", rounds([40_000], [41_000], [50_000]), rounds([90, 10], [50, 50], [70, 80], wait_ms=0.5)),
    Row("quorumq", "majority", "three brokers", rounds([9_000]), rounds([3_000, 3_100])),
    Row("etcd-queue", "majority", "by hand", failed="PeerFailed: no leader"),
]
REPORT = Report("2 cores", {"redis": "8.1.0", "CPython": "3.11.7"}, ROWS)


def test_the_table_has_medians_and_of_waits_and_shares_the_worst():
    lines = markdown(REPORT).splitlines()
    assert lines[2] == "| **quorumq, 3 brokers** | 900 | 2.00 | 20.0 | 610 | 2.00 | 20.0 | 20.0 | 0.98 | majority |"
    assert lines[3] == (
        "| redis, 1 node, not synced | 4,100 (4,000 - 5,000) | 2.00 | 40.0 | 10.0 (10.0 - 15.0) | 0.50 | 10.0 | 15.0 "
        "| 0.20 | - |"
    )
    assert lines[4] == "| etcd, 3 nodes, queue of keys | - | - | - | - | - | - | - | - | majority |"
    assert "- etcd, 3 nodes, queue of keys: PeerFailed: no leader" in lines
    assert "Median of 3 rounds of 10 s in turn" in lines[-3]
    assert lines[-1].startswith("2 cores. Versions: CPython 3.11.7, redis 8.1.0. Settings: ")


def test_nothing_measured_is_no_figure():
    assert rate_of([]) is None
    assert least_of([]) is None


def test_a_contender_of_quorumq_with_less_than_half_the_mean_is_a_failure():
    fair = Row("quorumq", together=rounds([50, 150]))
    unfair = Row("quorumq", together=rounds([100, 100], [49, 151]))
    other = Row("redis", together=rounds([0, 100]))
    assert fair.together[0].least == FAIR_LEAST
    assert complaints(Report("", {}, [fair, other])) == []
    (said,) = complaints(Report("", {}, [unfair, other]))
    assert said == "- **quorumq, 3 brokers**: a contender had 0.49 of the mean, and should have 0.5"


def test_a_report_of_locks_is_read_as_it_was_written(tmp_path):
    save(REPORT, tmp_path / "new/locks.json")
    assert load(tmp_path / "new/locks.json") == REPORT


def test_a_run_of_one_system_replaces_its_row_and_no_other():
    again = Row("redis", "-", alone=rounds([7]))
    both = merged(REPORT, Report("4 cores", {"redis": "9"}, [again]))
    assert [row.name for row in both.rows] == ["quorumq", "etcd-queue", "redis"]
    assert both.rows[-1] == again
    assert both.versions == {"redis": "9", "CPython": "3.11.7"}
    assert merged(None, REPORT) == REPORT


def test_the_chart_has_those_that_were_measured(tmp_path):
    pytest.importorskip("matplotlib")
    plot_locks(REPORT, tmp_path / "images/locks.svg")
    drawn = (tmp_path / "images/locks.svg").read_text()
    assert "<!-- quorumq, 3 brokers -->" in drawn
    assert "<!-- redis, 1 node, not synced -->" in drawn
    assert "etcd" not in drawn


def test_every_system_has_a_name_a_title_and_a_known_word_for_what_is_durable():
    systems = all_systems(Path(sys.executable))
    assert [one.name for one in systems] == list(TITLES)
    assert {one.durable for one in systems} == DURABLE
    assert all(one.settings for one in systems)


def test_systems_have_their_rounds_in_turn_and_one_that_failed_has_no_more(tmp_path):
    order: list[str] = []

    def measure(system: System, folder: Path, size: Size, step: Callable[[str], None]) -> tuple[Round, Round]:
        order.append(system.name)
        assert folder.is_dir()
        step("alone")
        if system.name == "etcd-service":
            raise OSError("no etcd")
        (one,) = rounds([4])
        return one, one

    systems = all_systems(Path(sys.executable))
    rows = run_all(systems, tmp_path, Size(0.0, 1.0, rounds=3), Console(quiet=True), False, measure)
    assert order == [*TITLES, *["quorumq", "etcd-queue", "redis"] * 2]
    assert [(row.name, len(row.alone), len(row.together)) for row in rows] == [
        ("quorumq", 3, 3), ("etcd-queue", 3, 3), ("etcd-service", 0, 0), ("redis", 3, 3),
    ]  # fmt: skip
    assert [row.failed for row in rows if row.failed] == ["OSError: no etcd"]
    (kept,) = tmp_path.iterdir()
    assert "no etcd" in (kept / "failed.txt").read_text()
