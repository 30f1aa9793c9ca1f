"""How an empty cluster comes into being, once: single steps, every order of events, and lost disks."""

import random

import pytest
from formation_explorer import NAMES, FormationWorld

from cluster.peer.formation import (
    EMPTY,
    FORMED,
    STORED,
    Announce,
    Begin,
    Foreign,
    Formation,
    Quarantine,
    SendForm,
    Store,
)

ID, OTHER = b"i" * 16, b"o" * 16


def broker(*, first: bool = False, cluster_id: bytes | None = None, has_log: bool = False) -> Formation:
    return Formation.resume(
        is_first=first, peers=("x", "y"), fresh_id=b"fresh", cluster_id=cluster_id, has_log=has_log
    )


def test_the_first_broker_picks_an_id_when_all_others_are_empty():
    first = broker(first=True)
    assert first.start() == [Announce()]
    assert first.heard("x", EMPTY, b"") == []
    assert first.heard("y", EMPTY, b"") == [Store(b"fresh")]
    assert first.stored(b"fresh", quarantined=False) == [Announce(), SendForm(b"fresh")]


def test_nobody_but_the_first_picks_an_id():
    other = broker()
    assert other.start() == [Announce()]
    assert other.heard("x", EMPTY, b"") == []
    assert other.heard("y", EMPTY, b"") == []


def test_the_others_store_what_the_first_asks_for_once_they_know_that_nobody_has_formed():
    """Otherwise a broker that lost its disk could be asked by a first broker that has seen nothing yet."""
    other = broker()
    assert other.heard("x", STORED, ID) == []
    assert other.asked(ID) == []
    assert other.heard("y", EMPTY, b"") == [Store(ID)]
    assert other.asked(ID) == [Announce()]
    assert other.stored(ID, quarantined=False) == [Announce()]


def test_elections_begin_when_all_have_stored():
    broker_ = broker(cluster_id=ID)
    assert broker_.phase == STORED
    assert broker_.heard("x", STORED, ID) == []
    assert broker_.heard("y", STORED, ID) == [Begin(ID), Announce()]
    assert broker_.heard("x", FORMED, ID) == []


def test_who_has_stored_begins_when_another_has_begun():
    broker_ = broker(cluster_id=ID)
    assert broker_.heard("x", FORMED, ID) == [Begin(ID), Announce()]


def test_a_former_attempt_of_the_first_broker_stands():
    first = broker(first=True)
    first.heard("x", STORED, ID)
    assert first.heard("y", EMPTY, b"") == [Store(ID)]


def test_a_broker_with_a_log_begins_at_once():
    assert broker(cluster_id=ID, has_log=True).start() == [Begin(ID), Announce()]


def test_a_single_broker_forms_alone():
    alone = Formation.resume(is_first=True, peers=(), fresh_id=ID, cluster_id=None, has_log=False)
    assert alone.start() == [Announce(), Store(ID)]
    assert alone.stored(ID, quarantined=False) == [Announce(), SendForm(ID), Begin(ID), Announce()]


@pytest.mark.parametrize("first", [True, False])
def test_an_empty_broker_that_hears_of_a_formed_cluster_is_quarantined(first):
    emptied = broker(first=first)
    assert emptied.heard("x", FORMED, ID) == [Quarantine(ID)]
    assert emptied.heard("y", FORMED, ID) == []
    assert emptied.stored(ID, quarantined=True) == [Begin(ID), Announce()]


def test_an_emptied_broker_that_is_asked_to_store_waits_for_what_the_third_says():
    emptied = broker()
    emptied.heard("x", STORED, ID)
    assert emptied.asked(ID) == []
    assert emptied.heard("y", FORMED, ID) == [Quarantine(ID)]


def test_brokers_of_two_clusters_do_not_mix():
    broker_ = broker(cluster_id=ID)
    assert broker_.heard("x", STORED, OTHER) == [Foreign("x", OTHER)]
    assert broker_.asked(OTHER) == [Foreign("the first broker", OTHER)]
    formed = broker(cluster_id=ID, has_log=True)
    assert formed.heard("y", FORMED, OTHER) == [], "one stranger must not stop a cluster that runs"


