"""Arguments of a task for people: plain values where JSON has them all, else a reason. Bodies may be anybody's."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from client_world import MS, ClientWorld, Parcel, pause, unserved, work

from actors import Ports
from cluster import Client, TaskInfo
from cluster.client.arguments import call_of
from cluster.client.inspection import info_of
from cluster.command_line import tasks
from cluster.state.commands import BODY_BYTES_MAX
from cluster.state.task_rows import ARGUMENTS_BYTES_MAX, PLACE_NONE, TaskDetails, TaskRow
from cluster.wire import NO_TOTAL, TaskShown

ROW = TaskRow(7, "failed", "m:f", "q", 5, 1, 0, 0, False, False, False, "w1", 0, -1, PLACE_NONE, 0, 0, "")


def body_of(*args: object, **kwargs: object) -> bytes:
    return msgspec.msgpack.encode((args, kwargs))


def shown(body: bytes, progress: tuple[int, int] | None = None) -> TaskInfo:
    return info_of(ROW, TaskDetails(ROW, [], 1_000, 0, 1_000, 0, 0, 0, -1, len(body), body), progress)


def test_arguments_are_plain_values_by_place_and_by_name():
    call = call_of("pending", body_of(1, "two", [3.5, None], key={"a": True}), 40)
    assert call.args == (1, "two", [3.5, None]) and call.kwargs == {"key": {"a": True}} and call.why == ""
    call = call_of("failed", body_of(), 3)
    assert (call.args, call.kwargs) == ((), {})


def test_bytes_and_dates_are_values_and_in_json_text():
    when = datetime(2026, 5, 1, 12, tzinfo=UTC)
    info = shown(body_of(b"raw", when))
    assert info.args == (b"raw", when)
    assert tasks.arguments_text(info) == '"cmF3", "2026-05-01T12:00:00Z"'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "0 bytes that JSON cannot say: Input data was truncated"),
        (b"\x81", "1 bytes that JSON cannot say: Expected `array`"),
        (msgspec.msgpack.encode([1, 2, 3]), "length 2, got 3"),
        (msgspec.msgpack.encode([[], {1: 2}]), "Expected `str`, got `int`"),
        (body_of({(1, 2): 3}), "keys"),
        (body_of(msgspec.msgpack.Ext(5, b"x")), "Ext is unsupported"),
        (b"\x92\x91\xa2\xff\xff\x80", "utf-8"),
        (b"\x92\x91\x81\x81\x01\x02\x03\x80", "malformed"),
    ],
)
def test_what_json_cannot_say_has_a_reason(body: bytes, reason: str):
    call = call_of("pending", body, len(body))
    assert (call.args, call.kwargs) == (None, None) and reason in call.why


def test_arguments_nested_as_deep_as_a_body_allows_are_shown_or_have_a_reason():
    """Python 3.13 follows them all, 3.11 and 3.12 do not."""
    body = b"\x92" + b"\x91" * 4_000 + b"\x90\x80"
    call = call_of("pending", body, len(body))
    if call.args is None:
        assert "recursion" in call.why
    else:
        assert msgspec.json.encode(call.args).count(b"[") == 4_001


def test_whatever_is_shown_can_be_written_as_json():
    for value in (float("nan"), 2**63, -(2**63), {1: 2, "1": 3}, {1.5: 2}, "\x1b[31m", "\N{SNOWMAN}", b"\xff"):
        info = shown(body_of(value))
        assert (info.args is None) == bool(info.arguments_why)
        assert json.loads(msgspec.json.encode(info))["id"] == 7
        assert "\x1b" not in "".join(tasks.described(info))


def test_long_arguments_are_only_counted_and_those_of_a_completed_task_are_gone():
    assert call_of("pending", None, 5_000).why == f"5000 bytes; up to {ARGUMENTS_BYTES_MAX} are shown"
    assert call_of("completed", None, 5).why.startswith("not kept")
    assert call_of("completed", body_of(), 3).args is None, "that would be its result"


def test_people_see_them_as_in_a_call_and_how_far_it_is():
    lines = list(tasks.described(shown(body_of("a.jpg", 300, quality=80, **{"no name": [1]}), progress=(3, 10))))
    assert any(line.endswith('  "a.jpg", 300, quality=80, "no name"=[1]') for line in lines)
    assert any(line.startswith("progress ") and line.endswith("  3 of 10") for line in lines)
    assert any(line.endswith("  7") for line in tasks.described(shown(body_of(), progress=(7, NO_TOTAL))))
    assert any(line.startswith("arguments ") and line.endswith("  none") for line in tasks.described(shown(body_of())))


def test_an_answer_of_before_they_were_told_can_be_read():
    details: list[Any] = msgspec.msgpack.decode(
        msgspec.msgpack.encode(TaskDetails(ROW, [], 1, 0, 1, 0, 0, 0, -1, 3, b"abc"))
    )
    answer = msgspec.msgpack.decode(msgspec.msgpack.encode([63, 1, details[:10]]), type=TaskShown)
    assert answer.progress is None and answer.found is not None and answer.found.arguments is None


def test_a_client_sees_the_arguments_of_a_task_until_it_has_completed():
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        good = await cluster.submit(work, Parcel(1))
        bad = await cluster.submit(work, Parcel(2), fate="raise")
        waits = await cluster.submit(unserved)
        long = await cluster.submit(work.options(delay="1h"), Parcel(3, "x" * ARGUMENTS_BYTES_MAX))
        for handle in (good, bad):
            await handle.wait()
        infos = [await cluster.task(handle.id) for handle in (good, bad, waits, long)]
        listed = [info async for info in cluster.tasks()]
        stale = await cluster.task(bad.id, stale=True)
        return infos, listed, stale

    (good, bad, waits, long), listed, stale = rig.run(user)
    assert (good.args, good.kwargs) == (None, None) and good.arguments_why.startswith("not kept: it has completed")
    assert bad.kwargs == {"fate": "raise"} and bad.args[0]["number"] == 2 and bad.arguments_why == ""
    assert (waits.args, waits.kwargs) == ((), {})
    assert long.args is None and long.body_bytes is not None and f"{long.body_bytes} bytes; up to" in long.arguments_why
    assert stale.args == bad.args, "any broker has them"
    assert all(info.args is None and info.arguments_why == "" for info in listed), "that is told of one task"


def test_a_client_sees_how_far_a_task_is_while_it_runs():
    rig = ClientWorld(slots=1)
    rig.steps = 8

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), 8_000 * MS)
        waiting = await cluster.submit(work, Parcel(2), 8_000 * MS)
        await pause(ports, 4.7)
        infos = [await cluster.task(handle.id), await cluster.task(waiting.id)]
        told = await handle.progress()
        await handle
        return infos, told, await cluster.task(handle.id)

    (runs, waits), told, ended = rig.run(user)
    assert runs.progress == told and runs.progress is not None and runs.progress[1] == 8 and runs.progress[0] >= 3
    assert waits.progress is None and ended.progress is None


def test_arguments_that_are_shown_are_small_beside_those_that_travel():
    assert ARGUMENTS_BYTES_MAX * 16 < BODY_BYTES_MAX
