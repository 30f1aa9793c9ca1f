"""The two snapshots of a broker: what a start begins with, what is kept, and what is kept aside."""

from collections.abc import Callable, Coroutine
from errno import EIO
from os import strerror
from typing import Any

import pytest
from shelf_rig import DIRECTORY, machine_at, meta_of, names, path_of, write_snapshot

from actors import SECOND, Actor, ActorSystem, Ports
from actors.simulation import SimulatedDisk, World
from actors.simulation.disk import SimulatedFile
from cluster.peer.shelf import Shelf
from cluster.state import restoration
from cluster.state.errors import NewerState, OlderState
from cluster.state.machine import Machine
from cluster.storage import snapshot_format
from cluster.storage.errors import UnsupportedVersion
from cluster.storage.snapshots import SnapshotFile


class Owner(Actor):
    def started(self) -> None:
        self.context.files.make_dirs(DIRECTORY)
        self.machine = Machine()
        self.shelf = Shelf(self.context, DIRECTORY)


class Rig:
    def __init__(self, world: World) -> None:
        self.world = world
        self.owner = Owner()

        async def live(ports: Ports) -> None:
            self.owner = Owner()
            system = ActorSystem(ports)
            system.spawn(self.owner)
            await system.wait_stopped()

        program: Callable[[Ports], Coroutine[Any, Any, None]] = live
        self.process = world.process("b1", program)
        world.run_for(SECOND)

    @property
    def shelf(self) -> Shelf:
        return self.owner.shelf

    @property
    def disk(self) -> SimulatedDisk:
        return self.process.machine.disk

    def do(self, what: Callable[[], Any]) -> Any:
        """In the owner's process; the jobs that follow from it are done when this returns."""
        results: list[Any] = []
        assert self.process.loop is not None
        self.process.loop.deliver(lambda _: results.append(what()), None)
        self.world.run_for(SECOND)
        (result,) = results
        return result

    def write(self, *indexes: int) -> None:
        """Snapshots that are there without anybody having said so."""
        files = self.disk.mount(pid=-1)
        for index in indexes:
            write_snapshot(files, machine_at(index))

    def add(self, index: int, *, alone: bool = False) -> None:
        self.write(index)
        size = len(self.disk.read(path_of(index)))
        add = self.shelf.add_alone if alone else self.shelf.add
        self.do(lambda: add(meta_of(machine_at(index)), size))

    def restart(self) -> None:
        self.world.crash(self.process)
        self.world.restart(self.process)
        self.world.run_for(SECOND)

    def load(self) -> int:
        """Of which entry the state is then."""
        mark = self.do(lambda: self.shelf.load(self.owner.machine))
        machine = self.owner.machine
        assert (mark.index if mark is not None else 0) == machine.applied_index
        if mark is not None:
            expected = machine_at(mark.index)
            assert mark == meta_of(expected)
            assert machine.full_digest() == expected.full_digest()
        return machine.applied_index

    def damage(self, index: int, offset: int = 5_000) -> None:
        self.disk.flip_bit(path_of(index), offset)

    @property
    def kept(self) -> list[str]:
        return names(self.disk)

    def events(self) -> list[object]:
        """Indexes of snapshots that were found damaged."""
        return [fields["index"] for _, _, name, fields in self.world.log if name == "snapshot_damaged"]


@pytest.fixture
def rig():
    with World(1) as world:
        yield Rig(world)


# -- a start --------------------------------------------------------------------------------------------------------


def test_a_start_without_snapshots_has_an_empty_state(rig):
    assert rig.load() == 0
    assert rig.shelf.newest is None
    assert rig.shelf.log_is_needed_behind == 0


def test_a_start_begins_with_the_newest_and_the_log_is_needed_behind_the_older(rig):
    rig.write(10, 20)
    assert rig.load() == 20
    assert rig.shelf.log_is_needed_behind == 10
    assert rig.shelf.newest_size == len(rig.disk.read(path_of(20)))


def test_with_one_snapshot_the_whole_log_is_needed(rig):
    rig.write(10)
    assert rig.load() == 10
    assert rig.shelf.log_is_needed_behind == 0


