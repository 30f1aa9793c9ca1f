"""The property that compaction rests on: replay with any snapshot equals full replay. Through the files: the real log
with truncations, the real compactor at random moments, losses of power, and starts from what is on the disk then.

And the other side: a plan that is wrong is never carried out.
"""

from random import Random

import pytest
from compaction_node import DIRECTORY, Node, restored
from msgspec import structs

from cluster.compaction.compactor import BaseDamaged, OtherState, compact, not_written
from cluster.compaction.messages import NotWritten, Plan, StillAtWork
from cluster.storage.errors import UnreadablePiece
from cluster.storage.snapshots import SnapshotFile, remove_snapshot

ENTRIES = 260


@pytest.mark.parametrize("seed", range(16))
def test_replay_with_any_snapshot_equals_full_replay(seed):
    node, random = Node(seed, ENTRIES), Random(seed)
    while not node.is_over:
        node.go_on(random.randint(1, 9))
        luck = random.random()
        if luck < 0.25:
            node.compact()
            for index in node.snapshots:
                assert node.restored(index).full_digest() == node.full[index]
                machine = node.replayed(index)
                machine.check()
                assert machine.full_digest() == node.full[node.applied]
                assert machine.rolling == node.machine.rolling
        elif luck < 0.4:
            node.crash()
    assert node.wal.first_index > 1, "the log was cut"


@pytest.mark.parametrize("seed", range(4))
def test_a_compactor_that_dies_at_any_step_has_changed_nothing(seed):
    node = Node(seed, 120)
    node.go_on(50)
    node.compact()
    node.go_on(50)
    before = node.snapshots
    plan = node.plan()
    steps = sum(1 for _ in compact(node.files, plan))
    remove_snapshot(node.files, DIRECTORY, plan.meta.index)
    for deadly in range(1, steps):
        work = compact(node.files, plan)
        for _ in range(deadly):
            assert isinstance(next(work), StillAtWork)
        node.disk.crash()
        node.mount()
        machine = node.open()
        assert node.snapshots == before
        node.apply_log(machine)
        assert machine.full_digest() == node.full[node.applied]
        plan = node.plan()
    node.compact()
    assert node.snapshots == [node.applied, *before]


# -- wrong plans ------------------------------------------------------------------------------------------------------


def prepared() -> tuple[Node, Plan]:
    """A snapshot in the middle, a truncation behind it, and the plan of the next snapshot."""
    node = Node(6, 200)
    while node.applied < 80:
        node.go_on(8)
    node.compact()
    term = node.term
    while node.applied < 160 or node.term < term + 3:
        node.go_on(8)
    return node, node.plan()


def refuses(node: Node, plan: Plan, *error: type[Exception]) -> None:
    before = node.snapshots
    with pytest.raises(error):
        list(compact(node.files, plan))
    assert node.snapshots == before
    assert not [path for path in node.disk.paths() if path.endswith(".part")]


def test_a_plan_whose_last_piece_ends_one_too_early_is_refused():
    node, plan = prepared()
    *pieces, last = plan.pieces
    refuses(node, structs.replace(plan, pieces=[*pieces, last._replace(last=last.last - 1)]), OtherState)


def test_a_plan_that_names_an_entry_that_was_overwritten_is_refused():
    """Behind each truncation the frames before it still hold what never was committed."""
    node, plan = prepared()
    wrong = 0
    for position, piece in enumerate(plan.pieces[:-1]):
        longer = piece._replace(last=piece.last + 1)
        following = plan.pieces[position + 1]
        pieces = [*plan.pieces[:position], longer, following._replace(first=following.first + 1)]
        wrong += 1
        pieces += plan.pieces[position + 2 :]
        refuses(node, structs.replace(plan, pieces=pieces), UnreadablePiece, OtherState)
    assert wrong


def test_a_plan_that_begins_one_too_late_is_refused():
    node, plan = prepared()
    first, *pieces = plan.pieces
    with pytest.raises((AssertionError, OtherState)):
        list(compact(node.files, structs.replace(plan, pieces=[first._replace(first=first.first + 1), *pieces])))


def test_a_plan_with_another_base_is_refused():
    node, plan = prepared()
    with pytest.raises((AssertionError, OtherState)):
        list(compact(node.files, structs.replace(plan, base=0)))


def test_a_state_that_differs_from_the_brokers_is_not_written():
    node, plan = prepared()
    meta = structs.replace(plan.meta, rolling=plan.meta.rolling ^ 1)
    refuses(node, structs.replace(plan, meta=meta), OtherState)


def test_a_damaged_snapshot_to_begin_with_is_told_from_other_failures():
    node, plan = prepared()
    node.disk.flip_bit(f"{DIRECTORY}/{plan.base:016d}.snap", 5_000)
    with pytest.raises(BaseDamaged) as caught:
        list(compact(node.files, plan))
    assert not_written(caught.value) == NotWritten(f"BaseDamaged: {caught.value}", is_base_damaged=True)
    assert not not_written(OSError(28, "full")).is_base_damaged


def test_segments_that_are_recycled_while_they_are_read_end_the_work_and_never_change_the_outcome():
    """A snapshot from elsewhere was installed meanwhile: the whole log leaves, its files are used again."""
    outcomes = set()
    for pause in range(1, 60, 4):
        node, plan = prepared()
        work = compact(node.files, plan)
        try:
            for _ in range(pause):
                next(work)
            node.wal.restart(plan.meta.index, plan.meta.term)
            for number in range(40):
                node.append(plan.meta.index + 1 + number, [b"x" * 3_000])
            list(work)
        except StopIteration:
            break
        except UnreadablePiece:
            outcomes.add("refused")
            continue
        outcomes.add("written")
        file = SnapshotFile.open(node.files, DIRECTORY, plan.meta.index)
        assert restored(file.parts()).full_digest() == node.full[plan.meta.index]
    assert outcomes == {"refused", "written"}
