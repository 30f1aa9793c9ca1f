"""What is wrong with an image is a typed error, whatever it is."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest
from image_rig import assert_equal, restore
from random_stream import Stream
from state_rig import Rig

from cluster.state import image
from cluster.state.commands import (
    MACHINE_VERSION,
    OUTCOME_CRASHED,
)
from cluster.state.errors import ImageDamaged, NewerState, OlderState
from cluster.state.restoration import Restoration
from cluster.state.rows import Section
from cluster.state.tasks import CRASHES_MAX


@pytest.fixture(scope="module")
def parts() -> list[bytes]:
    stream = Stream(3)
    stream.run(200, check=False)
    made = list(stream.machine.image())
    assert len(made) > 10
    return made


def test_an_image_without_its_end_is_damaged_wherever_it_is_cut(parts):
    for kept in range(len(parts)):
        with pytest.raises(ImageDamaged, match="ends before its last part") as damaged:
            restore(parts[:kept])
        assert damaged.value.where == f"part {kept}"


def test_a_missing_a_repeated_and_a_swapped_part_are_damage(parts):
    for place in range(len(parts) - 1):
        swapped = [*parts[:place], parts[place + 1], parts[place], *parts[place + 2 :]]
        for wrong in (parts[:place] + parts[place + 1 :], [*parts[: place + 1], *parts[place:]], swapped):
            with pytest.raises(ImageDamaged, match="missing, repeated or swapped") as damaged:
                restore(wrong)
            assert "discard it" in str(damaged.value)


def test_a_part_after_the_end_is_damage(parts):
    with pytest.raises(ImageDamaged, match="after the last one"):
        restore([*parts, parts[-1]])


def test_nothing_is_taken_after_a_part_was_refused(parts):
    restoration = Restoration()
    restoration.add(parts[0])
    with pytest.raises(ImageDamaged):
        restoration.add(b"\xc1")
    with pytest.raises(ImageDamaged, match="before it was refused"):
        restoration.add(parts[1])
    with pytest.raises(ImageDamaged):
        restoration.finish()


def test_every_part_cut_short_is_damage(parts):
    for place, part in enumerate(parts):
        for length in {0, 1, len(part) // 2, len(part) - 1}:
            with pytest.raises(ImageDamaged):
                restore([*parts[:place], part[:length], *parts[place + 1 :]])


@pytest.mark.parametrize("seed", range(300))
def test_altered_and_random_bytes_are_damage_and_nothing_else(parts, seed):
    """The checksum at the end sees what could be read; an altered version may say that it is newer, or older."""
    random = Random(seed)
    place = random.randrange(len(parts))
    part = bytearray(parts[place])
    if random.random() < 0.1:
        part = bytearray(random.randbytes(random.randrange(200)))
    else:
        for _ in range(random.choice((1, 1, 5))):
            part[random.randrange(len(part))] ^= random.randrange(1, 256)
    with pytest.raises((ImageDamaged, NewerState, OlderState)):
        restore([*parts[:place], bytes(part), *parts[place + 1 :]])


def test_a_newer_image_is_refused_by_its_first_part(rig: Rig, monkeypatch):
    monkeypatch.setattr(image, "IMAGE_VERSION", image.IMAGE_VERSION + 1)
    first = next(rig.leader.image())
    with pytest.raises(NewerState, match="start this broker with the newer release") as newer:
        Restoration().add(first)
    assert newer.value.version == image.IMAGE_VERSION


def test_a_newer_machine_is_refused_whatever_else_its_first_part_says():
    first = msgspec.msgpack.encode([0, 0, [[1, MACHINE_VERSION + 1, "quite", "different"]]])
    with pytest.raises(NewerState, match="machine version") as newer:
        Restoration().add(first)
    assert newer.value.version == MACHINE_VERSION + 1


def test_an_older_image_whose_rows_are_shorter_is_read(rig: Rig):
    """Rows grow by appended fields with defaults: what an older release did not write has the default."""
    client = rig.client()
    client.submit(count=3)
    shorter = []
    crc = 0
    for part in rig.leader.image():
        section, number, rows = msgspec.msgpack.decode(part)
        if section == Section.TASKS:
            rows = [row[:6] for row in rows]
        if section == Section.END:
            rows = [[number, crc]]
        shorter.append(msgspec.msgpack.encode([section, number, rows]))
        crc = image.crc32(shorter[-1], crc)
    assert_equal(restore(shorter), rig.leader)


def older(parts: list[bytes], edit: Callable[[int, list[list[object]]], list[list[object]]]) -> list[bytes]:
    """The image as version 2, with the rows of each section edited."""
    written: list[bytes] = []
    crc = 0
    for part in parts:
        section, _, rows = msgspec.msgpack.decode(part)
        if section == Section.HEAD:
            rows[0][0] = 2
        rows = [[len(written), crc]] if section == Section.END else edit(section, rows)
        if rows:
            written.append(msgspec.msgpack.encode([section, len(written), rows]))
            crc = image.crc32(written[-1], crc)
    return written


def test_an_image_of_version_2_is_read_where_defaults_do(rig: Rig):
    client, worker = rig.client(), rig.worker(labels=("gpu",))
    client.submit(count=3)
    worker.complete(worker.inbox[0])
    assert_equal(restore(older(list(rig.leader.image()), lambda section, rows: rows)), rig.leader)


def test_dead_tasks_of_an_image_of_version_2_are_listed(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    for _ in range(CRASHES_MAX):
        worker.end(worker.inbox[0], OUTCOME_CRASHED)
    parts = older(list(rig.leader.image()), lambda section, rows: [] if section == Section.DEAD else rows)
    restored = restore(parts)
    assert list(restored._tables.retention.dead) == [task]
    restored.check()
    assert_equal(restored, rig.leader)


def test_an_image_of_version_2_whose_pools_differ_only_in_labels_is_refused_and_says_so(rig: Rig):
    rig.worker("w1", labels=("gpu",))
    rig.worker("w2")
    parts = older(list(rig.leader.image()), lambda section, rows: rows[:1] if section == Section.POOLS else rows)
    with pytest.raises(OlderState, match=r"older version: its image version is 2, .* the pool of worker w2") as refused:
        restore(parts)
    assert (refused.value.version, refused.value.known) == (2, image.IMAGE_VERSION)
