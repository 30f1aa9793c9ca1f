"""How commands are found, what they refuse before they ask anybody, and what lists, tasks and `top` look like."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console, RenderableType

from cluster import AttemptInfo, ScheduleInfo, SlotInfo, TaskInfo
from cluster.client.rolling import Course, Rest, Wanted
from cluster.command_line import cron, nodes, tasks, top
from cluster.command_line.common import DurationText, TaskId, stdout
from cluster.command_line.main import COMPLETION_VARIABLE, PROGRAM, main
from cluster.command_line.results import EXITS
from cluster.command_line.waiting import waits_for
from cluster.errors import TopologyError

DATE = datetime(2026, 1, 31, 9, 30, 5, 250_000, UTC)
WAITS = TaskInfo(
    id=16_777_217, state="pending", name="shop:confirm", queue="mail", priority=5, attempt=0, crashes=0, failures=0,
    delayed=False, parked=False, cancelling=False,
)  # fmt: skip
FAILED = structs.replace(WAITS, state="failed", worker="w1", attempt=2, error="ValueError: [bold] 7", ended_at=DATE)
CRASH = AttemptInfo(
    number=1, worker="w1", outcome="crashed", started_at=DATE, ended_at=DATE.replace(second=6), exit_code=3,
    error_type="ChildExited", error_message="its process ended", stderr="last\nwords\n",
)  # fmt: skip


def text_of(what: RenderableType, width: int = 80) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(what)
    return screen.getvalue()


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_says_what_it_does() -> None:
    def named(group: click.Group, path: str = "") -> list[str]:
        names: list[str] = []
        for name, command in group.commands.items():
            assert command.get_short_help_str(), f"{path}{name}"
            names.append(f"{path}{name}")
            if isinstance(command, click.Group):
                names += named(command, f"{name} ")
        return names

    found = named(main)
    assert {"status", "submit", "tasks list", "tasks show", "tasks cancel", "result", "cancel", "top"} <= set(found)
    assert {f"cron {name}" for name in ("list", "show", "run", "pause", "resume", "history", "delete")} <= set(found)


@pytest.mark.parametrize(("first", "listed"), [("here.toml", True), ("topology", True), ("show", False)])
def test_tasks_of_a_topology_lists_them(tmp_path: Path, monkeypatch: Any, first: str, listed: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topology").touch()
    result = CliRunner().invoke(main, ["tasks", first, "--limit", "-1"])
    assert result.exit_code == 2
    assert ("--limit" in result.output and "range" in result.output) == listed


def test_a_misspelt_command_of_tasks_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["tasks", "shwo", "topology.toml", "1"])
    assert result.exit_code == 2
    assert "'shwo' is no command of `tasks`, and no such topology is there. Did you mean 'show'?" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["result", "t.toml", "twelve"], "'twelve' is no task's id: give the number that `submit`"),
        (["result", "t.toml", "0"], "'0' is no task's id"),
        (["result", "t.toml", "1", "--timeout", "soon"], '"soon" is no duration'),
        (["cancel", "t.toml"], "Missing argument 'ID...'"),
        (["cancel", "t.toml", "1", "--grace", "-5"], "negative"),
        (["tasks", "list", "t.toml", "--state", "runing"], "'pending', 'processing'"),
        (["completion", "csh"], "'bash', 'zsh', 'fish'"),
        (["top", "t.toml"], "use --once for a script"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_refused_before_anybody_is_asked(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_ids_are_taken_as_submit_prints_them() -> None:
    assert TaskId().convert("16777217\n", None, None) == 16_777_217
    assert TaskId().convert(16_777_217, None, None) == 16_777_217


@pytest.mark.parametrize(("text", "value"), [("5m", "5m"), ("1.5", 1.5), ("0", 0.0), ("250ms", "250ms")])
def test_a_duration_is_a_text_or_a_number_of_seconds(text: str, value: object) -> None:
    assert DurationText().convert(text, None, None) == value


def test_exit_statuses_of_result_are_all_different() -> None:
    assert len({0, 1, 2, *EXITS.values()}) == 3 + len(EXITS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_completion_script_is_for_the_installed_command(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert PROGRAM in result.output and f"{COMPLETION_VARIABLE}={shell}_complete" in result.output


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["ta"], ["tasks"]),
        (["tasks", "s"], ["show"]),
        (["tasks", "list", "--state", "fa"], ["failed"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["submit", "--soft"], ["--soft-timeout"]),
    ],
)
def test_commands_options_and_choices_are_completed(words: list[str], offers: list[str]) -> None:
    shell = BashComplete(main, {}, PROGRAM, COMPLETION_VARIABLE)
    assert [item.value for item in shell.get_completions(words[:-1], words[-1])] == offers


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"parked": True}, "parked: no worker has it"),
        ({"parked": True, "parked_why": "no worker with label gpu"}, "parked: no worker with label gpu"),
        ({"delayed": True}, "delayed"),
        ({"delayed": True, "error": "OSError: away"}, "delayed; OSError: away"),
        ({"held_back_why": "limit smtp: 2 of 2 are with workers"}, "held back: limit smtp: 2 of 2 are with workers"),
        ({"state": "processing", "slot": 1, "running": True}, "running"),
        ({"state": "processing", "slot": 1, "running": False}, "waits at slot 1"),
        ({"state": "processing", "slot": 1}, ""),
        ({"state": "processing", "slot": 1, "running": True, "cancelling": True}, "is being cancelled"),
        ({"state": "failed", "error": "ValueError: 7"}, "ValueError: 7"),
    ],
)
def test_what_a_state_does_not_say_is_noted(changes: dict[str, Any], says: str) -> None:
    assert tasks.note(structs.replace(WAITS, **changes)) == says


def test_what_a_task_waits_for_besides_its_turn_is_said() -> None:
    assert waits_for(WAITS) == waits_for(FAILED) == ""
    assert waits_for(structs.replace(WAITS, parked=True)).startswith("no worker that serves the queue 'mail' has shop:")
    known = structs.replace(WAITS, parked=True, parked_why="no worker with label gpu announces shop:total")
    assert waits_for(known) == "no worker with label gpu announces shop:total; `status` shows the workers"
    held_back = structs.replace(WAITS, held_back_why="limit smtp: 2 of 2 are with workers")
    assert waits_for(held_back) == "limit smtp: 2 of 2 are with workers"
    until = structs.replace(held_back, held_back_until=DATE)
    assert waits_for(until) == "limit smtp: 2 of 2 are with workers, until 2026-01-31 09:30:05 UTC"
    assert waits_for(structs.replace(WAITS, delayed=True)) == ""
    assert waits_for(structs.replace(WAITS, delayed=True, ready_at=DATE)) == "not due before 2026-01-31 09:30:05 UTC"


def test_one_task_is_shown_with_all_that_is_known_and_nothing_else() -> None:
    lines = list(tasks.described(structs.replace(FAILED, attempts=(CRASH,), timeout_s=90.0, crashes=1)))
    text = "\n".join(lines)
    assert "failed (ValueError: [bold] 7)" in text and "2, of which 1 crashed" in text
    assert "attempt 1 on w1: crashed after 1 s, 2026-01-31 09:30:06.250 UTC" in text
    assert "  ChildExited: its process ended" in lines and "  exit code 3" in lines
    assert lines[-2:] == ["    last", "    words"]
    for absent in ("expires at", "ready at", "signal", "cancel grace", "None"):
        assert absent not in text


def test_a_list_keeps_names_and_numbers_whole_on_80_columns() -> None:
    long = structs.replace(
        FAILED, id=1_677_721_600_001, state="processing", name="shop.orders:confirm", cancelling=True, worker="w-17"
    )
    text = text_of(tasks.listing([long, FAILED, WAITS]))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("1677721600001", "processing", "shop.orders:confirm", "w-17", "[bold] 7", "is being cancelled"):
        assert words in text
    assert text.splitlines()[0].split() == list(tasks.COLUMNS)
    assert len(text.splitlines()) == 2 + 2 + 2 + 1, "a task has a second line only for what there is to say"


@pytest.mark.parametrize(("columns", "is_cut"), [(None, False), ("80", True)])
def test_what_is_no_terminal_gets_a_row_in_a_line_unless_columns_are_asked_for(
    monkeypatch: Any, capsys: Any, columns: str | None, is_cut: bool
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    long = structs.replace(FAILED, name="shop." * 30 + "orders:confirm", error="")
    stdout().print(tasks.listing([long]))
    lines = capsys.readouterr().out.splitlines()
    assert (max(map(len, lines)) <= 80) == is_cut
    assert any(long.name in line and str(long.id) in line and "w1" in line for line in lines) != is_cut


# -- top --------------------------------------------------------------------------------------------------------------

QUEUE = {
    "name": "default", "ready": 5, "waiting": 0, "running": 2, "delayed": 0, "completed": 100, "failed": 1, "dead": 0,
    "cancelled": 0, "expired": 0, "parked": 0,
}  # fmt: skip
BROKER = {"node": "b1", "role": "leader", "applied_index": 1_000, "sync": "inline", "turn_ms_max": 7}
WORKER = {
    "node": "w1", "pid": 77, "slots": 2, "slots_min": 1, "slots_max": 8, "running": 2, "waiting": 3, "draining": True,
}  # fmt: skip
REPORT: dict[str, Any] = {"leader": "b1", "term": 2, "brokers": [BROKER], "workers": [WORKER], "queues": [QUEUE]}


def test_top_shows_rates_between_two_looks() -> None:
    later = {
        **REPORT,
        "queues": [{**QUEUE, "completed": 1_090, "failed": 11}, {**QUEUE, "name": "mail", "completed": 3, "failed": 0}],
        "brokers": [{**BROKER, "applied_index": 1_005}],
    }
    text = text_of(top.picture(REPORT, later, 2.0), 100)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert "leader b1, term 2   502 tasks/s" in text
    assert lines["default"][1:4] == ["500", "5.0", "5"]
    assert lines["mail"][1] == "1.5"
    assert lines["b1"][2:5] == ["1005", "2.5", "7"]
    assert lines["w1"][-1] == "draining"
    assert lines["w1"][2:4] == ["2", "(1..8)"], "open slots, and their bounds"


def test_top_marks_a_worker_that_an_operator_has_taken_out() -> None:
    out = {**WORKER, "node": "w2", "pid": None, "slots": 0, "slots_min": 0, "slots_max": 0, "drained": True}
    text = text_of(top.picture(REPORT, {**REPORT, "workers": [WORKER, out]}, 1.0), 100)
    assert next(line for line in text.splitlines() if line.startswith("w2")).split()[-1] == "drained"


def test_top_has_no_rates_at_first_and_none_across_a_time_without_a_leader() -> None:
    nobody = {**REPORT, "leader": None, "workers": [], "queues": [], "brokers": [{**BROKER, "role": "down"}]}
    assert "tasks/s" not in text_of(top.picture(REPORT, REPORT, 0.0), 100)
    assert "tasks/s" not in text_of(top.picture(nobody, REPORT, 1.0), 100)
    text = text_of(top.picture(REPORT, nobody, 1.0), 100)
    assert "no broker answers" in text and "worker" not in text


def test_top_of_an_idle_new_cluster_says_that_there_is_nothing_yet() -> None:
    empty = {**REPORT, "workers": [], "queues": []}
    text = text_of(top.picture(empty, empty, 1.0), 100)
    assert "0 tasks/s" in text and "no queue was used yet" in text and "no worker is registered" in text


def test_a_restart_says_once_where_to_look_when_a_node_does_not_come_back(capsys: Any) -> None:
    shown = nodes.Shown(Course(Wanted.AGAIN, ["w1"], [], named=True), is_quiet=False)
    for rest in (Rest("it is not back"), Rest("it is not back", "w1 is late"), Rest("it is not back", "w1 is late")):
        shown.step(rest)
    assert capsys.readouterr().err == "w1 is late\n"


# -- schedules --------------------------------------------------------------------------------------------------------


SLOT = SlotInfo(slot=DATE, outcome="completed", task=33_554_433, ended_at=DATE.replace(second=9), manual=False)
NIGHTLY = ScheduleInfo(
    name="nightly[eu]", task="reports:nightly", times="0 21 * * MON-FRI", zone="Asia/Seoul", queue="reports",
    exclusive=True, misfire="once", on_busy="skip", state="active", parked_why="", alarm="", next_slot=DATE,
    upcoming=(DATE, DATE.replace(second=7)), unfinished=0, waiting=0, last=SLOT, history=(SLOT,),
)  # fmt: skip
PARKED = structs.replace(
    NIGHTLY, name="tidy", times="every 15m", zone=None, state="parked", parked_why="no live worker announces it",
    on_busy=None, exclusive=False, next_slot=None, last=None, history=(), alarm="slots are skipped", unfinished=2,
    waiting=1,
)  # fmt: skip


def test_a_list_of_schedules_fits_a_terminal() -> None:
    text = text_of(cron.listing([NIGHTLY, PARKED]))
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    flat = " ".join(text.split())
    for shown in ("nightly[eu]", "0 21 * * MON-FRI", "2026-01-31 09:30:05", "completed", "parked", "every 15m"):
        assert shown in flat


def test_one_schedule_is_described_line_by_line() -> None:
    lines = dict(line.split("  ", 1) for line in cron.described(NIGHTLY))
    found = {name.strip(): value.strip() for name, value in lines.items()}
    assert found["fires"] == "0 21 * * MON-FRI Asia/Seoul" and found["runs"] == "none unfinished"
    assert found["exclusive"] == "one run at a time; if it is unfinished: skip"
    assert found["next slots"] == "2026-01-31 09:30:05+00:00, 2026-01-31 09:30:07+00:00" and "alarm" not in found
    parked = "\n".join(cron.described(PARKED))
    for shown in ("parked (no live worker announces it)", "runs may overlap", "2 unfinished, 1 waiting", "skipped"):
        assert shown in parked


def test_slots_say_what_became_of_them() -> None:
    skipped = structs.replace(SLOT, outcome="skipped: busy", task=None, ended_at=None, manual=True)
    text = " ".join(text_of(cron.slots([SLOT, skipped])).split())
    assert "33554433" in text and "skipped: busy, asked for" in text


def test_dates_of_schedules_say_how_far_their_zone_is_from_utc() -> None:
    seoul = DATE.astimezone(ZoneInfo("Asia/Seoul"))
    slot = structs.replace(SLOT, slot=seoul, ended_at=seoul)
    there = structs.replace(NIGHTLY, next_slot=seoul, upcoming=(seoul,), last=slot, history=(slot,))
    listed = [line.split() for line in text_of(cron.listing([there, NIGHTLY])).splitlines()]
    first, second = (number for number, words in enumerate(listed) if words[:1] == ["nightly[eu]"])
    assert "18:30:05" in listed[first] and listed[first + 1][-3:] == ["+09:00", "+09:00", "completed"]
    assert "09:30:05" in listed[second] and listed[second + 1][-3:] == ["+00:00", "+00:00", "completed"]
    assert "2026-01-31 18:30:05+09:00" in "\n".join(cron.described(there))
    assert text_of(cron.slots([slot])).count("2026-01-31 18:30:05+09:00") == 2


@pytest.mark.parametrize("words", [["cron", "here.toml", "show", "x"], ["cron", "show", "here.toml", "x"]])
def test_the_topology_may_stand_before_the_command(tmp_path: Path, monkeypatch: Any, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert isinstance(result.exception, TopologyError), result.output


def test_a_schedule_has_a_name() -> None:
    result = CliRunner().invoke(main, ["cron", "show", "here.toml", ""])
    assert result.exit_code == 2 and "that of no schedule" in result.output
