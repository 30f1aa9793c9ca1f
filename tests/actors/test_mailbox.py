"""Mailboxes: bounds, lanes and the four policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.mailbox import WAITING_SENDERS_MAX, Mailbox, MailboxSpec, Overflow, Put


def full(overflow: Overflow, size: int = 3) -> Mailbox[object]:
    mailbox: Mailbox[object] = Mailbox(MailboxSpec(size, overflow))
    for number in range(size):
        assert mailbox.put(number) is Put.TAKEN
    return mailbox


def drain(mailbox: Mailbox[object]) -> list[object]:
    entries = []
    while (entry := mailbox.take()) is not None:
        entries.append(entry)
    return entries


def test_messages_come_out_in_the_order_they_went_in():
    assert drain(full(Overflow.REJECT)) == [0, 1, 2]


def test_reject_does_not_take_what_comes_when_it_is_full():
    mailbox = full(Overflow.REJECT)
    assert mailbox.put(9) is Put.REJECTED
    assert drain(mailbox) == [0, 1, 2]


def test_drop_newest_drops_what_comes_when_it_is_full():
    mailbox = full(Overflow.DROP_NEWEST)
    assert mailbox.put(9) is Put.DROPPED
    assert mailbox.victim == 9
    assert drain(mailbox) == [0, 1, 2]


def test_drop_oldest_makes_room_at_the_front():
    mailbox = full(Overflow.DROP_OLDEST)
    assert mailbox.put(9) is Put.DROPPED
    assert mailbox.victim == 0
    assert drain(mailbox) == [1, 2, 9]


def test_drop_oldest_never_drops_a_signal():
    mailbox: Mailbox[object] = Mailbox(MailboxSpec(2, Overflow.DROP_OLDEST))
    mailbox.put_signal("down 1")
    mailbox.put_signal("down 2")
    for entry in ("a", "b", "c"):
        mailbox.put(entry)
    assert drain(mailbox) == ["down 1", "down 2", "b", "c"]


def test_block_lets_a_sender_wait_until_there_is_room():
    mailbox = full(Overflow.BLOCK)
    admitted: list[str] = []
    assert mailbox.put("late") is Put.REJECTED
    assert mailbox.wait("late", lambda: not admitted.append("late"))
    assert mailbox.take() == 0
    assert admitted == ["late"]
    assert drain(mailbox) == [1, 2, "late"]


def test_block_skips_a_sender_that_left():
    mailbox = full(Overflow.BLOCK)
    mailbox.wait("left", lambda: False)
    mailbox.wait("stayed", lambda: True)
    assert drain(mailbox) == [0, 1, 2, "stayed"]


def test_waiting_senders_are_bounded():
    mailbox = full(Overflow.BLOCK)
    assert all(mailbox.wait(number, lambda: True) for number in range(WAITING_SENDERS_MAX))
    assert not mailbox.wait("one more", lambda: True)


def test_only_block_lets_anybody_wait():
    for overflow in (Overflow.REJECT, Overflow.DROP_NEWEST, Overflow.DROP_OLDEST):
        assert not full(overflow).wait(9, lambda: True)


def test_the_system_lane_goes_first_and_is_never_full():
    mailbox = full(Overflow.REJECT)
    mailbox.put_system("stop")
    assert drain(mailbox) == ["stop", 0, 1, 2]


def test_a_signal_keeps_its_place_among_the_messages_and_takes_no_room():
    mailbox: Mailbox[object] = Mailbox(MailboxSpec(2, Overflow.REJECT))
    mailbox.put("a")
    mailbox.put_signal("down")
    assert mailbox.put("b") is Put.TAKEN
    assert drain(mailbox) == ["a", "down", "b"]


def test_clear_returns_the_messages_and_those_of_waiting_senders_but_no_signals():
    mailbox = full(Overflow.BLOCK)
    mailbox.put_system("stop")
    mailbox.put_signal("down")
    mailbox.wait("late", lambda: True)
    assert mailbox.clear() == [0, 1, 2, "late"]
    assert len(mailbox) == 0
    assert mailbox.put("again") is Put.TAKEN


def test_a_mailbox_holds_at_least_one_message():
    with pytest.raises(ValueError, match="at least one"):
        MailboxSpec(0)


@given(st.lists(st.sampled_from(["put", "signal", "system", "take"])), st.sampled_from(list(Overflow)))
def test_no_order_of_events_breaks_the_bound(steps, overflow):
    mailbox: Mailbox[object] = Mailbox(MailboxSpec(3, overflow))
    for number, step in enumerate(steps):
        if step == "put":
            mailbox.put(("message", number))
        elif step == "signal":
            mailbox.put_signal(("signal", number))
        elif step == "system":
            mailbox.put_system(("system", number))
        else:
            mailbox.take()
        assert 0 <= mailbox.messages <= 3
    rest = drain(mailbox)
    for kind in ("message", "signal", "system"):
        numbers = [number for entry, number in rest if entry == kind]
        assert numbers == sorted(numbers)
