"""What may be imported is what is documented: `docs/reference/index.md` has one line for each name."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import actors
import cluster
import cluster.local
import cluster.testing

PUBLIC = [cluster, cluster.local, cluster.testing, actors]
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "index.md"
ROW = re.compile(r"\| `(\w+)` \| (.+) \|")


def documented(module: ModuleType) -> list[str]:
    """Names in the section of a module."""
    sections = re.split(r"^## ", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"{module.__name__}\n"))
    return [row.group(1) for row in ROW.finditer(section)]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_are_exactly_the_documented_ones(module):
    assert documented(module) == list(module.__all__)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_are_sorted_and_exist(module):
    assert list(module.__all__) == sorted(set(module.__all__))
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_public_classes_and_functions_say_what_they_are():
    for module in (cluster, cluster.local, cluster.testing):
        for name in module.__all__:
            assert (getattr(module, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_every_error_of_the_cluster_is_a_cluster_error():
    errors = [
        value
        for name in cluster.__all__
        if isinstance(value := getattr(cluster, name), type) and issubclass(value, Exception)
    ]
    assert len(errors) > 10
    assert all(issubclass(error, cluster.ClusterError) for error in errors)
