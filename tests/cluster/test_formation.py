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
    assert formed.heard("y", FORMED, OTHER) == [Foreign("y", OTHER)]


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


# -- every order of events --------------------------------------------------------------------------------------------


def explore(world: FormationWorld, states_max: int) -> int:
    """All worlds that can be reached; each is also asked whether it comes to its end."""
    seen = {world.key()}
    frontier = [(world, ())]
    while frontier:
        world, path = frontier.pop()
        for step in world.steps():
            after = world.copy()
            try:
                after.do(step)
                after.copy().settle()
            except AssertionError as error:
                raise AssertionError(f"{error}; after {[*path, step]}") from error
            if after.key() not in seen:
                seen.add(after.key())
                frontier.append((after, (*path, step)))
                assert len(seen) < states_max, "the model grew"
    return len(seen)
