"""The end of a task's log in shared memory, both sides of it."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.log_tail import CUT, LOG_BYTES_MAX, RING_BYTES, TAIL_BYTES, WORDS_BYTES, LogTail, OwnTail


def tails() -> tuple[bytearray, LogTail, LogTail]:
    memory = bytearray(TAIL_BYTES)
    return memory, LogTail(memoryview(memory)), LogTail(memoryview(memory))


lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=900), max_size=40)


@given(lines)
def test_what_is_kept_are_the_last_whole_lines(texts):
    _, child, worker = tails()
    for text in texts:
        child.write(7, f"{text}\n".encode())
    whole, kept = "".join(f"{text}\n" for text in texts), worker.text(7)
    assert len(kept.encode()) <= LOG_BYTES_MAX
    if len(whole.encode()) <= RING_BYTES:
        assert kept == whole
    else:
        rest = kept.removeprefix(CUT.decode())
        assert rest != kept and whole.endswith(rest)
        assert whole[-len(rest) - 1] == "\n" or "\n" not in rest[:-1]
        assert len(rest.encode()) > RING_BYTES - 2 * 4 * 900 - len(CUT) - 2


def test_of_a_line_that_is_longer_than_all_of_it_the_end_is_kept():
    _, child, worker = tails()
    child.write(1, b"first\n")
    child.write(1, b"x" * 10_000 + b"end\n")
    kept = worker.text(1)
    assert kept.startswith("... (cut)\n") and kept.endswith("xend\n") and len(kept) == LOG_BYTES_MAX


def test_the_next_task_begins_anew_and_the_one_before_it_says_nothing_more():
    _, child, worker = tails()
    child.write(1, b"one\n")
    assert (worker.text(1), worker.text(2), worker.text(0)) == ("one\n", "", "")
    child.write(2, b"two\n")
    child.write(1, b"a thread of the first\n")
    assert (worker.text(1), worker.text(2)) == ("", "two\n")


def test_a_child_that_was_killed_within_a_line_leaves_the_lines_before_it():
    memory, child, worker = tails()
    for number in range(300):
        child.write(1, b"line %03d of many, all whole\n" % number)
    words = memoryview(memory)[:WORDS_BYTES].cast("Q")
    written = words[2]
    words[1] = written + 2_000              # it had begun a long one ...
    place = written % RING_BYTES
    for offset in range(2_000):             # ... and copied all of it but the last word
        memory[WORDS_BYTES + (place + offset) % RING_BYTES] = 0xFF
    first, *rest = worker.text(1).splitlines()
    assert first == "... (cut)" and rest[-1] == "line 299 of many, all whole" and len(rest) > 60
    assert all(line.startswith("line ") and line.endswith("all whole") for line in rest)


def test_a_child_that_was_killed_within_a_line_as_long_as_all_of_it_leaves_nothing_wrong():
    memory, child, worker = tails()
    child.write(1, b"whole\n" * 700)
    memoryview(memory)[:WORDS_BYTES].cast("Q")[1] += RING_BYTES
    assert worker.text(1) == ""


def test_what_is_no_text_is_left_out():
    _, child, worker = tails()
    child.write(1, b"a\xffb\n")
    assert worker.text(1) == "ab\n"


def test_a_tail_of_its_own_holds_nothing_before_the_first_line():
    own = OwnTail()
    assert own.text(0) == "" and own._tail is None
    own.write(0, b"said\n")
    assert (own.text(0), own.text(1)) == ("said\n", "")
