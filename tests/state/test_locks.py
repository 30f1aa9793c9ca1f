"""Locks in the replicated state: who is granted what, in which order, and how it ends."""

from collections.abc import Callable

import pytest
from state_rig import Client, Rig

from cluster.state import lock_search
from cluster.state import locks as module
from cluster.state.commands import (
    HOLD_MS_MAX,
    HOLD_MS_MIN,
    LOCK_LIMIT_MAX,
    LOCK_NOTE_BYTES_MAX,
    RELEASE_CLAIMS_MAX,
    ROLE_CLIENT,
    TURN_MS_MAX,
    Acquire,
    Close,
    Expire,
    Extend,
    Lapse,
    Register,
    Release,
    Submit,
    TaskGroup,
)
from cluster.state.effects import (
    ANSWER_BUSY,
    ANSWER_CROWDED,
    ANSWER_LOST,
    ANSWER_OK,
    ANSWER_OTHER_LIMIT,
    ANSWER_REFUSED,
    CLAIM_OVER,
    CLAIM_REPLACED,
    CLAIM_WANTED,
    Answer,
    ClaimNews,
)
from cluster.state.lock_rows import HOLDERS_SHOWN
from cluster.state.lock_search import LockSearch
from cluster.state.texts import NAME_BYTES_MAX

HOLD_MS = 30_000


