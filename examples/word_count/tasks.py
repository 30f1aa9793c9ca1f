"""The steps. Each knows its own arguments and nothing of the others: what comes before it, the cluster passes on."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster import Backoff, Outcome, current, task

WORD = re.compile(r"\w+")
WORDS_SHOWN = 10


@dataclass
class Words:
    """Of one file, or of several."""

    files: list[str]
    counts: dict[str, int]


@task(retry=Backoff(times=2, on=(OSError,)))
def read(path: str) -> str:
    """The text of a file. One that is no UTF-8 stays so however often it is tried."""
    return Path(path).read_text(encoding="utf-8")


@task
def count(path: str, text: str) -> Words:
    return Words([path], Counter(word.lower() for word in WORD.findall(text)))


@task
def merge(names: list[str], parts: list[Outcome[Words]]) -> tuple[Words, list[str]]:
    """All parts that there are, and why the others are not there; an Outcome does not know what its task was about."""
    merged = Words([], {})
    failed: list[str] = []
    for name, part in zip(names, parts, strict=True):
        if not part.ok:
            failed.append(f"{name}: {part.error or part.state}")
            continue
        words = part.get()
        merged.files += words.files
        for word, number in words.counts.items():
            merged.counts[word] = merged.counts.get(word, 0) + number
    return merged, failed


@task
def write(merged: tuple[Words, list[str]], target: str) -> int:
    """Writes the report, whole or not at all; returns how many files are in it."""
    words, failed = merged
    ranking = sorted(words.counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{sum(words.counts.values())} words in {len(words.files)} files"]
    lines += [f"{number:8} {word}" for word, number in ranking[:WORDS_SHOWN]]
    lines += [f"left out: {error}" for error in sorted(failed)]
    draft = f"{target}.{current().id}.{current().attempt}"      # another attempt may be at work on the same report
    Path(draft).write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(draft, target)
    return len(words.files)