@pytest.mark.parametrize("offset", [20, 4_100, 5_000, -10])
def test_if_the_newest_is_damaged_it_is_kept_aside_and_the_older_one_is_used(rig, offset):
    """In the header, a chunk's head, the image, the footer."""
    rig.write(10, 20)
    rig.damage(20, offset if offset > 0 else len(rig.disk.read(path_of(20))) + offset)
    assert rig.load() == 10
    assert rig.kept == ["10.snap", "20.snap.damaged"]
    assert rig.events() == [20]
    assert rig.shelf.log_is_needed_behind == 0
    rig.restart()
    assert rig.load() == 10
    assert rig.events() == [20], "said once"


def lose(monkeypatch: pytest.MonkeyPatch, index: int, offset: int) -> None:
    """The medium has lost a byte of this snapshot: to read it is an error from now on."""
    pread = SimulatedFile.pread

    def failing(file: SimulatedFile, size: int, start: int) -> bytes:
        if file.path == path_of(index) and start <= offset < start + size:
            raise OSError(EIO, strerror(EIO))
        return pread(file, size, start)

    monkeypatch.setattr(SimulatedFile, "pread", failing)


@pytest.mark.parametrize("offset", [20, 5_000, -10])
def test_if_the_newest_cannot_be_read_the_start_goes_on_with_the_older_one(rig, monkeypatch, offset):
    """In the header, the image, the footer."""
    rig.write(10, 20)
    lose(monkeypatch, 20, offset if offset > 0 else len(rig.disk.read(path_of(20))) + offset)
    assert rig.load() == 10
    assert rig.kept == ["10.snap", "20.snap.damaged"]
    assert rig.events() == [20]


def test_if_the_older_one_is_damaged_the_newest_is_used_and_nothing_of_the_log_may_go(rig):
    rig.write(10, 20)
    rig.damage(10)
    assert rig.load() == 20
    assert rig.kept == ["10.snap.damaged", "20.snap"]
    assert rig.shelf.log_is_needed_behind == 0


def test_if_both_are_damaged_there_is_none(rig):
    rig.write(10, 20)
    rig.damage(10)
    rig.damage(20)
    assert rig.load() == 0
    assert rig.events() == [20, 10]
    assert rig.kept == ["10.snap.damaged", "20.snap.damaged"]


def test_more_than_two_are_not_kept(rig):
    """A compactor that was killed right after the renaming leaves one that nobody has heard of."""
    rig.write(10, 20, 30, 40)
    assert rig.load() == 40
    assert rig.kept == ["30.snap", "40.snap"]


def test_an_older_third_one_is_used_if_one_of_the_two_is_damaged(rig):
    rig.write(10, 20, 30)
    rig.damage(30)
    assert rig.load() == 20
    assert rig.shelf.log_is_needed_behind == 10


def test_a_snapshot_of_a_newer_format_is_refused_and_stays_as_it_is(rig, monkeypatch):
    monkeypatch.setattr(snapshot_format, "SNAPSHOT_VERSION", 2)
    rig.write(20)
    monkeypatch.undo()
    rig.write(10)
    with pytest.raises(AssertionError, match="UnsupportedVersion"):
        rig.load()
    assert rig.kept == ["10.snap", "20.snap"]


def test_a_state_of_a_newer_machine_is_refused_and_stays_as_it_is(rig, monkeypatch):
    rig.write(10, 20)
    monkeypatch.setattr(restoration, "MACHINE_VERSION", 0)
    with pytest.raises(AssertionError, match="NewerState"):
        rig.load()
    assert rig.kept == ["10.snap", "20.snap"]
    assert rig.events() == []


def test_those_errors_are_refusals_of_the_process():
    from cluster.broker.process import EXIT_STATUS
    from cluster.node_report import EXIT_OPERATOR
    from cluster.peer.actor import RaftPeer

    for error in (NewerState, OlderState, UnsupportedVersion):
        assert EXIT_STATUS[error.__name__] == EXIT_OPERATOR
        assert issubclass(error, RaftPeer.refusals)


