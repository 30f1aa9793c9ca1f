"""What the documentation shows is run: files are written, commands typed, fragments executed against a real cluster.

Conventions of the pages: a `python` or `toml` block whose first line is `# NAME.py` or `# NAME.toml` is that file;
other `python` blocks are fragments that run one after another, with `cluster` connected; `sh` blocks are typed in the
folder of the files, unless they install something or launch the cluster, which the test does itself. A fragment knows
only what the page imported before it. The one thing that is changed, beside ports, is how long the quick start's long
work takes.
"""

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, Block, blocks, on_free_ports

from cluster import Client
from cluster.local import LocalCluster, free_ports
from cluster.topology import parse

PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)(#[\w-]+)?\)")
COMMAND_TIMEOUT_S = 60
LONG_TASKS = "range(400)"       # of the quick start: time enough for a person to kill a leader
LONG_TASKS_HERE = 120           # time enough for a test

ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "python"], ids=str)
def test_python_can_be_compiled(block):
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "toml"], ids=str)
def test_a_topology_is_valid(block):
    assert len(parse(block.text, str(block)).brokers) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target
        assert path.exists(), f"{page.relative_to(ROOT)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = ["#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.relative_to(ROOT)} links to {target}{anchor}"


def test_the_commands_of_the_examples_name_programs_and_files_that_are_there():
    (page,) = [path for path in PAGES if path.parent.name == "examples"]
    commands = [line for block in blocks(page) for line in block.text.splitlines()]
    assert len(commands) >= 9
    for program, *arguments in map(str.split, commands):
        assert program == "make" or find_spec(arguments[1]) is not None, arguments
        for argument in arguments:
            assert not argument.endswith(".toml") or (ROOT / argument).is_file(), argument


class Site:
    """A page's files in a folder, and its cluster on ports that are free."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.folder = folder
        self.blocks = list(blocks(page))
        ports: dict[str, int] = {}
        free = free_ports(8)
        for block in self.blocks:
            if block.file_name:
                text = on_free_ports(block.text, ports, free).replace(LONG_TASKS, f"range({LONG_TASKS_HERE})")
                (folder / block.file_name).write_text(text, encoding="utf-8")
        self.cluster = LocalCluster(folder / "topology.toml", log=folder / "launch.log")

    @property
    def commands(self) -> list[Block]:
        own = [block for block in self.blocks if block.language == "sh"]
        return [block for block in own if not re.search(r"^(make|pip)|cluster\.launch", block.text, re.MULTILINE)]

    @property
    def fragments(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "python" and not block.file_name]

    def type_in(self, command: str) -> str:
        """The output of a command in that folder."""
        return output_of(begin(command, self.folder))


def begin(command: str, folder: Path) -> "subprocess.Popen[str]":
    """A command in a shell whose `python` is this one; it goes on while others are typed. `output_of` waits for it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        ["bash", "-e", "-c", command],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def output_of(running: "subprocess.Popen[str]") -> str:
    with running:
        try:
            output, errors = running.communicate(timeout=COMMAND_TIMEOUT_S)
        except BaseException:
            running.kill()
            raise
    assert running.returncode == 0, f"{running.args}\n{output}{errors}"
    return output


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = Site(ROOT / request.param, tmp_path)
    with found.cluster:
        yield found


@pytest.mark.parametrize("site", ["README.md"], indirect=True)
def test_the_example_of_the_readme_does_what_it_says(site):
    (block,) = site.commands
    run, submit, status = block.text.splitlines()
    assert site.type_in(run) == "144\n332833500\n"
    assert site.type_in(submit) == "49\n"
    (shown,) = [block.text for block in site.blocks if block.language == "text"]
    # The same but for numbers, and who leads.
    shapes = [re.sub(r"\d+|leader|follower|inline|thread|[ ━─]+", "", text) for text in (shown, site.type_in(status))]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("site", ["docs/guide/quickstart.md"], indirect=True)
def test_the_quick_start_does_what_it_says(site):
    client, line, long, kill = (block.text for block in site.commands)
    output = site.type_in(client)
    assert "gives 144" in output and "the sum is 333283335000" in output
    output = site.type_in(line)
    assert output.startswith("49\n") and "leader b" in output
    running = begin(long, site.folder)
    assert running.stdout is not None and running.stdout.readline().endswith(f" of {LONG_TASKS_HERE}\n")
    term = site.cluster.status()["term"]
    site.type_in(kill)
    assert running.poll() is None, "the leader was killed when nothing was under way"
    assert f"the sum is {sum(number * number for number in range(LONG_TASKS_HERE))}" in output_of(running)
    assert site.cluster.status()["term"] > term
    whole = sum(number * number for number in range(400))
    assert f"the sum is {whole}" in (ROOT / "docs/guide/quickstart.md").read_text(encoding="utf-8")
    site.cluster.wait_for(lambda status: all(row["role"] in ("leader", "follower") for row in status["brokers"]))


