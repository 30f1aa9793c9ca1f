"""What the command line makes of its arguments, and how status looks on a narrow terminal."""

import io
import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from cluster.command_line.main import main
from cluster.command_line.submit import _argument, _find_task, _keywords, submit
from cluster.errors import TaskNotFound
from cluster.status_tables import print_part, print_tables, who_leads

TERMINAL_COLUMNS = 80


def parsed(*arguments: str) -> tuple[str, ...]:
    """The task's arguments of `submit`, as texts."""
    context = submit.make_context("submit", ["topology.toml", "module:function", *arguments])
    values: tuple[str, ...] = context.params["arguments"]
    return values


# -- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["-5", "-0", "-1.5", "-2e3", "-1.25E-7"])
def test_a_negative_number_is_an_argument(number: str) -> None:
    assert parsed(number, "7") == (number, "7")
    assert parsed("7", number, "--wait") == ("7", number)
    assert _argument(number) == float(number)


@pytest.mark.parametrize("option", ["-x", "--wiat", "--wiat=1", "-5x", "-05", "--5", "-Infinity"])
def test_an_unknown_option_is_still_refused(option: str) -> None:
    with pytest.raises(click.NoSuchOption):
        parsed("1", option)
    assert parsed("1", "--", option) == ("1", option)


def test_an_option_that_is_misspelt_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(submit, ["topology.toml", "module:function", "--wiat"])
    assert result.exit_code == 2
    assert "--wiat" in result.output and "--wait" in result.output


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('{"a": [1, "b"]}', {"a": [1, "b"]}),
        ('"7"', "7"),
        ("word", "word"),
        ("two words", "two words"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("2026-01-31", "2026-01-31"),
        ("", ""),
    ],
)
def test_an_argument_is_json_and_otherwise_a_word(text: str, value: object) -> None:
    assert _argument(text) == value


