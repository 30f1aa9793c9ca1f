"""Pages of the documentation, and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.(?:py|toml))")
ADDRESS = re.compile(r"127\.0\.0\.1:71\d\d")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int           # of its first line
    language: str
    text: str

    @property
    def file_name(self) -> str:
        """Of the file that it is; "" for a fragment."""
        found = FILE_NAME.fullmatch(self.text.partition("\n")[0])
        return found.group(1) if found else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start(2)) + 1, match.group(1), match.group(2))


def on_free_ports(text: str, ports: dict[str, int], free: Iterator[int]) -> str:
    """A text with other ports for the addresses of the pages; `ports` remembers which."""
    return ADDRESS.sub(lambda found: f"127.0.0.1:{ports.setdefault(found.group(), next(free))}", text)