def test_an_id_that_came_up_elsewhere_while_storing_is_seen_afterwards():
    """A disk of another cluster, or a first broker that lost its own in between."""
    first = broker(first=True)
    first.heard("x", EMPTY, b"")
    assert first.heard("y", EMPTY, b"") == [Store(b"fresh")]
    assert first.heard("x", STORED, OTHER) == []
    assert Foreign("x", OTHER) in first.stored(b"fresh", quarantined=False)


def test_a_new_link_is_told_again():
    assert broker().linked() == [Announce()]
    assert broker(first=True, cluster_id=ID).linked() == [Announce(), SendForm(ID)]
    assert broker(first=True, cluster_id=ID, has_log=True).linked() == [Announce()]


# -- any order of events ----------------------------------------------------------------------------------------------

WALKS = 400
STEPS_MAX = 120
CALM = ("start", "persist", "deliver", "link")
RARE = {"crash": 2, "crash after the write": 4, "lose the disk": 4, "campaign": 3, "vote": 3}


def walk(chance: random.Random, world: FormationWorld) -> None:
    """A random course; most steps are what must happen, in any order."""
    weights = {kind: weight * chance.choice((1, 1, 5)) for kind, weight in RARE.items()}
    path = []
    try:
        for _ in range(STEPS_MAX):
            steps = world.steps()
            if not steps:
                break
            step = chance.choices(steps, [weights.get(step[0], 10) for step in steps])[0]
            path.append(step)
            world.do(step)
        world.settle()
    except AssertionError as error:
        raise AssertionError(f"{error}; after {path}") from error


def formed(chance: random.Random) -> FormationWorld:
    """All have begun; nobody has stood for election yet."""
    world = FormationWorld(crashes=0, wipes=0)
    while steps := [step for step in world.steps() if step[0] in CALM]:
        world.do(chance.choice(steps))
    world.crashes, world.wipes = 4, 1
    return world


@pytest.mark.parametrize("part", range(4))
def test_whatever_the_order_one_cluster_forms_and_all_join_it(part):
    for number in range(WALKS):
        walk(random.Random(f"calm {part} {number}"), FormationWorld(crashes=0, wipes=0))


@pytest.mark.parametrize("part", range(4))
def test_a_formation_that_crashes_interrupt_anywhere_resumes(part):
    for number in range(WALKS):
        walk(random.Random(f"crashes {part} {number}"), FormationWorld(crashes=5, wipes=0))


@pytest.mark.parametrize("part", range(8))
def test_a_broker_that_loses_its_disk_at_any_time_never_counts_for_what_it_has_forgotten(part):
    for number in range(WALKS):
        walk(random.Random(f"wipes {part} {number}"), FormationWorld(crashes=5, wipes=1))


@pytest.mark.parametrize("part", range(8))
def test_a_broker_that_loses_its_disk_after_the_first_votes_never_counts_either(part):
    """The others may have forgotten that they began: only who took part in an election knows it from the disk."""
    for number in range(WALKS):
        chance = random.Random(f"formed {part} {number}")
        walk(chance, formed(chance))


@pytest.mark.parametrize("seed", range(3))
def test_each_broker_may_crash_after_each_step_of_a_formation(seed):
    """One course without crashes, taken again once for each step, broker and kind of crash."""
    chance = random.Random(f"course {seed}")
    world, course = FormationWorld(crashes=0, wipes=0), []
    while steps := [step for step in world.steps() if step[0] in CALM]:
        course.append(chance.choice(steps))
        world.do(course[-1])
    assert all(world.lives[name].begun for name in NAMES)
    crashes = 0
    for position in range(1, len(course) + 1):
        world = FormationWorld(crashes=1, wipes=1)
        for step in course[:position]:
            world.do(step)
        for step in world.steps():
            if step[0] in RARE:
                crashed = world.copy()
                crashed.do(step)
                crashed.settle()
                crashes += 1
    assert crashes > 2 * len(course)