class Contender:
    """A client's session and its claims."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.client: Client = rig.client(name)
        self.session = self.client.session
        self.number = 0

    def claim(
        self, lock: str = "a", units: int = 1, limit: int = 1, hold_ms: int = HOLD_MS, **terms: object
    ) -> Acquire:
        """The next Acquire, to be applied."""
        self.number += 1
        self.client.seq += 1
        seq = self.client.seq - 1
        return Acquire(self.session, seq, seq, self.number, lock, units, limit, hold_ms, **terms)  # type: ignore[arg-type]

    def acquire(self, lock: str = "a", units: int = 1, limit: int = 1, **terms: object) -> int:
        """The fence, 0 if it waits."""
        (answer,) = self.rig.apply(self.claim(lock, units, limit, **terms)).answers  # type: ignore[arg-type]
        assert answer.code == ANSWER_OK
        return answer.value

    def id(self, number: int = 0) -> int:
        """Of its last claim, or of an earlier one."""
        return self.session << 24 | (number or self.number)

    def release(self, *claims: int, rest_ms: int = 0) -> int:
        """How many ended; without claims the last one."""
        seq = self.client.seq
        answer = self.client.send(Release(self.session, seq, seq, list(claims) or [self.id()], rest_ms))
        assert answer.code == ANSWER_OK
        return answer.value

    def extend(self, claim: int, hold_ms: int, at_most_ms: int = 0) -> Answer:
        return self.client.send(Extend(self.session, self.client.seq, self.client.seq, claim, hold_ms, at_most_ms))

    def close(self) -> None:
        self.client.close()

    def news(self) -> list[ClaimNews]:
        """Of the last entry."""
        return self.rig.effects.claims.get(self.session, [])


@pytest.fixture
def contend(rig: Rig) -> Callable[[str], Contender]:
    return lambda name: Contender(rig, name)


def holders(rig: Rig, lock: str = "a") -> list[str]:
    return [holder.client for holder in rig.leader.locks.row(lock).holders]


# -- grants --------------------------------------------------------------------------------------------------


def test_what_is_free_is_granted_at_once_under_the_next_fence(contend):
    one = contend("one")
    assert one.acquire("a") == 1
    assert one.acquire("b") == 2
    assert one.news() == [], "the answer says it"


def test_who_waits_is_granted_in_order_within_the_entry_that_frees_the_lock(rig, contend):
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire()
    assert two.acquire() == three.acquire() == 0
    assert one.release() == 1
    assert two.news() == [ClaimNews(two.id(), 2)] and three.news() == []
    assert two.release() == 1
    assert three.news() == [ClaimNews(three.id(), 3)]
    assert holders(rig) == ["three"]


def test_who_does_not_wait_is_told_that_it_is_busy_and_leaves_no_claim(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    (answer,) = rig.apply(two.claim(waits=False)).answers
    assert answer.code == ANSWER_BUSY
    one.release()
    assert two.news() == [] and rig.leader.locks.by_name == {}
    assert two.acquire(waits=False) == 2


def test_nobody_passes_those_who_wait_not_even_by_a_try_that_would_fit(rig, contend):
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire("s", 1, 2)
    assert two.acquire("s", 2, 2) == 0
    (answer,) = rig.apply(three.claim("s", 1, 2, waits=False)).answers
    assert answer.code == ANSWER_BUSY
    assert three.acquire("s", 1, 2) == 0


def test_a_client_may_hold_one_name_twice_only_if_the_lock_has_room(rig, contend):
    one = contend("one")
    assert one.acquire() == 1
    assert one.acquire() == 0
    one.release(one.id(1))
    assert one.news() == [ClaimNews(one.id(2), 2)]


def test_a_lock_that_nobody_claims_is_forgotten_and_its_fences_still_rise(rig, contend):
    one = contend("one")
    one.acquire()
    one.release()
    assert rig.leader.locks.by_name == {} and rig.leader.locks.claims == {}
    assert one.acquire() == 2


# -- more than one unit --------------------------------------------------------------------------------------


def test_a_semaphore_has_as_many_holders_as_units(rig, contend):
    contenders = [contend(f"c{number}") for number in range(5)]
    fences = [contender.acquire("pool", 1, 3) for contender in contenders]
    assert fences == [1, 2, 3, 0, 0]
    contenders[1].release()
    assert contenders[3].news() == [ClaimNews(contenders[3].id(), 4)] and contenders[4].news() == []
    assert holders(rig, "pool") == ["c0", "c2", "c3"]


def test_readers_share_writers_do_not_and_a_writer_that_waits_is_not_passed(rig, contend):
    readers = [contend(f"r{number}") for number in range(3)]
    writer = contend("w")
    assert [reader.acquire("rw", 1, LOCK_LIMIT_MAX) for reader in readers[:2]] == [1, 2]
    assert writer.acquire("rw", LOCK_LIMIT_MAX, LOCK_LIMIT_MAX) == 0
    assert readers[2].acquire("rw", 1, LOCK_LIMIT_MAX) == 0
    readers[0].release()
    assert holders(rig, "rw") == ["r1"]
    readers[1].release()
    assert holders(rig, "rw") == ["w"]
    writer.release()
    assert holders(rig, "rw") == ["r2"]


def test_one_release_grants_to_all_readers_that_stand_in_front(rig, contend):
    writer, late = contend("w"), contend("late")
    readers = [contend(f"r{number}") for number in range(3)]
    writer.acquire("rw", 9, 9)
    for reader in readers:
        reader.acquire("rw", 1, 9)
    late.acquire("rw", 9, 9)
    writer.release()
    assert holders(rig, "rw") == ["r0", "r1", "r2"]


def test_a_lock_in_use_with_another_limit_is_refused_and_says_which(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire("a", 1, 3)
    (answer,) = rig.apply(two.claim("a", 1, 1)).answers
    assert (answer.code, answer.value) == (ANSWER_OTHER_LIMIT, 3)
    one.release()
    assert two.acquire("a", 1, 1) == 2


# -- ends ----------------------------------------------------------------------------------------------------


def test_a_release_of_what_is_anothers_does_nothing(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    two.acquire()
    assert two.release(one.id()) == 0
    assert holders(rig) == ["one"]


def test_a_release_that_is_said_again_does_nothing_and_is_answered_alike(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    two.acquire()
    release = Release(one.session, one.client.seq, one.client.seq - 1, [one.id()])
    (first,) = rig.apply(release).answers
    (again,) = rig.apply(release).answers
    assert first == again and again.value == 1
    assert holders(rig) == ["two"]


def test_who_gives_up_waiting_is_not_granted_any_more(rig, contend):
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire()
    two.acquire()
    three.acquire()
    assert two.release() == 1
    one.release()
    assert two.news() == [] and holders(rig) == ["three"]


def test_a_head_that_gives_up_lets_those_behind_it_in_at_once(rig, contend):
    reader, writer, other = contend("reader"), contend("writer"), contend("other")
    reader.acquire("rw", 1, 9)
    writer.acquire("rw", 9, 9)
    other.acquire("rw", 1, 9)
    writer.release()
    assert other.news() == [ClaimNews(other.id(), 2)]


@pytest.mark.parametrize("end", ["close", "expire", "another incarnation"])
def test_a_session_that_ends_frees_what_it_held_in_the_same_entry(rig, contend, end):
    one, two = contend("one"), contend("two")
    one.acquire()
    two.acquire()
    ends = {
        "close": Close(one.session, 1),
        "expire": Expire(one.session, 1),
        "another incarnation": Register("one", 2, ROLE_CLIENT),
    }
    rig.apply(ends[end])
    assert two.news() == [ClaimNews(two.id(), 2)] and holders(rig) == ["two"]


def test_a_waiter_whose_session_has_ended_is_never_granted(rig, contend):
    """etcd issue 11457: the lease of a waiter was not looked at again when its turn came."""
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire()
    two.acquire()
    three.acquire()
    rig.apply(Expire(two.session, 1))
    one.release()
    assert holders(rig) == ["three"]


def test_a_session_that_holds_and_waits_for_the_same_lock_grants_nothing_to_itself_when_it_ends(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    one.acquire()
    two.acquire()
    rig.apply(Expire(one.session, 1))
    assert holders(rig) == ["two"] and rig.leader.locks.fences == 2


def test_a_lapse_ends_a_claim_tells_its_client_and_grants_to_the_next(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    two.acquire()
    rig.apply(Lapse([one.id(), 0]))
    assert one.news() == [ClaimNews(one.id(), 0)] and two.news() == [ClaimNews(two.id(), 2)]
    assert one.release() == 0


def test_a_lapse_of_what_waits_ends_that_too(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    two.acquire()
    rig.apply(Lapse([two.id(), 0]))
    assert two.news() == [ClaimNews(two.id(), 0)]
    one.release()
    assert rig.leader.locks.by_name == {}


def test_a_lapse_that_was_judged_by_an_older_term_of_the_claim_is_void(rig, contend):
    one = contend("one")
    one.acquire()
    assert one.extend(one.id(), 60_000).value == 1
    rig.apply(Lapse([one.id(), 0], [one.id(), 0]))
    assert holders(rig) == ["one"]
    rig.apply(Lapse([one.id(), 1, 999, 0, one.id()]))
    assert holders(rig) == []


def test_an_extend_of_what_the_session_does_not_have_says_that_it_is_lost(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire()
    assert two.extend(one.id(), HOLD_MS).code == ANSWER_LOST
    rig.apply(Lapse([one.id(), 0]))
    assert one.extend(one.id(), HOLD_MS).code == ANSWER_LOST


# -- turns ---------------------------------------------------------------------------------------------------


def test_a_turn_that_is_over_ends_and_its_client_is_told_why(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire(at_most_ms=5_000)
    two.acquire()
    assert list(rig.leader.locks.bounded) == [1]
    rig.apply(Lapse([], [one.id(), 0]))
    assert one.news() == [ClaimNews(one.id(), 0, CLAIM_OVER)] and holders(rig) == ["two"]


def test_an_extension_of_a_turn_gives_it_other_terms(rig, contend):
    one = contend("one")
    one.acquire(at_most_ms=5_000)
    one.extend(one.id(), 0, 9_000)
    rig.apply(Lapse([], [one.id(), 0]))
    (holder,) = rig.leader.locks.row("a").holders
    assert (holder.at_most_ms, rig.leader.locks.claims[one.id()].hold_ms) == (9_000, HOLD_MS)


def test_a_turn_that_was_short_rests_and_keeps_everybody_out_until_the_leader_says_so(rig, contend):
    one, two = contend("one"), contend("two")
    fence = one.acquire()
    two.acquire()
    assert one.release(rest_ms=4_000) == 1
    (holder,) = rig.leader.locks.row("a").holders
    assert holder.rests and two.news() == []
    assert submit(one.client, fence).code == ANSWER_LOST, "it is held by nobody"
    assert one.release() == 0 and one.extend(one.id(), HOLD_MS).code == ANSWER_LOST
    one.close()
    assert [holder.client for holder in rig.leader.locks.row("a").holders] == [""], "a rest outlives its session"
    rig.apply(Lapse([], [one.id(), 0]))
    assert two.news() == [], "judged before it rested"
    rig.apply(Lapse([], [one.id(), 1]))
    assert two.news() == [ClaimNews(two.id(), 2)]


def test_only_what_was_held_of_a_mutex_rests(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire("pool", 1, 2)
    one.release(rest_ms=4_000)
    assert rig.leader.locks.by_name == {}
    one.acquire()
    two.acquire()
    two.release(rest_ms=4_000)
    one.release()
    assert rig.leader.locks.by_name == {}


def test_a_turn_is_refused_while_as_many_as_there_may_be_are_held_or_rest(rig, contend, monkeypatch):
    """Never granted without the rest that it asks for in its end."""
    monkeypatch.setattr(module, "TURNS_MAX", 2)
    one, two = contend("one"), contend("two")
    one.acquire("a", at_most_ms=5_000)
    one.release(rest_ms=4_000)
    one.acquire("b", at_most_ms=5_000)
    (answer,) = rig.apply(two.claim("c", at_most_ms=5_000)).answers
    assert (answer.code, answer.value) == (ANSWER_CROWDED, 2)
    assert two.acquire("d") > 0, "one that is not bounded is no turn"
    one.release(rest_ms=4_000)
    assert all(holder.rests for name in "ab" for holder in rig.leader.locks.row(name).holders)
    rig.apply(Lapse([], [one.id(1), 1]))
    assert two.acquire("c", at_most_ms=5_000) > 0


def test_a_rest_of_what_is_no_turn_does_not_go_beyond_the_bound_of_turns(rig, contend, monkeypatch):
    """No client of ours asks for one; others could let them grow without end."""
    monkeypatch.setattr(module, "TURNS_MAX", 2)
    one = contend("one")
    for name in "abcd":
        one.acquire(name)
        assert one.release(rest_ms=4_000) == 1
    assert list(rig.leader.locks.by_name) == ["a", "b"]


def test_a_session_that_ends_leaves_no_rest(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire(at_most_ms=5_000)
    two.acquire()
    one.close()
    assert holders(rig) == ["two"]


def test_who_replaces_ends_those_that_wait_and_waits_for_the_holder_who_is_asked(rig, contend):
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire()
    two.acquire()
    assert three.acquire(replaces=True) == 0
    assert one.news() == [ClaimNews(one.id(), 1, CLAIM_WANTED)]
    assert two.news() == [ClaimNews(two.id(), 0, CLAIM_REPLACED)]
    assert holders(rig) == ["one"], "nobody begins before the other has stopped"
    one.release()
    assert three.news() == [ClaimNews(three.id(), 2)]


def test_who_replaces_what_is_free_is_granted_at_once(contend):
    one = contend("one")
    assert one.acquire(replaces=True) == 1 and one.news() == []


def test_a_holder_is_asked_once(rig, contend):
    one, two, three = contend("one"), contend("two"), contend("three")
    one.acquire()
    two.acquire(replaces=True)
    three.acquire(replaces=True)
    assert one.news() == [] and two.news() == [ClaimNews(two.id(), 0, CLAIM_REPLACED)]


# -- fences --------------------------------------------------------------------------------------------------


def submit(client: Client, fence: int) -> Answer:
    client.number += 1
    group = TaskGroup("f", client.number, [b"body"])
    return client.send(Submit(client.session, client.seq, client.seq, [group], [], fence))


def test_a_submit_with_a_fence_is_taken_only_while_something_is_held_under_it(rig, contend):
    one, two = contend("one"), contend("two")
    fence = one.acquire()
    two.acquire()
    assert submit(one.client, fence).code == ANSWER_OK
    assert submit(two.client, fence).code == ANSWER_OK, "whoever was handed the fence"
    rig.apply(Lapse([one.id(), 0]))
    refused = submit(one.client, fence)
    assert (refused.code, refused.value) == (ANSWER_LOST, fence)
    assert submit(two.client, fence + 1).code == ANSWER_OK
    assert submit(two.client, 99).code == ANSWER_LOST
    assert rig.queue()["ready"] == 3


# -- bounds and what no client of ours says ------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        {"lock": ""},
        {"lock": "é" * (NAME_BYTES_MAX // 2 + 1)},
        {"units": 0},
        {"units": 2, "limit": 1},
        {"limit": LOCK_LIMIT_MAX + 1},
        {"hold_ms": HOLD_MS_MIN - 1},
        {"hold_ms": HOLD_MS_MAX + 1},
        {"note": "é" * (LOCK_NOTE_BYTES_MAX // 2 + 1)},
        {"at_most_ms": -1},
        {"at_most_ms": TURN_MS_MAX + 1},
        {"at_most_ms": 1, "limit": 2},
        {"replaces": True, "limit": 2},
    ],
)
def test_terms_out_of_range_are_refused_and_leave_nothing(rig, contend, terms):
    one = contend("one")
    (answer,) = rig.apply(one.claim(**terms)).answers
    assert answer.code == ANSWER_REFUSED
    assert rig.leader.locks.by_name == {} and rig.leader.locks.fences == 0


def test_a_number_is_used_once(rig, contend):
    one = contend("one")
    one.acquire()
    one.release()
    one.number -= 1
    (answer,) = rig.apply(one.claim()).answers
    assert (answer.code, answer.value) == (ANSWER_REFUSED, 2)
    one.number = module.CLAIM_NUMBER_MAX
    (answer,) = rig.apply(one.claim()).answers
    assert answer.code == ANSWER_REFUSED


def test_one_client_does_not_take_all_the_room(rig, contend, monkeypatch):
    monkeypatch.setattr(module, "SESSION_CLAIMS_MAX", 3)
    monkeypatch.setattr(module, "CLAIMS_MAX", 4)
    one, two = contend("one"), contend("two")
    for _ in range(3):
        one.acquire()
    (answer,) = rig.apply(one.claim()).answers
    assert (answer.code, answer.value) == (ANSWER_CROWDED, 3)
    two.acquire()
    (answer,) = rig.apply(two.claim()).answers
    assert (answer.code, answer.value) == (ANSWER_CROWDED, 4)
    one.release(one.id(1), one.id(2))
    assert two.acquire() == 0


def test_too_many_claims_in_one_release_are_refused_and_none_of_them_ends(rig, contend):
    one = contend("one")
    one.acquire()
    claims = [one.id()] * (RELEASE_CLAIMS_MAX + 1)
    answer = one.client.send(Release(one.session, one.client.seq, one.client.seq, claims))
    assert answer.code == ANSWER_REFUSED and holders(rig) == ["one"]


def test_a_worker_has_no_locks(rig):
    worker = rig.worker()
    command = Acquire(worker.session, 1, 1, 1, "a", 1, 1, HOLD_MS)
    (answer,) = rig.apply(command).answers
    assert answer.code == ANSWER_REFUSED


# -- reading -------------------------------------------------------------------------------------------------


def test_a_lock_is_shown_with_its_first_holders_and_how_many_there_are(rig, contend):
    contenders = [contend(f"c{number:02}") for number in range(20)]
    for contender in contenders:
        contender.acquire("pool", 1, 18, note=contender.name.upper())
    row = rig.leader.locks.row("pool")
    assert (row.limit, row.held, row.waiting, len(row.holders)) == (18, 18, 2, HOLDERS_SHOWN)
    first = row.holders[0]
    assert (first.client, first.note, first.fence, first.since_ms) == ("c00", "C00", 1, rig.now_ms)


def test_locks_are_listed_by_name_in_pages(rig, contend):
    one = contend("one")
    for name in ("b/2", "a", "b/1", "c", "b/3"):
        one.acquire(name)
    first = LockSearch(rig.leader, "", 2, "b/")
    assert first.step() and ([row.name for row in first.rows], first.more) == (["b/1", "b/2"], True)
    second = LockSearch(rig.leader, "b/2", 2, "b/")
    assert second.step() and ([row.name for row in second.rows], second.more) == (["b/3"], False)


def test_a_page_has_what_is_there_all_the_time_while_others_come_and_go(rig, contend, monkeypatch):
    monkeypatch.setattr(lock_search, "NAMES_PER_STEP", 2)
    one = contend("one")
    for name in ("d", "b", "c", "a", "e"):
        one.acquire(name)
    search = LockSearch(rig.leader, "", 2, "")
    assert not search.step()
    one.release(one.id(2))          # "b", which was looked at
    one.acquire("aa")
    assert not search.step() and search.step()
    assert ([row.name for row in search.rows], search.more) == (["a"], True)
    rest = LockSearch(rig.leader, "a", 5, "")
    while not rest.step():
        pass
    assert ([row.name for row in rest.rows], rest.more) == (["aa", "c", "d", "e"], False)


def test_a_page_of_which_all_have_gone_is_not_taken_for_the_last(rig, contend, monkeypatch):
    monkeypatch.setattr(lock_search, "NAMES_PER_STEP", 2)
    one = contend("one")
    for name in ("a", "b", "c"):
        one.acquire(name)
    search = LockSearch(rig.leader, "", 1, "")
    assert not search.step()
    one.release(one.id(1))
    while not search.step():
        pass
    assert ([row.name for row in search.rows], search.more) == (["b"], True)


def test_watchers_are_told_of_a_lock_whose_holders_changed_and_of_no_other(rig, contend):
    one, two = contend("one"), contend("two")
    one.acquire("a")
    assert list(rig.effects.locks) == ["a"]
    two.acquire("a")
    assert list(rig.effects.locks) == []
    one.release()
    assert list(rig.effects.locks) == ["a"]
