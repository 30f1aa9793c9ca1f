"""Clusters in memory run what the process has defined. Here that is what a test defines, and nothing of others."""

import pytest

from cluster import scheduling


@pytest.fixture(autouse=True)
def _no_schedules_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_registry", {})