@pytest.mark.parametrize("text", ['{"a":', "{a: 1}", "[1, 2", '"open', " [", "[NaN]"])
def test_broken_json_is_refused_with_how_to_quote_it(text: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        _argument(text)
    said = str(refused.value)
    assert said.startswith(f"{text} is not valid JSON: ")
    assert "single quotes" in said and """'{"a": 1}'""" in said


def test_arguments_by_name_are_json_as_well() -> None:
    assert _keywords(("rows=[1, 2]", "text=a=b")) == {"rows": [1, 2], "text": "a=b"}


@pytest.mark.parametrize(
    ("texts", "said"), [(("rows",), "NAME=JSON"), (("=1",), "NAME=JSON"), (("a=1", "a=2"), "keyword a is given twice")]
)
def test_arguments_by_name_that_make_no_sense_are_refused(texts: tuple[str, ...], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        _keywords(texts)


@pytest.mark.parametrize(
    ("function", "near"),
    [("near_tasks:cuont", "near_tasks:count"), ("near_tasks:Acount.add", "near_tasks:Account"),
     ("near_tasks:Account.addd", "near_tasks:Account.add")],
)  # fmt: skip
def test_a_function_that_is_not_there_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, near: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "near_tasks.py").write_text(
        "from cluster import TaskActor, method, task\n\n\n@task(timeout=1)\ndef count() -> int:\n    return 1\n\n\n"
        "class Account(TaskActor):\n    @method(timeout=1)\n    def add(self) -> int:\n        return 1\n"
    )
    with pytest.raises(TaskNotFound) as error:
        _find_task(str(tmp_path / "topology.toml"), function)
    assert f"did you mean {near}" in str(error.value)


def test_ids_and_filters_together_are_refused_as_such() -> None:
    result = CliRunner().invoke(main, ["replay", "topology.toml", "5", "--state", "dead"])
    assert result.exit_code == 2 and "not both" in result.output


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and result.output.startswith("quorumq, version ")


# -- status ------------------------------------------------------------------------------------------------------

QUEUE = {
    "ready": 1_000_001, "waiting": 1_002, "running": 1_003, "delayed": 1_000_004, "parked": 1_000_005,
    "completed": 1_000_000_006, "failed": 1_000_007, "dead": 10_008, "cancelled": 1_000_009, "expired": 1_000_010,
}  # fmt: skip
BROKER = {
    "pid": 4_194_301, "term": 1_011, "commit_index": 100_000_012, "applied_index": 100_000_013, "sync": "thread",
    "digest": [100_000_000, 2**32 - 1],
}  # fmt: skip
WORKER = {"pid": 4_194_302, "slots": 8, "slots_min": 4, "slots_max": 1_024, "running": 31, "waiting": 512}
REPORT = {
    "leader": "b1",
    "term": 1_011,
    "brokers": [
        {"node": "b1", "role": "leader", "quarantined": False, **BROKER},
        {"node": "b2", "role": "follower", "quarantined": True, **BROKER},
        {"node": "b3", "role": "down", **dict.fromkeys(BROKER)},
    ],
    "workers": [
        {"node": "a-worker-with-quite-a-long-name", "draining": True, "children": range(4_194_000, 4_194_032), **WORKER}
    ],
    "queues": [{"name": "default", **QUEUE}, {"name": "q" * 100, **QUEUE}],
}


def shown(report: dict[str, object]) -> str:
    screen = io.StringIO()
    listed = [{**row, "children": list(row["children"])} for row in report["workers"]]  # type: ignore[attr-defined]
    print_tables({**report, "workers": listed}, Console(file=screen, width=TERMINAL_COLUMNS))
    return screen.getvalue()


def test_tables_fit_80_columns_with_every_title_and_every_number_whole() -> None:
    text = shown(REPORT)
    assert max(map(len, text.splitlines())) <= TERMINAL_COLUMNS
    assert "…" not in text
    words = re.findall(r"\S+", text)
    for title in (*QUEUE, "commit", "applied", "digest", "sync", "slots", "children"):
        assert title in words, title
    for number in (*QUEUE.values(), 4_194_301, 4_194_302, 100_000_012, 100_000_013, 4_194_000, 4_194_031):
        assert str(number) in words, number
    assert {"100000000", "ffffffff", "thread", "follower", "quarantined", "draining"} <= set(words)
    assert text.replace("\n", "").count("q") > 100, "a long name is folded, not cut"
    assert "8 (4..1024)" in text, "open slots, and their bounds"


def test_what_limits_hold_back_is_shown_below_the_tables_and_below_those_of_queues() -> None:
    rows = [{"ready": 9, "why": "limit smtp: as many have started as 3/s allows", "until_ms": 1_700_000_000_000}]
    rows += [{"ready": 2, "why": f"limit [bold], share {number}: 1 of 1 are with workers"} for number in range(30)]
    text = shown({**REPORT, "limits": rows, "limits_more": 7})
    assert "  9: limit smtp: as many have started as 3/s allows, until 2023-11-14" in text.replace("\n", " ")
    assert "  2: limit [bold], share 5: 1 of 1 are with workers" in text
    assert "  and 11 more, see --json" in text and "  and 7 limits that the status has no room for" in text
    screen = io.StringIO()
    print_part("queues", {**REPORT, "limits": rows[:1]}, Console(file=screen, width=TERMINAL_COLUMNS))
    assert "held back\n  9: limit smtp" in screen.getvalue()
    assert "held back" not in shown(REPORT)


def test_a_cluster_without_a_leader_has_tables_too() -> None:
    text = shown({**REPORT, "leader": None, "workers": [], "queues": []})
    assert text.startswith("no majority: 1 of 3 brokers can vote, 2 are needed; b3 is down\n")
    assert text.count("not known without a leader") == 3
    assert shown({**REPORT, "workers": [], "queues": []}).count("  none") == 3


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ("down down down", "no broker answers: the cluster does not run, or cannot be reached from here"),
        ("forming down forming", "not formed yet: the first start waits for all 3 brokers; b2 is missing"),
        ("forming forming forming", "not formed yet: the first start waits for all 3 brokers"),
        ("down candidate down", "no majority: 1 of 3 brokers can vote, 2 are needed; b1, b3 are down"),
        ("leader down down", "no majority: 1 of 3 brokers can vote, 2 are needed; b2, b3 are down"),
        ("follower follower down", "no leader: 2 of 3 brokers answer and are electing one, or cannot reach each other"),
    ],
)
def test_the_first_line_says_why_nobody_leads(roles: str, says: str) -> None:
    rows = [{"node": f"b{number}", "role": role} for number, role in enumerate(roles.split(), 1)]
    assert who_leads({"leader": None, "term": 4, "brokers": rows}) == says


def test_a_part_of_the_status_is_a_table_by_itself() -> None:
    def part(name: str) -> str:
        screen = io.StringIO()
        print_part(name, {**REPORT, "workers": []}, Console(file=screen, width=TERMINAL_COLUMNS))
        return screen.getvalue()

    assert part("brokers").startswith("leader b1, term 1011\nnode")
    assert part("workers") == "  none\n"
    assert "ready" in part("queues") and "completed" in part("queues") and "leader" not in part("queues")


def test_tables_that_nobody_has_confirmed_say_so_and_how_old_they_are() -> None:
    screen = io.StringIO()
    print_tables({**REPORT, "workers": []}, Console(file=screen, width=TERMINAL_COLUMNS), stale=True)
    assert "not confirmed by a leader: workers and queues as of entry 100000013" in screen.getvalue()
    assert "not confirmed" not in shown(REPORT)


def test_a_refusal_by_the_brokers_is_not_told_as_silence() -> None:
    rows = [{"node": name, "role": "down", "applied_index": None} for name in ("b1", "b2", "b3")]
    report = {"leader": None, "term": 0, "brokers": rows, "workers": [], "queues": [], "refusal": "wrong cluster"}
    assert who_leads(report) == "refused: wrong cluster"
