"""Tasks on their way into commands: numbers, groups, and where a command is full."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.client.outbox import TASK_NUMBER_MAX, Draft, Outbox
from cluster.state.commands import SUBMIT_BYTES_MAX, SUBMIT_TASKS_MAX, Needs, Options, TaskGroup

MAIL = Options(queue="mail")


def drafts(outbox: Outbox[object]) -> list[Draft[object]]:
    outbox.close_turn()
    found = []
    while (draft := outbox.take()) is not None:
        found.append(draft)
    return found


def test_tasks_of_one_turn_are_one_command_with_numbers_from_one():
    outbox: Outbox[object] = Outbox()
    assert [outbox.add("m:f", None, b"%d" % n)[0] for n in range(3)] == [1, 2, 3]
    (draft,) = drafts(outbox)
    assert draft.groups == [TaskGroup("m:f", 1, [b"0", b"1", b"2"], None)]
    assert (draft.count, outbox.tasks, outbox.next_number) == (3, 0, 4)


def test_tasks_that_need_others_share_no_group_with_those_that_do_not_and_their_needs_count_as_bytes():
    outbox: Outbox[object] = Outbox()
    for needs in (None, Needs([1]), Needs([], [2]), None):
        outbox.add("m:f", None, b"x", 0, needs)
    (draft,) = drafts(outbox)
    needs_of = {group.first: group.needs for group in draft.groups}
    assert needs_of == {1: [], 2: [Needs([1]), Needs([], [2])], 4: []}
    for _ in range(3):
        outbox.add("m:f", None, b"x", 0, Needs([1] * 16_384))
    assert [draft.count for draft in drafts(outbox)] == [1, 1, 1]


def test_nothing_leaves_before_the_turn_ends():
    outbox: Outbox[object] = Outbox()
    outbox.add("m:f", None, b"")
    assert outbox.take() is None and outbox.tasks == 1
    outbox.close_turn()
    assert outbox.take() is not None and outbox.tasks == 0


def test_a_turn_without_tasks_makes_no_command():
    outbox: Outbox[object] = Outbox()
    outbox.close_turn()
    assert outbox.take() is None


def test_neighbours_of_one_name_and_one_set_of_options_share_a_group():
    outbox: Outbox[object] = Outbox()
    same = Options(queue="mail")
    for name, options in [("a", None), ("a", None), ("a", MAIL), ("b", MAIL), ("b", same), ("a", None)]:
        outbox.add(name, options, b"x")
    (draft,) = drafts(outbox)
    assert [(group.name, group.first, len(group.bodies), group.options) for group in draft.groups] == [
        ("a", 1, 2, None),
        ("a", 3, 1, MAIL),
        ("b", 4, 2, MAIL),
        ("a", 6, 1, None),
    ]


def test_a_command_takes_1024_tasks():
    outbox: Outbox[object] = Outbox()
    for _ in range(2 * SUBMIT_TASKS_MAX + 1):
        outbox.add("m:f", None, b"")
    assert [draft.count for draft in drafts(outbox)] == [SUBMIT_TASKS_MAX, SUBMIT_TASKS_MAX, 1]


def test_a_full_command_may_leave_within_the_turn():
    outbox: Outbox[object] = Outbox()
    for _ in range(SUBMIT_TASKS_MAX + 1):
        outbox.add("m:f", None, b"")
    taken = outbox.take()
    assert taken is not None and taken.count == SUBMIT_TASKS_MAX
    assert outbox.take() is None and outbox.tasks == 1


def test_a_larger_task_travels_alone():
    outbox: Outbox[object] = Outbox()
    large = bytes(SUBMIT_BYTES_MAX + 1)
    for body in (b"a", large, b"b", b"c", large):
        outbox.add("m:f", None, body)
    assert [draft.count for draft in drafts(outbox)] == [1, 1, 2, 1]


def test_the_waiters_of_a_task_wait_at_the_draft_that_carries_it():
    outbox: Outbox[object] = Outbox()
    for number in range(SUBMIT_TASKS_MAX + 2):
        _, draft = outbox.add("m:f", None, b"")
        draft.waiters.append(number)
    first, second = drafts(outbox)
    assert first.waiters == list(range(SUBMIT_TASKS_MAX))
    assert second.waiters == [SUBMIT_TASKS_MAX, SUBMIT_TASKS_MAX + 1]


def test_numbers_of_a_dropped_draft_are_not_used_again():
    outbox: Outbox[object] = Outbox()
    outbox.add("m:f", None, b"late")
    outbox.close_turn()
    outbox.add("m:f", None, b"next")
    outbox.close_turn()
    outbox.drop(outbox.ready[0])
    assert outbox.tasks == 1
    (draft,) = drafts(outbox)
    assert draft.groups == [TaskGroup("m:f", 2, [b"next"], None)]


def test_the_numbers_of_a_session_come_to_an_end():
    outbox: Outbox[object] = Outbox()
    outbox.next_number = TASK_NUMBER_MAX
    assert outbox.numbers_left == 1
    assert outbox.add("m:f", None, b"")[0] == TASK_NUMBER_MAX
    assert outbox.numbers_left == 0


def test_what_was_taken_and_is_put_back_waits_in_front_of_the_rest():
    outbox: Outbox[object] = Outbox()
    for _ in range(4):
        outbox.add("m:f", None, b"")
        outbox.close_turn()
    taken = [outbox.take() for _ in range(3)]
    assert outbox.tasks == 1
    outbox.put_back([draft for draft in taken[1:] if draft is not None])
    assert outbox.tasks == 3
    assert [draft.groups[0].first for draft in drafts(outbox)] == [2, 3, 4]


BODIES = st.one_of(st.integers(0, 300), st.integers(60_000, 300_000))
TASKS = st.tuples(st.sampled_from("ab"), st.sampled_from([None, MAIL]), BODIES)


@given(st.lists(st.one_of(st.none(), TASKS), max_size=40))
def test_whatever_is_added_arrives_once_in_order_within_the_limits(steps):
    """A step is None for the end of a turn, or a task."""
    outbox: Outbox[object] = Outbox()
    for step in steps:
        if step is None:
            outbox.close_turn()
        else:
            name, options, size = step
            outbox.add(name, options, bytes(size))
    flat = []
    for draft in drafts(outbox):
        sizes = [len(body) for group in draft.groups for body in group.bodies]
        assert 0 < draft.count == len(sizes) <= SUBMIT_TASKS_MAX
        assert len(sizes) == 1 or sum(sizes) <= SUBMIT_BYTES_MAX
        for group in draft.groups:
            flat += [
                (group.first + offset, group.name, group.options, len(body)) for offset, body in enumerate(group.bodies)
            ]
    added = [step for step in steps if step is not None]
    assert flat == [(number, *task) for number, task in enumerate(added, start=1)]
    assert outbox.tasks == 0
