"""The topology file: which nodes make up a cluster, and where they live.

`parse` is pure: text in, `Topology` or `TopologyError` out. Every error names the key, its line where it can be
found, what is wrong and what would be right, because this file is the first thing that a new user gets wrong.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from cluster.errors import TopologyError
from cluster.sizes import size_bytes, size_text
from cluster.state.texts import LABELS_MAX, NAME_BYTES_MAX, is_name

BROKER_COUNTS = (1, 3, 5, 7)
BULK_PORT_OFFSET = 1_000
PORT_MAX = 65_535
SLOTS_MAX = 1_024
ASYNC_TASKS_DEFAULT = 200
ASYNC_TASKS_MAX = 4_096
WORKERS_MAX = 1_024
RECYCLE_AFTER_MAX = 1_000_000_000       # tasks
CHILD_BYTES_MIN = 16 * 1024 * 1024      # an interpreter with no task takes more
MEMORY_LIMIT_MIN = 64 * 1024 * 1024     # below this no task has room to run
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
PORT = re.compile(r"[0-9]{1,5}")
BOUNDS = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|localhost|\[::1\]")

CLUSTER_KEYS = ("name", "data", "insecure")
BROKER_KEYS = ("name", "address", "bulk_address")
WORKER_KEYS = (
    "name", "host", "slots", "queues", "modules", "prefetch", "labels", "async_tasks",
    "recycle_after", "recycle_above", "memory_limit",
)  # fmt: skip
TABLES = ("cluster", "broker", "worker")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class BrokerNode:
    """One broker: `address` is its control socket, `bulk_address` the one for large appends (host:port)."""

    name: str
    address: str
    bulk_address: str

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class WorkerNode:
    """One worker: `slots` executor children, or with `slots_min` > 0 between that and `slots`; `prefetch` 0 = auto. A
    child is replaced after `recycle_after` tasks, or when one leaves more than `recycle_above` bytes in memory, and
    killed above `memory_limit` bytes; 0 = never. So many `async_tasks` run at once; 0 = in slots."""

    name: str
    host: str
    slots: int
    queues: tuple[str, ...]
    modules: tuple[str, ...]
    prefetch: int
    labels: tuple[str, ...]
    recycle_after: int = 0
    recycle_above: int = 0
    memory_limit: int = 0
    async_tasks: int = ASYNC_TASKS_DEFAULT
    slots_min: int = 0


@dataclass(frozen=True, slots=True)
class Topology:
    """A valid topology. `data` is relative to the file's folder unless it is absolute."""

    name: str
    data: str
    insecure: bool
    brokers: tuple[BrokerNode, ...]
    workers: tuple[WorkerNode, ...]

    def node(self, name: str) -> BrokerNode | WorkerNode | None:
        nodes: tuple[BrokerNode | WorkerNode, ...] = (*self.brokers, *self.workers)
        return next((node for node in nodes if node.name == name), None)


def load(path: Path) -> Topology:
    """Reads the file. Raises TopologyError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TopologyError(f"{path}: not UTF-8: {error}") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Topology:
    """Reads a topology from TOML `text`; `source` names it in errors. Raises TopologyError."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:         # TOMLDecodeError, and Python's own for numbers of thousands of digits
        raise TopologyError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise TopologyError(f"{source}: not valid TOML: it is nested too deeply") from None
    return _Reader(document, text, source).topology()


