"""`python -m cluster.simulation`: what it prints, and how it ends."""

import json

import pytest
from click.testing import CliRunner
from cluster_course import SHORT

from cluster.simulation import Planted, Scenario
from cluster.simulation import __main__ as command
from cluster.simulation.calendar_scenario import Span, Year
from cluster.simulation.planted_calendar import PlantedCalendar

KEYS = [
    "seeds", "violations", "simulated_hours", "operations", "acknowledged", "lost", "duplicated_records", "faults",
    "elections", "wall_seconds", "snapshots", "restorations", "copies", "transfers", "interrupted_transfers",
    "refetches", "crashes_in_compaction", "replays", "grants", "lapses", "limited", "turns", "duplicates",
    "resizes", "years", "slots",
]  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Scenario", lambda seed: Scenario(seed, SHORT))


def test_it_prints_one_line_of_json(short: None):
    result = CliRunner().invoke(command.main, ["--seeds", "2", "--from", "7", "--json"])
    assert result.exit_code == 0
    (line,) = result.output.splitlines()
    report = json.loads(line)
    assert list(report) == KEYS
    assert report["seeds"] == 2
    assert report["violations"] == report["lost"] == report["duplicated_records"] == 0
    assert report["acknowledged"] > 0
    assert all(isinstance(count, int) for count in report["faults"].values())


def test_verbose_shows_what_happens(short: None):
    result = CliRunner().invoke(command.main, ["--seeds", "1", "--verbose"])
    assert result.exit_code == 0
    assert "leading" in result.stderr
    assert "digest" in result.stderr


def test_years_of_schedules_are_lived_on_demand(short: None, monkeypatch: pytest.MonkeyPatch):
    days = Span(days=2, incidents=6)
    monkeypatch.setattr(command, "Year", lambda seed: Year(seed, days))
    result = CliRunner().invoke(command.main, ["--seeds", "0", "--years", "2", "--from", "7", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert (report["seeds"], report["years"], report["violations"]) == (0, 2, 0)
    assert report["slots"] >= 20
    result = CliRunner().invoke(command.main, ["--seeds", "0"])
    assert result.exit_code == 2 and "nothing to run" in result.output


def test_what_goes_wrong_in_a_year_says_how_to_live_it_again(monkeypatch: pytest.MonkeyPatch):
    span = Span(days=30, incidents=200)
    monkeypatch.setattr(command, "Year", lambda seed: Year(seed, span, PlantedCalendar.FORGOTTEN_AT_FAILOVER))
    result = CliRunner().invoke(command.main, ["--seeds", "0", "--years", "1", "--from", "5", "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["violations"] >= 1
    assert "seed 5, " in result.stderr and " s: schedules: " in result.stderr
    assert "python -m cluster.simulation --seeds 0 --years 1 --from 5 --verbose" in result.stderr


def test_a_violation_names_the_seed_the_time_the_oracle_and_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "Scenario", lambda seed: Scenario(seed, planted=Planted.VOTE_NOT_PERSISTED))
    result = CliRunner().invoke(command.main, ["--seeds", "1", "--from", "3", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["violations"] >= 1
    assert "seed 3, " in result.stderr
    assert " s: promise: " in result.stderr
    assert "python -m cluster.simulation --seeds 1 --from 3 --verbose" in result.stderr
