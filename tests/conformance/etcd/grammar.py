"""The file grammar of the transcripts (github.com/cockroachdb/datadriven).

A file is a list of directives: a command line (`command argument key=value key=(v1, v2)`), input lines, a line `----`
and the output that is expected, up to a blank line. Lines of etcd's log are not compared: our core does not log.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SEPARATOR = "----"
LOG_LINE = re.compile(r" *(DEBUG|INFO|WARN|ERROR|FATAL) ")
NOTHING = "ok"      # what a directive without any output prints


@dataclass(frozen=True)
class Argument:
    """`key` (no values), `key=value` or `key=(value, ...)`."""

    key: str
    values: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Directive:
    line: int           # of the file, where the command is
    command: str
    arguments: list[Argument]
    input: str
    expected: str

    def values(self, key: str) -> list[str]:
        return [value for argument in self.arguments if argument.key == key for value in argument.values]

    def names(self) -> list[str]:
        """Arguments without a value, in order."""
        return [argument.key for argument in self.arguments if not argument.values]


def parse_file(path: Path) -> list[Directive]:
    return list(_directives(path.read_text(encoding="utf-8").split("\n")))


def parse_line(line: str) -> tuple[str, list[Argument]]:
    command, *words = _words(line)
    return command, [_argument(word) for word in words]


def without_log(text: str) -> str:
    """The text as it is compared. A directive whose whole output was log lines printed nothing of its own."""
    kept = "".join(f"{line}\n" for line in text.split("\n") if line and not LOG_LINE.match(line))
    return "" if kept == f"{NOTHING}\n" else kept


def _directives(lines: list[str]) -> Iterator[Directive]:
    position = 0
    while position < len(lines):
        start = position
        line = lines[position].strip()
        position += 1
        if not line or line.startswith("#"):
            continue
        while line.endswith("\\") and position < len(lines):
            line = line[:-1].rstrip() + " " + lines[position].strip()
            position += 1
        given: list[str] = []
        while position < len(lines) and lines[position].strip() != SEPARATOR:
            given.append(lines[position])
            position += 1
        expected, position = _expected(lines, position + 1)
        command, arguments = parse_line(line)
        yield Directive(start + 1, command, arguments, "\n".join(given).strip(), expected)


def _expected(lines: list[str], position: int) -> tuple[str, int]:
    """The output after the separator, and where the next directive may start."""
    found: list[str] = []
    if lines[position : position + 1] == [SEPARATOR]:       # doubled separators: blank lines belong to the output
        position += 1
        while position < len(lines) and lines[position : position + 2] != [SEPARATOR, SEPARATOR]:
            found.append(lines[position])
            position += 1
        return "\n".join(found), position + 2
    while position < len(lines) and lines[position].strip():
        found.append(lines[position])
        position += 1
    return "\n".join(found), position


def _words(line: str) -> list[str]:
    """Splits at spaces outside of parentheses."""
    words, depth = [""], 0
    for character in line:
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]


def _argument(word: str) -> Argument:
    key, equals, value = word.partition("=")
    if not equals:
        return Argument(key)
    if not (value.startswith("(") and value.endswith(")")):
        return Argument(key, [value])
    values, depth = [""], 0
    for character in value[1:-1]:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    return Argument(key, [item.strip() for item in values])