def test_what_was_never_finished_is_cleared_away(rig):
    rig.write(10)
    files = rig.disk.mount(pid=-1)
    files.open(f"{DIRECTORY}/{20:016d}.part", create=True).pwrite((b"x",), 0)
    assert rig.load() == 10
    assert rig.kept == ["10.snap"]


# -- new ones ---------------------------------------------------------------------------------------------------------


def test_the_third_snapshot_takes_the_place_of_the_first(rig):
    rig.load()
    needed = []
    for index in (10, 20, 30):
        rig.add(index)
        needed.append(rig.shelf.log_is_needed_behind)
    assert needed == [0, 10, 20]
    assert rig.kept == ["20.snap", "30.snap"]


def test_one_from_elsewhere_takes_the_place_of_all(rig):
    rig.load()
    rig.add(10)
    rig.add(20)
    rig.add(50, alone=True)
    assert rig.shelf.indexes == [50]
    assert rig.shelf.log_is_needed_behind == 0
    assert rig.kept == ["10.snap", "20.snap", "50.snap"], "a start may still find the log behind them"
    rig.do(rig.shelf.clear)
    assert rig.kept == ["50.snap"]


def test_one_that_nobody_spoke_of_goes_with_the_next(rig):
    rig.load()
    rig.add(10)
    rig.write(15)
    rig.add(20)
    assert rig.kept == ["10.snap", "20.snap"]


def test_a_newer_one_that_is_just_arriving_is_not_cleared_away(rig):
    rig.load()
    rig.write(90)
    rig.add(20)
    assert rig.kept == ["20.snap", "90.snap"]


def test_whoever_reads_a_snapshot_reads_on_when_it_is_removed(rig):
    rig.load()
    rig.add(10)
    file: SnapshotFile = rig.do(rig.shelf.open_newest)
    rig.add(20)
    rig.add(30)
    assert rig.kept == ["20.snap", "30.snap"]
    rig.do(file.verify)
    assert file.meta.index == 10


# -- damage that is found later --------------------------------------------------------------------------------------


def test_one_that_cannot_be_opened_any_more_makes_room_for_the_older_one(rig):
    rig.load()
    rig.add(10)
    rig.add(20)
    rig.damage(20, 20)
    assert rig.do(rig.shelf.open_newest) is None
    assert rig.do(rig.shelf.open_newest).meta.index == 10
    assert rig.kept == ["10.snap", "20.snap.damaged"]
    assert rig.shelf.log_is_needed_behind == 0
    rig.add(30)
    assert rig.shelf.log_is_needed_behind == 10


@pytest.mark.parametrize("offset", [20, -10])
def test_one_that_the_medium_has_lost_since_makes_room_for_the_older_one(rig, monkeypatch, offset):
    rig.load()
    rig.add(10)
    rig.add(20)
    lose(monkeypatch, 20, offset if offset > 0 else rig.shelf.newest_size + offset)
    assert rig.do(rig.shelf.open_newest) is None
    assert rig.do(rig.shelf.open_newest).meta.index == 10
    assert rig.kept == ["10.snap", "20.snap.damaged"]
    assert rig.events() == [20]


def test_setting_one_aside_twice_is_said_once(rig):
    rig.load()
    rig.add(10)
    rig.add(20)
    for _ in range(2):
        rig.do(lambda: rig.shelf.set_aside(20, "a bit"))
    assert rig.events() == [20]
    assert rig.shelf.newest.index == 10


def test_a_file_is_taken_only_if_it_is_the_one_that_was_meant(rig):
    rig.load()
    rig.write(10)
    meta, size = meta_of(machine_at(10)), len(rig.disk.read(path_of(10)))
    is_there = rig.shelf.is_there
    assert rig.do(lambda: is_there(meta, size)) == ""
    assert "not the one that was planned" in rig.do(lambda: is_there(meta, size + 1))
    assert rig.do(lambda: is_there(meta_of(machine_at(11)), size))
    rig.damage(10, 20)
    assert "use another snapshot" in rig.do(lambda: is_there(meta, size))
