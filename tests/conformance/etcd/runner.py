"""Finds transcripts in folders of any layout, tells what they are by their directives, and runs them."""

from pathlib import Path

from etcd import quorum
from etcd.environment import COMMANDS, Environment
from etcd.grammar import Directive, parse_file, without_log

CONFIGURATION_CHANGE = "configuration change"
LEADERSHIP_TRANSFER = "leadership transfer"

_CONFIGURATION_COMMANDS = frozenset(("simple", "enter-joint", "leave-joint"))
_SKIPPED_COMMANDS = {
    "propose-conf-change": CONFIGURATION_CHANGE,
    "transfer-leadership": LEADERSHIP_TRANSFER,
}
_SKIPPED_WORDS = {
    "EntryConfChange": CONFIGURATION_CHANGE,
    "MsgTimeoutNow": LEADERSHIP_TRANSFER,
    "MsgTransferLeader": LEADERSHIP_TRANSFER,
}


def find(folder: Path) -> list[Path]:
    """The transcripts in a folder and all below it, or the one file given."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def reason_to_skip(directives: list[Directive]) -> str:
    """What the file needs that the core does not have; "" if it can be run."""
    for directive in directives:
        if directive.command in _CONFIGURATION_COMMANDS:
            return CONFIGURATION_CHANGE
        lines = [directive.command, *(line.split()[0] for line in directive.input.splitlines() if line.split())]
        for command in lines:
            if command in _SKIPPED_COMMANDS:
                return _SKIPPED_COMMANDS[command]
        for word, reason in _SKIPPED_WORDS.items():
            if word in directive.expected:
                return reason
    return ""


def run(path: Path) -> None:
    """Raises AssertionError at the first directive whose output is not exactly what is expected."""
    environment = Environment()
    for directive in parse_file(path):
        where = f"{path.name}:{directive.line}: {directive.command}"
        assert directive.command in COMMANDS or directive.command in quorum.COMMANDS, f"{where}: unknown directive"
        actual = quorum.run(directive) if directive.command in quorum.COMMANDS else environment.run(directive)
        expected, shown = without_log(directive.expected), without_log(actual)
        assert shown == expected, f"{where}\n--- expected\n{expected}--- printed\n{shown}"


def rewrite(path: Path) -> None:
    """Replaces the expected output by what is printed: for our own files, to be read and checked by hand."""
    lines = path.read_text(encoding="utf-8").split("\n")
    environment = Environment()
    text: list[str] = []
    position = 0
    for directive in parse_file(path):
        separator = next(at for at in range(directive.line, len(lines)) if lines[at].strip() == "----")
        text += lines[position : separator + 1]
        text += (environment.run(directive) or "ok").rstrip("\n").split("\n")
        position = separator + 1 + (len(directive.expected.split("\n")) if directive.expected else 0)
    path.write_text("\n".join(text + lines[position:]), encoding="utf-8")
