"""Entries that a replica cannot read are skipped and counted, never raised."""

import msgspec
import pytest
from state_rig import EPOCH_MS, Rig, encode_entry

from cluster.state.commands import (
    MACHINE_VERSION,
    ROLE_CLIENT,
    Formation,
    Register,
    Stamp,
    Submit,
    TaskGroup,
    Tick,
)
from cluster.state.decoding import KINDS

encode = msgspec.msgpack.encode


def counters(rig: Rig) -> dict[str, int]:
    return rig.leader.status()["counters"]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"garbage",
        encode({"not": "a list"}),
        encode([[1, MACHINE_VERSION]]),
        encode([["1", MACHINE_VERSION, []]]),
        encode([[5, 1, [Register("a", 1, ROLE_CLIENT)]]])[:-2],
    ],
)
def test_an_undecodable_entry_is_a_counted_no_op(rig: Rig, payload):
    rig.apply_payload(payload)
    assert counters(rig)["undecodable"] == 1
    assert rig.leader.applied_index == 1


def test_an_empty_payload_is_a_no_op_but_an_entry(rig: Rig):
    before = rig.leader.rolling
    rig.apply_payload(b"")
    assert rig.leader.applied_index == 1
    assert counters(rig)["undecodable"] == 0
    assert rig.leader.rolling != before


def test_an_unknown_kind_is_skipped_and_the_other_groups_apply(rig: Rig):
    register = [3, MACHINE_VERSION, [Register("a", 1, ROLE_CLIENT)]]
    rig.apply_payload(encode([[77, MACHINE_VERSION, [[77, 1, 2]]], register]))
    assert counters(rig)["unknown_kinds"] == 1
    assert len(list(rig.leader.sessions_open())) == 1


@pytest.mark.parametrize("kind", [3, 77])
def test_a_newer_machine_version_is_refused_by_that_comparison_alone(rig: Rig, kind):
    rig.apply_payload(encode([[kind, MACHINE_VERSION + 1, [Register("a", 1, ROLE_CLIENT)]]]))
    assert counters(rig)["newer_versions"] == 1
    assert counters(rig)["unknown_kinds"] == 0
    assert list(rig.leader.sessions_open()) == []


def test_an_undecodable_group_does_not_take_the_others_with_it(rig: Rig):
    good = [3, MACHINE_VERSION, [Register("a", 1, ROLE_CLIENT)]]
    rig.apply_payload(encode([[1, MACHINE_VERSION, "what?"], good]))
    assert counters(rig)["undecodable"] == 1
    assert len(list(rig.leader.sessions_open())) == 1


def test_an_undecodable_command_does_not_take_its_neighbours_with_it(rig: Rig):
    commands = [Register("a", 1, ROLE_CLIENT), [3, "b", "no number", 2], Register("c", 1, ROLE_CLIENT)]
    rig.apply_payload(encode([[3, MACHINE_VERSION, commands]]))
    assert counters(rig)["undecodable"] == 1
    assert [session.name for session in rig.leader.sessions_open()] == ["a", "c"]


def test_a_command_of_another_kind_than_its_group_is_undecodable(rig: Rig):
    rig.apply_payload(encode([[4, MACHINE_VERSION, [Register("a", 1, ROLE_CLIENT)]]]))
    assert counters(rig)["undecodable"] == 1


def test_text_that_is_not_utf8_is_undecodable(rig: Rig):
    payload = encode([[3, MACHINE_VERSION, [Register("abc", 1, ROLE_CLIENT)]]])
    rig.apply_payload(payload.replace(b"abc", b"a\xff\xff"))
    assert counters(rig)["undecodable"] == 1


def test_fields_appended_by_a_newer_writer_are_ignored(rig: Rig):
    rig.apply_payload(encode([[3, MACHINE_VERSION, [[3, "a", 1, ROLE_CLIENT, None, "new field"]]]]))
    assert [session.name for session in rig.leader.sessions_open()] == ["a"]


def test_groups_with_several_commands_apply_in_order(rig: Rig):
    client = rig.client()
    submits = [Submit(client.session, seq, 1, [TaskGroup("f", seq, [b"x"])]) for seq in (1, 2, 3)]
    rig.apply_payload(encode([[0, MACHINE_VERSION, [Stamp(EPOCH_MS, 1)]], [1, MACHINE_VERSION, submits]]))
    assert [answer.seq for answer in rig.effects.answers] == [1, 2, 3]
    assert rig.queue()["ready"] == 3


def test_every_kind_is_the_tag_of_its_command():
    assert [command.__struct_config__.tag for command in KINDS.values()] == list(KINDS)


def test_numbers_at_the_ends_of_what_can_be_encoded_do_no_harm(rig: Rig):
    huge, low = (1 << 64) - 1, -(1 << 63)
    for session in (huge, low, 0):
        rig.apply(Submit(session, huge, low, []), Tick(huge))
    client = rig.client(incarnation=huge)
    for seq in (low, 0, huge):
        rig.apply(Submit(client.session, seq, huge, [TaskGroup("f", huge, [b""])]))
    rig.apply(Submit(client.session, 1, low, [TaskGroup("f", low, [b""])]))
    assert rig.leader.status()["queues"] == []
    assert rig.leader.full_digest() == rig.follower.full_digest()


def test_the_formation_is_remembered_once(rig: Rig):
    rig.apply(Formation(b"one", ("b1", "b2", "b3")))
    rig.apply(Formation(b"two", ("x",)))
    assert (rig.leader.cluster_id, rig.leader.voters) == (b"one", ("b1", "b2", "b3"))


def test_the_stamp_is_optional(rig: Rig):
    rig.apply_payload(encode_entry(Register("a", 1, ROLE_CLIENT)))
    assert rig.leader.now_ms == 0
