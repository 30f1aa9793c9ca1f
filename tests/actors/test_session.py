"""Sessions as pure state machines: the receiver sees a prefix of what was sent, or knows that it does not."""

from hypothesis import given
from hypothesis import strategies as st

from actors.transport.frame import Flags
from actors.transport.session import (
    DIALLER,
    LISTENER,
    SESSIONS_ENDED_MAX,
    Do,
    Event,
    SeenSessions,
    Session,
    State,
    dialler_event,
    listener_event,
)


def test_every_frame_of_a_dialler_has_an_answer_in_the_table_of_the_listener():
    for session in (None, Session(5, expected=3)):
        for flags in Flags:
            for number in (5, 6):
                for seq in (0, 2, 3, 9):
                    for state in (State.NONE,) if session is None else (State.OPEN, State.REFUSED):
                        probe = None if session is None else Session(5, expected=3)
                        event = listener_event(probe, SeenSessions(), flags, number, seq)
                        assert event is None or (state, event) in LISTENER


def test_every_frame_of_a_listener_has_an_answer_in_the_table_of_the_dialler():
    for open_session in (False, True):
        for flags in Flags:
            for number in (5, 6):
                for seq in (0, 2, 3, 9):
                    session = Session(5, expected=3) if open_session else None
                    event = dialler_event(session, flags, number, seq)
                    assert event is None or (State.OPEN if open_session else State.NONE, event) in DIALLER


@given(st.lists(st.integers(0, 40)))
def test_what_is_taken_is_exactly_the_sequence_without_holes_and_repeats(arrivals):
    session = Session(1)
    taken = [seq for seq in arrivals if session.judge(1, seq) is Event.NEXT]
    assert taken == list(range(len(taken)))


@given(st.lists(st.integers(0, 40)))
def test_a_gap_is_told_exactly_when_something_before_is_missing(arrivals):
    session = Session(1)
    seen: set[int] = set()
    for seq in arrivals:
        event = session.judge(1, seq)
        missing = not set(range(seq)) <= seen
        assert (event is Event.GAP) == missing
        if missing:
            return    # both sides start over
        seen.add(seq)


def test_stamps_count_from_zero():
    session = Session(1)
    assert [session.stamp() for _ in range(3)] == [0, 1, 2]


def test_a_hello_of_the_same_session_is_a_replay_and_ends_nothing():
    seen = SeenSessions()
    seen.add(7)
    for session in (None, Session(7, expected=4), Session(8, expected=1)):
        event = listener_event(session, seen, Flags.HELLO, 7, 0)
        assert event is Event.REPLAYED
    assert LISTENER[State.OPEN, Event.REPLAYED] is Do.DROP


def test_the_hello_of_an_open_session_is_a_replay_even_after_its_number_was_forgotten():
    assert listener_event(Session(7), SeenSessions(), Flags.HELLO, 7, 0) is Event.REPLAYED


def test_a_hello_that_is_not_first_is_no_frame_of_ours():
    assert listener_event(None, SeenSessions(), Flags.HELLO, 7, 1) is None


def test_only_a_reset_of_the_current_session_counts():
    assert dialler_event(Session(7), Flags.RESET, 7, 0) is Event.RESET
    assert dialler_event(Session(7), Flags.RESET, 6, 0) is Event.FOREIGN
    assert dialler_event(None, Flags.RESET, 7, 0) is Event.FOREIGN


def test_remembered_sessions_are_bounded_and_the_oldest_goes_first():
    seen = SeenSessions()
    for number in range(SESSIONS_ENDED_MAX + 10):
        seen.add(number)
    assert 9 not in seen
    assert 10 in seen
    assert SESSIONS_ENDED_MAX + 9 in seen


def test_the_tables_hold_states_events_and_what_to_do_by_their_types_not_only_by_their_numbers():
    """As integers, a state and an event of the same number are equal: a key the wrong way round would be found."""
    for table in (LISTENER, DIALLER):
        for (state, event), do in table.items():
            assert (type(state), type(event), type(do)) == (State, Event, Do)
    for enum in (State, Event, Do):
        assert all(member > 0 for member in enum), "none is false"


def test_only_a_frame_that_belongs_to_the_session_and_comes_next_is_ever_delivered():
    delivered = {key for table in (LISTENER, DIALLER) for key, do in table.items() if do is Do.DELIVER}
    assert delivered == {(State.OPEN, Event.NEXT)}


def test_a_frame_of_another_session_moves_nothing():
    session = Session(5, expected=3)
    for number, seq in ((6, 3), (5, 2), (5, 4), (4, 0)):
        session.judge(number, seq)
    assert session.expected == 3
    assert session.judge(5, 3) is Event.NEXT