# Pages whose fragments are one program, and how many pieces it has at least; commands are typed behind them.
PROGRAMS = [
    ("docs/guide/tasks.md", 11),
    ("docs/guide/async-tasks.md", 2),
    ("docs/guide/watching.md", 4),
    ("docs/guide/task-actors.md", 5),
    ("docs/guide/dead-letters.md", 3),
    ("docs/guide/workers.md", 1),
    ("docs/guide/locks.md", 10),
    ("docs/guide/schedules.md", 5),
    ("docs/guide/limits.md", 7),
    ("docs/guide/deduplication.md", 5),
    ("docs/guide/dependencies.md", 6),
]


@pytest.mark.parametrize(("site", "fragments_min"), PROGRAMS, indirect=["site"])
def test_the_examples_of_the_guide_do_what_they_say(site, fragments_min, monkeypatch):
    monkeypatch.syspath_prepend(site.folder)
    # One program in pieces, which knows what the page imported so far: nothing is imported here, a reader has no more.
    names: dict[str, Any] = {}

    async def run() -> int:
        async with Client.connect(site.folder / "topology.toml") as cluster:
            names["cluster"] = cluster
            for block in site.fragments:
                source = "\n" * (block.line - 1) + block.text         # a traceback then names the line of the page
                code = compile(source, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                value = eval(code, names)
                if inspect.iscoroutine(value):
                    await value
        return len(site.fragments)

    assert asyncio.run(run()) >= fragments_min
    for command in site.commands:
        site.type_in(command.text)


@pytest.mark.parametrize("site", ["docs/guide/blocking.md"], indirect=True)
def test_the_script_without_an_event_loop_does_what_it_says(site):
    script, pool = site.commands
    assert site.type_in(script.text) == "7\n2000\n30\n7\n"
    assert site.type_in(pool.text) == "300\n"


def test_the_tests_of_the_page_on_testing_pass(tmp_path):
    page = list(blocks(ROOT / "docs/guide/testing.md"))
    for block in page:
        if block.file_name:
            (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
    (command,) = [block.text for block in page if block.language == "sh"]
    assert "26 passed" in output_of(begin(f"{command.strip()} --basetemp={tmp_path / 'own'}", tmp_path))


@pytest.mark.parametrize("site", ["docs/guide/command-line.md"], indirect=True)
def test_the_examples_of_the_command_line_do_what_they_say(site):
    submit, results, tasks, parts, top, lock, completion = (block.text for block in site.commands)
    assert site.type_in(submit) == "6\n1\n"
    task = (site.folder / "id.txt").read_text().strip()
    assert site.type_in(results) == f"exit status 3\n{task} cancelled\nexit status 5\n"
    output = site.type_in(tasks)
    assert "ValueError: an empty text" in output and "attempt 1 on w1: failed" in output
    assert len((site.folder / "tasks.jsonl").read_text().splitlines()) == 4
    shown = json.loads((site.folder / "failed.json").read_text())
    page = (ROOT / "docs/guide/command-line.md").read_text(encoding="utf-8")
    for field in (*shown, *shown["attempts"][0]):
        assert f"`{field}`" in page, field
    assert "leader b" in site.type_in(parts)
    assert "tasks/s" in site.type_in(top)
    held = site.type_in(lock).splitlines()
    assert held[0].startswith("nightly is held under fence ") and held[1:] == ["exit status 3"]
    site.type_in(completion)
    assert "_quorumq_completion" in (site.folder / "quorumq.bash").read_text()


@pytest.mark.parametrize("site", ["docs/guide/quickstart.md"], indirect=True)
def test_the_commands_of_the_page_on_deploying_do_what_they_say(site):
    page = list(blocks(ROOT / "docs/guide/deploying.md"))
    deploy, patient, restarts, drain = [block.text for block in page if block.language == "sh"]
    (shown,) = [json.loads(block.text) for block in page if block.language == "json"]
    assert site.type_in(deploy).startswith("restarted: w1")
    assert "--timeout" in patient and site.type_in(patient).startswith("restarted: w1")
    everything, named, brokers = site.type_in(restarts).splitlines()
    assert everything.startswith("restarted: w1") and named.startswith("restarted: w1, b2 in ")
    report = json.loads(brokers)
    assert set(report) == set(shown) and set(report["nodes"][0]) == set(shown["nodes"][0])
    assert sorted(turn["node"] for turn in report["nodes"]) == ["b1", "b2", "b3"]
    out, rest = site.type_in(drain).split("leader b")
    assert out.startswith("drained: w1 in ") and "drained" in rest and "restarted: w1 in " in rest
