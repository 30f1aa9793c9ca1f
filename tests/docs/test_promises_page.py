"""The page of promises names tests that exist."""

import re

import pytest
from pages import ROOT

PAGE = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r'`(tests/[\w/]+\.py)(?: -k (?:"([^"]+)"|(\w+)))?`', PAGE)


def test_each_promise_names_a_test():
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert rows
    for line in rows:
        assert "`tests/" in line.rpartition(" | ")[2], line


@pytest.mark.parametrize(("file", "quoted", "word"), NAMED)
def test_a_promise_names_tests_that_exist(file, quoted, word):
    source = (ROOT / file).read_text(encoding="utf-8")
    names = re.findall(r"def (test_\w+)", source)
    words = re.findall(r"[\w]+", quoted or word)
    assert names
    for part in set(words) - {"and", "or"}:
        assert any(part in name for name in names) or re.search(rf"\b{part}\b", source), f"{file} has no {part}"
