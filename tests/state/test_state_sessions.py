"""Registration, and the numbering of commands within a session."""

import pytest
from state_rig import Rig

from cluster.state.commands import (
    ROLE_CLIENT,
    ROLE_WORKER,
    SESSION_WINDOW_COMMANDS,
    Cancel,
    Close,
    Command,
    Complete,
    Expire,
    Options,
    Register,
    Seen,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import (
    ANSWER_GAP,
    ANSWER_NO_SESSION,
    ANSWER_OK,
    ANSWER_REFUSED,
    Answer,
    Registered,
)
from cluster.state.intake import TASK_NUMBER_MAX
from cluster.state.machine import PENDING
from cluster.state.sessions import ENDED_INCARNATIONS_MAX, Session, Sessions


def registered(rig: Rig, name: str, incarnation: int, role: int = ROLE_CLIENT) -> Registered:
    (answer,) = rig.apply(Register(name, incarnation, role)).registered
    return answer


def answer_to(rig: Rig, command: Command) -> Answer:
    (answer,) = rig.apply(command).answers
    return answer


def submit_of(
    session: int, seq: int, first: int = 1, count: int = 1, low: int = 1, **options: object
) -> Submit:
    group = TaskGroup("f", first, [b"x"] * count, Options(**options) if options else None)
    return Submit(session, seq, low, [group])


def test_session_ids_come_from_a_counter(rig):
    assert [registered(rig, name, 7).session for name in ("a", "b", "c")] == [1, 2, 3]


def test_registering_again_gives_the_same_session_and_its_next_number(rig):
    session = registered(rig, "a", 7).session
    rig.apply(submit_of(session, 1))
    assert registered(rig, "a", 7) == Registered("a", 7, ANSWER_OK, session, 2)


def test_another_incarnation_ends_the_old_session_in_the_same_entry(rig):
    old = registered(rig, "a", 7).session
    new = registered(rig, "a", 8).session
    assert rig.effects.ended == [old]
    assert rig.leader.session(old) is None
    assert rig.leader.session(new).incarnation == 8


def test_an_ended_incarnation_is_refused_and_does_not_end_its_successor(rig):
    registered(rig, "a", 7)
    new = registered(rig, "a", 8).session
    assert registered(rig, "a", 7).code == ANSWER_REFUSED
    assert rig.leader.session(new) is not None


def test_the_last_64_ended_incarnations_of_a_name_are_remembered(rig):
    for incarnation in range(ENDED_INCARNATIONS_MAX + 2):
        registered(rig, "a", incarnation)
    assert registered(rig, "a", 1).code == ANSWER_REFUSED
    assert registered(rig, "a", 0).code == ANSWER_OK, "the 65th is forgotten"


def test_a_client_cannot_end_the_session_of_a_worker_by_taking_its_name(rig):
    worker = rig.worker("same")
    registered(rig, "same", 99)
    assert rig.leader.session(worker.session) is not None


def test_sessions_are_limited(rig, monkeypatch):
    monkeypatch.setattr("cluster.state.sessions.SESSIONS_MAX", 3)
    old = registered(rig, "a", 1).session
    registered(rig, "b", 1)
    registered(rig, "c", 1)
    assert registered(rig, "d", 1).code == ANSWER_REFUSED
    assert registered(rig, "a", 2).code == ANSWER_OK, "replacing a session needs no further place"
    assert rig.effects.ended == [old]


@pytest.mark.parametrize(
    "command",
    [
        Register("", 1, ROLE_CLIENT),
        Register("x" * 513, 1, ROLE_CLIENT),
        Register("a", 1, 77),
        Register("a", 1, ROLE_WORKER),
        Register("a", 1, ROLE_WORKER, WorkerSpec(0, ("q",), ("f",))),
        Register("a", 1, ROLE_WORKER, WorkerSpec(1_025, ("q",), ("f",))),
        Register("a", 1, ROLE_WORKER, WorkerSpec(1, ("q",), ("f",), -1)),
        Register("a", 1, ROLE_WORKER, WorkerSpec(1, ("",), ("f",))),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(rig, command):
    (answer,) = rig.apply(command).registered
    assert answer.code == ANSWER_REFUSED
    assert list(rig.leader.sessions_open()) == []


@pytest.mark.parametrize("end", [Expire, Close])
def test_a_session_ends_for_its_own_incarnation_only(rig, end):
    client = rig.client(incarnation=5)
    assert rig.apply(end(client.session, 4)).ended == []
    assert rig.apply(end(client.session, 5)).ended == [client.session]
    assert rig.apply(end(client.session, 5)).ended == []


def test_commands_of_an_unknown_session_are_answered_so(rig):
    client = rig.client()
    client.close()
    assert answer_to(rig, submit_of(client.session, 1)).code == ANSWER_NO_SESSION
    assert answer_to(rig, Cancel(99, 4, 1, [])) == Answer(99, 4, ANSWER_NO_SESSION)


def test_tasks_of_a_client_outlive_its_session(rig):
    client = rig.client()
    (task,) = client.submit()
    client.close()
    worker = rig.worker()
    worker.complete(*worker.inbox)
    assert rig.leader.result(task).body == b"done"
    assert [result.task for result in rig.effects.results[client.session]] == [task]


def test_a_gap_is_refused_with_the_number_expected(rig):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 2)) == Answer(client.session, 2, ANSWER_GAP, 1)
    assert answer_to(rig, submit_of(client.session, 1)).code == ANSWER_OK
    assert rig.leader.result(client.session << 24 | 1) is PENDING


def test_a_duplicate_is_answered_again_and_changes_nothing(rig):
    client = rig.client()
    first = answer_to(rig, submit_of(client.session, 1, count=3))
    before = rig.queue()
    assert answer_to(rig, submit_of(client.session, 1, count=3)) == first
    assert rig.queue() == before


def test_a_duplicate_of_a_refused_command_is_refused_again(rig):
    client = rig.client()
    first = answer_to(rig, submit_of(client.session, 1, priority=10))
    assert first.code == ANSWER_REFUSED
    assert answer_to(rig, submit_of(client.session, 1, priority=10)) == first


def test_low_frees_kept_answers(rig):
    client = rig.client()
    rig.apply(submit_of(client.session, 1, first=1))
    rig.apply(submit_of(client.session, 2, first=2))
    rig.apply(submit_of(client.session, 3, first=3, low=2))
    assert rig.apply(submit_of(client.session, 1)).answers == []
    assert answer_to(rig, submit_of(client.session, 2)).code == ANSWER_OK


def test_at_most_64_answers_are_kept_whatever_low_says(rig):
    client = rig.client()
    for seq in range(1, SESSION_WINDOW_COMMANDS + 3):
        rig.apply(submit_of(client.session, seq, priority=99, low=1))
    assert len(rig.leader.session(client.session).refusals) == SESSION_WINDOW_COMMANDS
    assert rig.apply(submit_of(client.session, 2)).answers == []
    assert answer_to(rig, submit_of(client.session, 3)).code == ANSWER_REFUSED


def test_low_beyond_the_command_itself_still_keeps_its_answer(rig):
    client = rig.client()
    rig.apply(submit_of(client.session, 1, low=1_000))
    assert answer_to(rig, submit_of(client.session, 1, low=1_000)).code == ANSWER_OK


def test_a_task_number_is_used_once(rig):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 1, first=1, count=3)).code == ANSWER_OK
    refused = answer_to(rig, submit_of(client.session, 2, first=3))
    assert refused == Answer(client.session, 2, ANSWER_REFUSED, 4)
    assert answer_to(rig, submit_of(client.session, 3, first=4)).code == ANSWER_OK
    assert rig.queue()["ready"] == 4


