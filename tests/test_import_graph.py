"""The architecture, as far as imports tell it: which rooms are pure, who may know whom, who may touch the
world.

The rooms are those of the design: `actors` knows nothing of `cluster`; `cluster` uses the public names of
`actors` only; cores decide without a clock, without chance and without the operating system.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import actors

ROOT = Path(__file__).resolve().parent.parent
PURE_LIBRARY = frozenset(
    {
        "bisect", "collections", "collections.abc", "dataclasses", "enum", "functools", "heapq", "itertools",
        "math", "msgspec", "operator", "re", "struct", "typing", "zlib",
    }
)  # fmt: skip

# Pure modules by path; a pattern ends in `/*` for all modules of a folder.
PURE = (
    "actors/errors.py",
    "actors/messages.py",
    "actors/envelope.py",
    "actors/ref.py",
    "actors/mailbox.py",
    "actors/asks.py",
    "actors/timers.py",
    "actors/monitors.py",
    "actors/registry.py",
    "actors/runtime/ports.py",
    "actors/supervision/spec.py",
    "actors/supervision/strategy.py",
    "actors/transport/frame.py",
    "actors/transport/session.py",
    "cluster/broker/admission.py",
    "cluster/broker/entries.py",
    "cluster/broker/gate.py",
    "cluster/broker/rounds.py",
    "cluster/client/arguments.py",
    "cluster/client/holding.py",
    "cluster/client/outbox.py",
    "cluster/client/rolling.py",
    "cluster/client/seen.py",
    "cluster/dependencies.py",
    "cluster/durations.py",
    "cluster/errors.py",
    "cluster/peer/checkpoints.py",
    "cluster/peer/formation.py",
    "cluster/raft/*",
    "cluster/schedules/*",
    "cluster/state/*",
    "cluster/storage/record.py",
    "cluster/storage/snapshot_format.py",
    "cluster/window.py",
    "cluster/wire.py",
    "cluster/worker/blame.py",
    "cluster/worker/child_messages.py",
    "cluster/worker/completions.py",
    "cluster/worker/lease.py",
    "cluster/worker/loop_page.py",
    "cluster/worker/loop_slots.py",
    "cluster/worker/log_tail.py",
    "cluster/worker/page.py",
    "cluster/worker/progress_rows.py",
    "cluster/worker/reports.py",
    "cluster/worker/ring.py",
    "cluster/worker/scaling.py",
    "cluster/worker/slots.py",
    "cluster/sizes.py",
    "cluster/worker/claims.py",
    "cluster/worker/wear.py",
)

# What else single pure modules may import, and why it leaves them pure.
PURE_BUT_FOR = {
    "cluster/durations.py": {"datetime"},           # timedelta, a type of what users give
    "cluster/errors.py": {"builtins"},              # the classes of Python's own exceptions, by their names
    "cluster/schedules/parsing.py": {"cronsim", "datetime"},        # the parser of expressions, and a date to call it
    "cluster/schedules/times.py": {"cronsim", "datetime", "zoneinfo"},     # the calendar, and a type
    # Rules of zones, which are data, but come from files: why the leader computes slots and the log carries them.
    "cluster/schedules/zones.py": {"datetime", "difflib", "zoneinfo"},
}
ASKS_THE_CLOCK = r"\.(now|utcnow|today)\("           # of datetime and date, which are no port

# What only these rooms may import: the operating system, time, chance, threads, sockets and loops.
WORLD = frozenset(
    {
        "_thread", "concurrent", "ctypes", "fcntl", "gc", "mmap", "multiprocessing", "os", "queue", "random",
        "resource", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess",
        "tempfile", "threading", "time", "uuid", "uvloop", "zmq",
    }
)  # fmt: skip
MAY_TOUCH_THE_WORLD = (
    "actors/runtime/*",
    "actors/simulation/*",          # seeded generators, and the garbage collector at fixed moments
    "actors/testing/*",
    "actors/transport/zmq_link.py",
    "cluster/simulation/*",
    "cluster/client/executor.py",   # an interface of Python's for its threads: locks and futures
    "cluster/command_line/*",       # a user's process, not a node of a cluster
    "cluster/launch.py",
    "cluster/worker/executor.py",          # runs user code in a child: its stderr, its stack, its kill
    "cluster/worker/loop_executor.py",     # runs user code on a loop of its own
    "cluster/local.py",             # runs `launch` for demos, tests and benchmarks
    "cluster/testing/*",            # stands in for children, whose code sleeps and blocks
)

PUBLIC_ACTORS = ("actors", "actors.testing", "actors.simulation")
# What makes objects of any class out of bytes, and with that runs whatever their sender likes.
UNPICKLERS = {"pickle", "_pickle", "marshal", "shelve", "cloudpickle", "dill", "copyreg"}

# Who loads modules by their names, and whose names these are. Never those of a message.
MAY_LOAD_BY_NAME = {
    "actors/__init__.py": "its own, when somebody first asks for one of their names",
    "actors/runtime/child.py": "the entry that the code which starts a child gives",
    "actors/runtime/forkserver.py": "those that the code which starts it wants loaded before",
    "cluster/command_line/submit.py": "the one that somebody types",
    "cluster/worker/executor.py": "those that the topology lists",
}

CLUSTER_MAY_NAME = {
    # path -> modules of `actors` that it may import besides the public ones, and why
    "cluster/worker/executor.py": {"actors.runtime.ports"},    # runs in the child, which loads as little as it can
    "cluster/command_line/lock.py": {"actors.runtime.child"},  # a command that it runs must not outlive it
}


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    folders = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("/*"))
    return path in patterns or path.startswith(folders)


def sources() -> list[str]:
    rooms = (ROOT / "actors", ROOT / "cluster")
    found = [str(path.relative_to(ROOT)) for room in rooms for path in room.rglob("*.py")]
    assert len(found) > 30
    return sorted(found)


def imports(path: str, *, typing_too: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of each import of a file; those under TYPE_CHECKING do not count unless asked for."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing_too:
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def is_module(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists() or path.is_dir()


def path_of(module: str, name: str) -> str:
    """The file that `from module import name` reads."""
    for dotted in (f"{module}.{name}" if name else module, module):
        path = dotted.replace(".", "/")
        if (ROOT / f"{path}.py").exists():
            return f"{path}.py"
    return f"{module.replace('.', '/')}/__init__.py"


def empty_package(path: str) -> bool:
    """An `__init__.py` that imports nothing makes nothing impure."""
    return path.endswith("__init__.py") and (not (ROOT / path).exists() or not list(imports(path)))


@pytest.mark.parametrize("path", [path for path in sources() if matches(path, PURE)])
def test_pure_modules_import_pure_things_only(path):
    for module, name in imports(path):
        if module in PURE_LIBRARY | PURE_BUT_FOR.get(path, set()) or module.startswith("msgspec"):
            continue
        target = path_of(module, name)
        assert matches(target, PURE) or empty_package(target), f"{path} imports {module}, which is not pure"


@pytest.mark.parametrize("path", PURE_BUT_FOR)
def test_what_a_pure_module_may_import_besides_it_does_import_and_takes_no_date_of_today_from(path):
    assert matches(path, PURE)
    assert PURE_BUT_FOR[path] <= {module for module, _ in imports(path)}, f"{path} needs less than it may"
    assert not re.search(ASKS_THE_CLOCK, (ROOT / path).read_text(encoding="utf-8"))


def test_every_pattern_of_pure_modules_still_matches_something():
    for pattern in PURE:
        assert any(matches(path, (pattern,)) for path in sources()), f"nothing is called {pattern} any more"


@pytest.mark.parametrize("path", [path for path in sources() if not matches(path, MAY_TOUCH_THE_WORLD)])
def test_only_the_rooms_of_the_real_world_touch_it(path):
    for module, name in imports(path):
        if module == "signal" and name.startswith("SIG"):
            continue    # a number
        touched = {module, module.split(".")[0]} & WORLD
        assert not touched, f"{path} imports {module}: time, chance and the system come through ports"


@pytest.mark.parametrize("path", sources())
def test_nothing_is_unpickled_and_few_load_modules_by_name(path):
    for module, name in imports(path, typing_too=True):
        assert module.split(".")[0] not in UNPICKLERS, f"{path} imports {module}"
        if module.split(".")[0] == "importlib":
            assert path in MAY_LOAD_BY_NAME, f"{path} imports {module}.{name}: say whose names it loads"
    nodes = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"__import__", "eval", "exec"}, f"{path} runs what it is given"


def test_actors_know_nothing_of_the_cluster():
    for path in sources():
        if path.startswith("actors/"):
            for module, _ in imports(path, typing_too=True):
                top = module.split(".")[0]
                assert top not in ("cluster", "bench", "examples"), f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in sources() if path.startswith("cluster/")])
def test_the_cluster_uses_public_names_of_actors_only(path):
    for module, name in imports(path, typing_too=True):
        if module.split(".")[0] != "actors":
            continue
        allowed = {*PUBLIC_ACTORS, *CLUSTER_MAY_NAME.get(path, ())}
        assert module in allowed, f"{path} imports {module}: only what {', '.join(PUBLIC_ACTORS)} export"
        assert name or module in PUBLIC_ACTORS, f"{path}: name what is imported from {module}"


# Who may import whom inside `cluster`: bench, examples, launch, gateway -> client, worker, broker -> peer ->
# cores.
SHELLS = tuple(f"cluster.{name}" for name in ("peer", "broker", "wire", "worker", "client", "launch", "command_line"))
# The state does not compute when a schedule fires: zones differ between brokers. A leader does, and the log tells all.
ABOVE_CORES = ("cluster.compaction", "cluster.schedules", *SHELLS)
BROKER_ONLY = tuple(f"cluster.{name}" for name in ("raft", "storage", "compaction", "broker", "peer"))
FORBIDDEN_ARROWS = (
    ("cluster/raft/", ("actors", "cluster.state", "cluster.storage", *ABOVE_CORES)),
    ("cluster/state/", ("actors", "cluster.raft", "cluster.storage", *ABOVE_CORES)),
    ("cluster/storage/", ("cluster.state", *ABOVE_CORES)),
    ("cluster/schedules/", ("actors", "cluster.state", *BROKER_ONLY, *SHELLS)),
    ("cluster/compaction/", ("cluster.raft", *SHELLS)),
    ("cluster/peer/", ("cluster.broker", "cluster.worker", "cluster.client", "cluster.launch")),
    ("cluster/broker/", ("cluster.worker", "cluster.client", "cluster.launch")),
    ("cluster/worker/", (*BROKER_ONLY, "cluster.client")),
    ("cluster/client/", (*BROKER_ONLY, "cluster.worker", "cluster.command_line")),
    ("cluster/command_line/", (*BROKER_ONLY, "cluster.worker")),
)


@pytest.mark.parametrize(("room", "forbidden"), FORBIDDEN_ARROWS)
def test_arrows_point_downwards(room, forbidden):
    for path in sources():
        if not path.startswith(room):
            continue
        for module, name in imports(path, typing_too=True):
            dotted = f"{module}.{name}" if is_module(f"{module}.{name}") else module
            for other in forbidden:
                assert not f"{dotted}.".startswith(f"{other}."), f"{path} imports {dotted}"


TEST_TOOLS = ("cluster/simulation/", "cluster/testing/")


def test_what_runs_in_production_knows_nothing_of_what_tests_it():
    for path in sources():
        if path.startswith("cluster/") and not path.startswith(TEST_TOOLS):
            for module, name in imports(path, typing_too=True):
                target = path_of(module, name)
                assert not target.startswith(TEST_TOOLS), f"{path} imports {target}"
                assert module != "actors.simulation", f"{path} imports {module}"


def test_the_plugin_of_pytest_loads_nothing_before_a_test_asks_for_it():
    """pytest loads it wherever quorumq is installed, in projects that have nothing to do with it."""
    import subprocess
    import sys

    code = "import quorumq_pytest, sys; assert not {'actors', 'cluster', 'msgspec', 'zmq'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert entry_points == {"pytest11": {"quorumq": "quorumq_pytest"}}


def test_storage_knows_of_raft_its_messages_only():
    for path in sources():
        if path.startswith("cluster/storage/"):
            for module, name in imports(path, typing_too=True):
                if module == "cluster.raft" or module.startswith("cluster.raft."):
                    dotted = f"{module}.{name}"
                    assert dotted.startswith("cluster.raft.messages"), f"{path} imports {dotted}"


def test_public_names_of_actors_are_sorted_and_exist():
    assert actors.__all__ == sorted(actors.__all__)
    assert len(set(actors.__all__)) == len(actors.__all__)
    for name in actors.__all__:
        assert getattr(actors, name) is not None


def test_importing_actors_loads_neither_zeromq_nor_uvloop():
    """Executor children import `actors` and use neither: that would be memory and time for nothing."""
    import subprocess
    import sys

    code = "import actors, sys; assert not {'zmq', 'uvloop'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ruff_refuses_what_bypasses_the_ports():
    """The banned API of the linter and the list above say the same."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    banned = set(table["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"])
    assert {"time", "random", "socket", "os", "threading", "asyncio.sleep"} <= banned
    assert WORLD - {"gc"} <= banned | {name.split(".")[0] for name in banned}
    free = set(table["tool"]["ruff"]["lint"]["per-file-ignores"])
    assert set(MAY_TOUCH_THE_WORLD) == {path for path in free if path.startswith(("actors/", "cluster/"))}


BYPASSES = (
    r"asyncio\.(sleep|wait_for|timeout|timeout_at|to_thread)\(",
    r"\.call_later\(",
    r"loop\(\)\.time\(",
)


@pytest.mark.parametrize("path", [path for path in sources() if not matches(path, MAY_TOUCH_THE_WORLD)])
def test_nobody_sleeps_or_looks_at_the_clock_of_the_loop(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for call in BYPASSES:
        assert not re.search(call, text), f"{path}: {call} bypasses the clock port"