class _Reader:
    """Checks one document key by key."""

    def __init__(self, document: dict[str, object], text: str, source: str) -> None:
        self.document = document
        self.source = source
        self.lines = dict(_key_lines(text))

    def topology(self) -> Topology:
        for key in self.document:
            if key not in TABLES:
                self.fail((key, 0, ""), f"unknown table [{key}]{_suggestion(key, TABLES)}")
        cluster = self.table("cluster")
        self.known(cluster, ("cluster", 0), CLUSTER_KEYS)
        where = ("cluster", 0)
        name = self.name(cluster, where)
        data = self.value(cluster, where, "data", str, "data")
        insecure = self.value(cluster, where, "insecure", bool, False)
        brokers = tuple(self.broker(row, index) for index, row in enumerate(self.rows("broker")))
        workers = tuple(self.worker(row, index) for index, row in enumerate(self.rows("worker")))
        if len(brokers) not in BROKER_COUNTS:
            self.fail(
                ("broker", 0, ""),
                f"{len(brokers)} brokers: use 3, 5 or 7 (1 for development); "
                "an even number adds a machine that can fail without adding one that may",
            )
        if len(workers) > WORKERS_MAX:
            self.fail(("worker", 0, ""), f"{len(workers)} workers; at most {WORKERS_MAX}")
        self.unique_names(brokers, workers)
        self.unique_addresses(brokers)
        if not insecure:
            self.loopback_only(brokers, workers)
        return Topology(name, data, insecure, brokers, workers)

    def broker(self, row: dict[str, object], index: int) -> BrokerNode:
        where = ("broker", index)
        self.known(row, where, BROKER_KEYS)
        name = self.name(row, where)
        address = self.address(row, where, "address", None)
        host, _, port = address.rpartition(":")
        bulk_port = int(port) + BULK_PORT_OFFSET
        bulk = self.address(row, where, "bulk_address", f"{host}:{bulk_port}")
        if "bulk_address" not in row and bulk_port > PORT_MAX:
            self.fail(
                (*where, "address"),
                f"address: port {port} leaves no room for the bulk port ({port} + {BULK_PORT_OFFSET} = "
                f"{bulk_port}); use a port up to {PORT_MAX - BULK_PORT_OFFSET} or give bulk_address",
            )
        return BrokerNode(name, address, bulk)

    def worker(self, row: dict[str, object], index: int) -> WorkerNode:
        where = ("worker", index)
        self.known(row, where, WORKER_KEYS)
        name = self.name(row, where)
        host = self.value(row, where, "host", str, "127.0.0.1")
        slots_min, slots = self.slots(row, where)
        modules = self.strings(row, where, "modules", None)
        if not modules:
            self.fail((*where, "modules"), "modules: name at least one module with @task functions")
        for module in modules:
            if not MODULE_NAME.fullmatch(module):
                self.fail((*where, "modules"), f"modules: {module!r} is not a dotted module name")
        prefetch = row.get("prefetch", "auto")
        if prefetch == "auto":
            prefetch = 0
        elif isinstance(prefetch, bool) or not isinstance(prefetch, int) or not 1 <= prefetch <= 512:
            self.fail((*where, "prefetch"), f'prefetch = {prefetch!r}: use "auto" or a number from 1 to 512')
        labels = self.strings(row, where, "labels", ())
        if len(labels) > LABELS_MAX or not all(map(is_name, labels)):
            self.fail((*where, "labels"), f"labels: at most {LABELS_MAX} are allowed, of {NAME_BYTES_MAX} bytes each")
        queues = self.strings(row, where, "queues", ("default",))
        if not queues:
            self.fail((*where, "queues"), "queues: name at least one queue, or leave the key out")
        async_tasks = self.value(row, where, "async_tasks", int, ASYNC_TASKS_DEFAULT)
        if not 0 <= async_tasks <= ASYNC_TASKS_MAX:
            self.fail(
                (*where, "async_tasks"),
                f"async_tasks = {async_tasks}: use 1 to {ASYNC_TASKS_MAX}, or 0 to run async tasks in slots",
            )
        wear = self.wear(row, where)
        return WorkerNode(name, host, slots, queues, modules, prefetch, labels, *wear, async_tasks, slots_min)

    def slots(self, row: dict[str, object], where: tuple[str, int]) -> tuple[int, int]:
        """The fewest and the most of a worker; the fewest is 0 if their number is fixed."""
        given = row.get("slots", 1)
        bounds = BOUNDS.fullmatch(given) if isinstance(given, str) else None
        if bounds is not None:
            fewest, most = int(bounds[1]), int(bounds[2])
        elif isinstance(given, int) and not isinstance(given, bool):
            fewest = most = given
        else:
            self.fail((*where, "slots"), f'slots = {given!r}: must be a whole number, or bounds, as "2..8"')
        if not (1 <= fewest <= SLOTS_MAX and 1 <= most <= SLOTS_MAX):
            self.fail((*where, "slots"), f"slots = {given!r}: use 1 to {SLOTS_MAX}")
        if fewest > most:
            self.fail((*where, "slots"), f'slots = {given!r}: the lower bound comes first: "{most}..{fewest}"')
        return (fewest if fewest < most else 0), most

    def wear(self, row: dict[str, object], where: tuple[str, int]) -> tuple[int, int, int]:
        """What a worker's child may be used for: tasks, bytes after a task, bytes while one runs."""
        after = self.value(row, where, "recycle_after", int, 0)
        if not 0 <= after <= RECYCLE_AFTER_MAX:
            allowed = f"use 1 to {RECYCLE_AFTER_MAX} tasks, or 0 for never"
            self.fail((*where, "recycle_after"), f"recycle_after = {after}: {allowed}")
        above = self.size(row, where, "recycle_above")
        limit = self.size(row, where, "memory_limit", MEMORY_LIMIT_MIN)
        if 0 < limit <= above:
            self.fail(
                (*where, "recycle_above"),
                f"recycle_above = {row['recycle_above']!r} is not below memory_limit = {row['memory_limit']!r}: "
                "a child would be killed before it is replaced; use a smaller one",
            )
        return after, above, limit

    # -- one value --------------------------------------------------------------------------------------------

    def table(self, key: str) -> dict[str, object]:
        table = self.document.get(key)
        if not isinstance(table, dict):
            self.fail((key, 0, ""), f"table [{key}] is missing")
        return table

    def rows(self, key: str) -> Sequence[dict[str, object]]:
        rows = self.document.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.fail((key, 0, ""), f"write [[{key}]] with two brackets: there may be several")
        return rows

    def known(self, row: dict[str, object], where: tuple[str, int], keys: tuple[str, ...]) -> None:
        for key in row:
            if key not in keys:
                self.fail((*where, key), f"unknown key {key!r} in [{where[0]}]{_suggestion(key, keys)}")

    def name(self, row: dict[str, object], where: tuple[str, int]) -> str:
        name = self.value(row, where, "name", str, None)
        if not NODE_NAME.fullmatch(name):
            self.fail((*where, "name"), f"name = {name!r}: use letters, digits, '_', '.', '-', at most 63")
        return name

    def address(self, row: dict[str, object], where: tuple[str, int], key: str, default: str | None) -> str:
        address = self.value(row, where, key, str, default)
        host, colon, port = address.rpartition(":")
        if not (host and colon and PORT.fullmatch(port) and 1 <= int(port) <= PORT_MAX) and key in row:
            self.fail((*where, key), f'{key} = {address!r}: write "host:port", port 1 to {PORT_MAX}')
        return address

    def size(self, row: dict[str, object], where: tuple[str, int], key: str, least: int = CHILD_BYTES_MIN) -> int:
        """Of a child's memory, in bytes; 0 if it is not given."""
        if key not in row:
            return 0
        try:
            size = size_bytes(key, row[key])
        except (TypeError, ValueError) as error:
            self.fail((*where, key), str(error))
        if size < least:
            self.fail(
                (*where, key),
                f"{key} = {row[key]!r}: use at least {size_text(least)}, or leave it out; a child that does "
                "nothing takes more than 16 MiB, and what its modules take",
            )
        return size

    def strings(
        self, row: dict[str, object], where: tuple[str, int], key: str, default: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        if key not in row and default is not None:
            return default
        items: list[object] = self.value(row, where, key, list, None)
        for item in items:
            if not isinstance(item, str) or not item:
                self.fail((*where, key), f"{key}: {item!r} is not a non-empty string")
        return tuple(str(item) for item in items)

    def value(
        self,
        row: dict[str, object],
        where: tuple[str, int],
        key: str,
        kind: type[Value],
        default: Value | None,
    ) -> Value:
        if key not in row:
            if default is None:
                self.fail((*where, ""), f"[{where[0]}] lacks {key!r}")
            return default
        value = row[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail((*where, key), f"{key} = {value!r}: must be {_KIND_NAMES[kind]}")
        return value

    # -- the whole --------------------------------------------------------------------------------------------

    def unique_names(self, brokers: tuple[BrokerNode, ...], workers: tuple[WorkerNode, ...]) -> None:
        seen: dict[str, str] = {}
        for table, names in (("broker", [node.name for node in brokers]), ("worker", [node.name for node in workers])):
            for index, name in enumerate(names):
                if name in seen:
                    self.fail((table, index, "name"), f"name {name!r} is taken by a {seen[name]}")
                seen[name] = table

    def unique_addresses(self, brokers: tuple[BrokerNode, ...]) -> None:
        seen: dict[str, str] = {}
        for index, node in enumerate(brokers):
            for key, address in (("address", node.address), ("bulk_address", node.bulk_address)):
                if address in seen:
                    self.fail(
                        ("broker", index, key),
                        f"{node.name!r}: {key} {address} is already {seen[address]} "
                        f"(the bulk port is the port + {BULK_PORT_OFFSET} unless bulk_address is given)",
                    )
                seen[address] = f"the {key} of {node.name!r}"

    def loopback_only(self, brokers: tuple[BrokerNode, ...], workers: tuple[WorkerNode, ...]) -> None:
        for index, broker in enumerate(brokers):
            for key, address in (("address", broker.address), ("bulk_address", broker.bulk_address)):
                if not LOOPBACK.fullmatch(address.rpartition(":")[0]):
                    self.fail(
                        ("broker", index, key),
                        f"{key} = {address!r} is not a loopback address: messages are neither encrypted nor "
                        "authenticated yet; set insecure = true in [cluster] if the network is yours alone",
                    )
        for index, worker in enumerate(workers):
            if not LOOPBACK.fullmatch(worker.host):
                self.fail(
                    ("worker", index, "host"),
                    f"host = {worker.host!r} is not a loopback address; set insecure = true in [cluster] "
                    "if the network is yours alone",
                )

    def fail(self, where: tuple[str, int, str], problem: str) -> NoReturn:
        table, index, key = where
        # A bulk address that was not given comes from the address.
        keys = (key, "address", "") if key == "bulk_address" else (key, "")
        line = next((self.lines[table, index, key] for key in keys if (table, index, key) in self.lines), None)
        raise TopologyError(f"{self.source}:{line}: {problem}" if line else f"{self.source}: {problem}")


_KIND_NAMES: dict[type, str] = {str: "a string", int: "a whole number", bool: "true or false", list: "a list"}
_HEADER = re.compile(r"\s*\[\[?\s*([A-Za-z_-]+)\s*\]\]?")
_KEY = re.compile(r"\s*\"?([A-Za-z0-9_-]+)\"?\s*=")


def _key_lines(text: str) -> Iterator[tuple[tuple[str, int, str], int]]:
    """Where each (table, index of its occurrence, key) stands; key "" is the table's header. Good enough for
    errors: TOML that spreads a key over other forms is found at its table."""
    table, index = "", 0
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header.group(1)
            index = counts.get(table, 0)
            counts[table] = index + 1
            yield (table, index, ""), number
        elif key := _KEY.match(line):
            yield (table, index, key.group(1)), number


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