def test_numbers_may_be_left_out(rig):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 1, first=10)).code == ANSWER_OK
    assert rig.leader.result(client.session << 24 | 9) is None


def test_a_wrapped_number_is_refused_and_the_last_one_is_not(rig):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 1, first=TASK_NUMBER_MAX, count=2)).code == ANSWER_REFUSED
    assert answer_to(rig, submit_of(client.session, 2, first=TASK_NUMBER_MAX)).code == ANSWER_OK
    assert answer_to(rig, submit_of(client.session, 3, first=1)).code == ANSWER_REFUSED


def test_a_submit_is_refused_whole(rig):
    client = rig.client()
    groups = [TaskGroup("f", 1, [b"x"]), TaskGroup("f", 2, [b"x"], Options(delay_ms=-1))]
    assert answer_to(rig, Submit(client.session, 1, 1, groups)).code == ANSWER_REFUSED
    assert rig.leader.status()["queues"] == []


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1},
        {"queue": ""},
        {"timeout_ms": -1},
        {"expires_ms": -1},
        {"expires_ms": 1 << 60},
        {"result_ttl_ms": -5},
        {"labels": ("x",) * 65},
    ],
)
def test_options_out_of_range_are_refused(rig, options):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 1, **options)).code == ANSWER_REFUSED


def test_more_tasks_than_a_command_may_carry_are_refused(rig):
    client = rig.client()
    assert answer_to(rig, submit_of(client.session, 1, count=1_025)).code == ANSWER_REFUSED
    assert answer_to(rig, submit_of(client.session, 2, count=1_024)).code == ANSWER_OK


def test_a_command_of_the_wrong_role_is_refused_in_its_turn(rig):
    client, worker = rig.client(), rig.worker()
    assert answer_to(rig, Complete(client.session, 1, 1, [])).code == ANSWER_REFUSED
    assert answer_to(rig, submit_of(client.session, 2)).code == ANSWER_OK
    assert answer_to(rig, submit_of(worker.session, 1)).code == ANSWER_REFUSED


def test_seen_ranges_are_accepted(rig):
    client = rig.client()
    command = Submit(client.session, 1, 1, [TaskGroup("f", 1, [b"x"])], [1, 5, 8, 8])
    assert answer_to(rig, command).code == ANSWER_OK
    assert rig.apply(Seen(client.session, [9, 12])).answers == []


def test_names_that_come_and_go_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("cluster.state.sessions.ENDED_NAMES_MAX", 3)
    sessions = Sessions()
    for number in range(5):
        session = sessions.open((ROLE_CLIENT, f"c{number}"), 1, None)
        assert isinstance(session, Session)
        sessions.close(session)
    assert [sessions.has_ended((ROLE_CLIENT, f"c{number}"), 1) for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
