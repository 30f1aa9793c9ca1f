"""The topology file: what is valid, and that everything else is refused with the key, its line and what to do."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import TopologyError
from cluster.topology import BROKER_COUNTS, BrokerNode, Topology, WorkerNode, load, parse

GOOD = """\
[cluster]
name = "thumbnails"

[[broker]]
name = "b1"
address = "127.0.0.1:7101"

[[broker]]
name = "b2"
address = "127.0.0.1:7102"

[[broker]]
name = "b3"
address = "127.0.0.1:7103"

[[worker]]
name = "w1"
modules = ["shop.tasks"]
"""


def refusal(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse(text, "topology.toml")
    return str(caught.value)


def brokers(count: int) -> str:
    return "".join(f'[[broker]]\nname = "b{n}"\naddress = "127.0.0.1:{7100 + n}"\n' for n in range(1, count + 1))


def test_what_is_left_out_has_a_default():
    plan = parse(GOOD, "topology.toml")
    assert (plan.name, plan.data, plan.insecure) == ("thumbnails", "data", False)
    assert plan.brokers[0] == BrokerNode("b1", "127.0.0.1:7101", "127.0.0.1:8101")
    assert plan.brokers[0].host == "127.0.0.1"
    assert plan.workers == (WorkerNode("w1", "127.0.0.1", 1, ("default",), ("shop.tasks",), 0, ()),)


def test_everything_can_be_given():
    text = """
        [cluster]
        name = "all"
        data = "/srv/quorumq"
        insecure = true
        [[broker]]
        name = "b.1"
        address = "db1.example.org:7100"
        bulk_address = "10.0.0.1:9000"
        [[worker]]
        name = "w_1"
        host = "build1.example.org"
        slots = 16
        queues = ["default", "mail"]
        modules = ["shop.tasks", "mail"]
        prefetch = 4
        labels = ["gpu", "big"]
        recycle_after = 1000
        recycle_above = "1.5 GiB"
        memory_limit = 2000000000
    """
    assert parse(text, "t") == Topology(
        "all",
        "/srv/quorumq",
        True,
        (BrokerNode("b.1", "db1.example.org:7100", "10.0.0.1:9000"),),
        (
            WorkerNode(
                "w_1",
                "build1.example.org",
                16,
                ("default", "mail"),
                ("shop.tasks", "mail"),
                4,
                ("gpu", "big"),
                recycle_after=1_000,
                recycle_above=3 << 29,
                memory_limit=2_000_000_000,
            ),
        ),
    )


BOUNDS = [("4", (0, 4)), ('"2..8"', (2, 8)), ('"3..3"', (0, 3)), ('"1..1024"', (1, 1_024))]


@pytest.mark.parametrize(("slots", "bounds"), BOUNDS)
def test_slots_are_a_number_or_bounds(slots, bounds):
    (worker, *_) = parse(GOOD.replace('name = "w1"', f'name = "w1"\nslots = {slots}'), "t").workers
    assert (worker.slots_min, worker.slots) == bounds


def test_nodes_are_found_by_name():
    plan = parse(GOOD, "topology.toml")
    assert plan.node("b2") is plan.brokers[1]
    assert plan.node("w1") is plan.workers[0]
    assert plan.node("w2") is None


@pytest.mark.parametrize("count", range(9))
def test_there_are_1_3_5_or_7_brokers(count):
    text = '[cluster]\nname = "c"\n' + brokers(count)
    if count in BROKER_COUNTS:
        assert len(parse(text, "t").brokers) == count
    else:
        message = refusal(text)
        assert f"{count} brokers" in message and "3, 5 or 7" in message
        assert message.startswith("topology.toml:3: " if count else "topology.toml: ")


def test_brokers_alone_are_a_cluster():
    assert parse('[cluster]\nname = "c"\n' + brokers(3), "t").workers == ()


# (what is replaced in GOOD, by what, line of the error, what the error says)
WRONG = [
    ('name = "thumbnails"', 'nam = "thumbnails"', 2, ["'nam'", "[cluster]", "did you mean 'name'?"]),
    ('name = "thumbnails"', 'name = "a b"', 2, ["name = 'a b'", "letters, digits"]),
    ('name = "thumbnails"', 'name = ""', 2, ["name = ''"]),
    ('name = "thumbnails"', f'name = "{"x" * 64}"', 2, ["at most 63"]),
    ('name = "thumbnails"', "name = 7", 2, ["name = 7", "must be a string"]),
    ('name = "thumbnails"', 'data = "d"', 1, ["[cluster] lacks 'name'"]),
    ('name = "thumbnails"', 'name = "t"\ninsecure = "yes"', 3, ["insecure = 'yes'", "true or false"]),
    ('name = "thumbnails"', 'name = "t"\ndata = 5', 3, ["data = 5", "must be a string"]),
    ("[cluster]", "[clusters]", 1, ["unknown table [clusters]", "did you mean 'cluster'?"]),
    ('address = "127.0.0.1:7101"', 'adress = "127.0.0.1:7101"', 6, ["'adress'", "[broker]", "'address'"]),
    ('address = "127.0.0.1:7101"', "", 4, ["[broker] lacks 'address'"]),
    ('address = "127.0.0.1:7101"', 'address = "127.0.0.1"', 6, ["address = '127.0.0.1'", "host:port"]),
    ('address = "127.0.0.1:7101"', 'address = ":7101"', 6, ["host:port"]),
    ('address = "127.0.0.1:7101"', 'address = "127.0.0.1:0"', 6, ["port 1 to 65535"]),
    ('address = "127.0.0.1:7101"', 'address = "127.0.0.1:65536"', 6, ["port 1 to 65535"]),
    ('address = "127.0.0.1:7101"', 'address = "127.0.0.1:+71"', 6, ["host:port"]),
    ('address = "127.0.0.1:7101"', "address = 7101", 6, ["address = 7101", "must be a string"]),
    ('address = "127.0.0.1:7101"', 'address = "127.0.0.1:65000"', 6, ["65000", "bulk port", "bulk_address"]),
    ('address = "127.0.0.1:7102"', 'address = "127.0.0.1:7101"', 10, ["'b2'", "127.0.0.1:7101 is already", "'b1'"]),
    ('address = "127.0.0.1:7102"', 'address = "127.0.0.1:8101"', 10, ["already the bulk_address of 'b1'", "1000"]),
    ('address = "127.0.0.1:7102"', 'address = "127.0.0.1:6101"', 10, ["bulk_address 127.0.0.1:7101 is already"]),
    (
        'address = "127.0.0.1:7102"',
        'address = "127.0.0.1:7102"\nbulk_address = "127.0.0.1:7102"',
        11,
        ["bulk_address 127.0.0.1:7102 is already the address of 'b2'"],
    ),
    ('address = "127.0.0.1:7102"', 'address = "10.0.0.2:7102"', 10, ["10.0.0.2", "not a loopback", "insecure = true"]),
    (
        'address = "127.0.0.1:7102"',
        'address = "127.0.0.1:7102"\nbulk_address = "10.0.0.2:1"',
        11,
        ["bulk_address = '10.0.0.2:1'", "insecure = true"],
    ),
    ('name = "b2"', 'name = "b1"', 9, ["'b1' is taken by a broker"]),
    ('name = "w1"', 'name = "b3"', 17, ["'b3' is taken by a broker"]),
    ("[[worker]]", "[worker]", 16, ["[[worker]] with two brackets"]),
    ('modules = ["shop.tasks"]', "", 16, ["[worker] lacks 'modules'"]),
    ('modules = ["shop.tasks"]', "modules = []", 18, ["modules", "at least one module"]),
    ('modules = ["shop.tasks"]', 'modules = "shop.tasks"', 18, ["modules = 'shop.tasks'", "must be a list"]),
    ('modules = ["shop.tasks"]', "modules = [5]", 18, ["modules: 5 is not"]),
    ('modules = ["shop.tasks"]', 'modules = ["shop/tasks.py"]', 18, ["'shop/tasks.py' is not a dotted module name"]),
    ('name = "w1"', 'name = "w1"\nslots = 0', 18, ["slots = 0", "1 to 1024"]),
    ('name = "w1"', 'name = "w1"\nasync_tasks = -1', 18, ["async_tasks = -1", "1 to 4096", "or 0"]),
    ('name = "w1"', 'name = "w1"\nasync_tasks = 5000', 18, ["async_tasks = 5000", "1 to 4096"]),
    ('name = "w1"', 'name = "w1"\nslots = true', 18, ["slots = True", "a whole number"]),
    ('name = "w1"', 'name = "w1"\nslots = 2.0', 18, ["slots = 2.0", "a whole number"]),
    ('name = "w1"', 'name = "w1"\nslots = "8..2"', 18, ["slots = '8..2'", "lower bound comes first", '"2..8"']),
    ('name = "w1"', 'name = "w1"\nslots = "0..4"', 18, ["slots = '0..4'", "use 1 to 1024"]),
    ('name = "w1"', 'name = "w1"\nslots = "1..1025"', 18, ["slots = '1..1025'", "use 1 to 1024"]),
    ('name = "w1"', 'name = "w1"\nslots = "many"', 18, ["slots = 'many'", 'as "2..8"']),
    ('name = "w1"', 'name = "w1"\nslots = "-1..4"', 18, ["slots = '-1..4'", 'as "2..8"']),
    ('name = "w1"', 'name = "w1"\nslots = "4"', 18, ["slots = '4'", "a whole number"]),
    ('name = "w1"', 'name = "w1"\nslots = [2, 8]', 18, ["slots = [2, 8]", 'as "2..8"']),
    ('name = "w1"', 'name = "w1"\nprefetch = 0', 18, ["prefetch = 0", '"auto" or a number from 1 to 512']),
    ('name = "w1"', 'name = "w1"\nprefetch = 513', 18, ["prefetch = 513"]),
    ('name = "w1"', 'name = "w1"\nprefetch = true', 18, ["prefetch = True"]),
    ('name = "w1"', 'name = "w1"\nprefetch = "all"', 18, ["prefetch = 'all'"]),
    ('name = "w1"', 'name = "w1"\nqueues = []', 18, ["queues", "at least one queue"]),
    ('name = "w1"', 'name = "w1"\nqueues = [""]', 18, ["queues: '' is not"]),
    ('name = "w1"', 'name = "w1"\nlabels = [1]', 18, ["labels: 1 is not"]),
    ('name = "w1"', f'name = "w1"\nlabels = ["{"x" * 513}"]', 18, ["labels: at most 64", "512 bytes"]),
    ('name = "w1"', 'name = "w1"\nhost = "build1"', 18, ["host = 'build1'", "not a loopback", "insecure = true"]),
    ('name = "w1"', 'name = "w1"\nhost = 1', 18, ["host = 1", "must be a string"]),
    ('name = "w1"', 'name = "w1"\nrecycle_after = -1', 18, ["recycle_after = -1", "1 to 1000000000", "0 for never"]),
    ('name = "w1"', 'name = "w1"\nrecycle_after = "9"', 18, ["recycle_after = '9'", "a whole number"]),
    ('name = "w1"', 'name = "w1"\nrecycle_above = "5G"', 18, ["recycle_above", '"5G" is no size', '"500MB", "1.5GiB"']),
    ('name = "w1"', 'name = "w1"\nrecycle_above = 0', 18, ["recycle_above = 0", "at least 16 MiB", "leave it out"]),
    ('name = "w1"', 'name = "w1"\nmemory_limit = true', 18, ["memory_limit", "whole number of bytes, not True"]),
    ('name = "w1"', 'name = "w1"\nmemory_limit = "32MiB"', 18, ["memory_limit = '32MiB'", "at least 64 MiB"]),
    ('name = "w1"', 'name = "w1"\nmemory_limit = "2000TiB"', 18, ["memory_limit", "out of range", "1 PiB"]),
    (
        'name = "w1"',
        'name = "w1"\nmemory_limit = "1GiB"\nrecycle_above = "1GiB"',
        19,
        ["recycle_above = '1GiB' is not below memory_limit = '1GiB'", "smaller"],
    ),
    ('name = "w1"', 'name = "w1"\nslot = 1', 18, ["unknown key 'slot' in [worker]", "did you mean 'slots'?"]),
    ('name = "w1"', 'name = "w1"\nzzz = 1', 18, ["unknown key 'zzz'", "known: name, host, slots"]),
]


@pytest.mark.parametrize(("good", "wrong", "line", "says"), WRONG, ids=[f"{row[1]}"[:60] for row in WRONG])
def test_every_error_names_its_key_its_line_and_what_would_be_right(good, wrong, line, says):
    assert GOOD.count(good) == 1
    message = refusal(GOOD.replace(good, wrong))
    assert message.startswith(f"topology.toml:{line}: "), message
    for part in says:
        assert part in message


def test_a_table_that_is_missing_is_named():
    assert "table [cluster] is missing" in refusal(brokers(3))
    assert "table [cluster] is missing" in refusal("cluster = 5\n")


def test_text_that_is_no_toml_is_refused_with_its_place():
    assert "not valid TOML" in refusal("[cluster\n")
    assert "line 2" in refusal('[cluster]\nname = "x\n')


def test_a_key_that_stands_in_another_form_is_refused_without_a_line():
    """TOML has many ways to write a table; the error then names its key all the same."""
    message = refusal('cluster = { name = "c", nmae = "d" }\n' + brokers(3))
    assert "unknown key 'nmae' in [cluster]" in message


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "127.255.0.9:64535", "[::1]:7000"])
def test_loopback_has_several_names(address):
    text = f'[cluster]\nname = "c"\n[[broker]]\nname = "b"\naddress = "{address}"\n'
    assert parse(text, "t").brokers[0].address == address


@pytest.mark.parametrize("address", ["0.0.0.0:1", "127.0.0.1.example.org:1", "[::]:1", "*:1", "::1:1"])
def test_what_only_looks_like_loopback_is_none(address):
    text = f'[cluster]\nname = "c"\n[[broker]]\nname = "b"\naddress = "{address}"\n'
    assert "not a loopback address" in refusal(text)


def test_a_number_of_five_thousand_digits_is_an_error_of_the_file():
    """Python refuses to convert it, with a plain ValueError."""
    digits = "1" * 5_000
    assert "address" in refusal(GOOD.replace("127.0.0.1:7101", f"127.0.0.1:{digits}"))
    assert "not valid TOML" in refusal(f"x = {digits}\n")


def test_brackets_nested_without_end_are_an_error_of_the_file():
    assert "not valid TOML" in refusal("x = " + "[" * 20_000)


def test_a_file_is_read_as_utf_8(tmp_path):
    path = tmp_path / "topology.toml"
    path.write_bytes(GOOD.replace("shop.tasks", "späße.tasks").encode())
    assert load(path).workers[0].modules == ("späße.tasks",)
    path.write_bytes(GOOD.replace("shop.tasks", "späße.tasks").encode("latin-1"))
    with pytest.raises(TopologyError, match="not UTF-8"):
        load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, problem in [(tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(TopologyError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {problem}")


HEADERS = ["[cluster]", "[[broker]]", "[[worker]]", "[x]", "[broker]"]
KEYS = ["name", "data", "insecure", "address", "bulk_address", "host", "slots", "queues", "modules", "prefetch", "x"]
KEYS += ["recycle_after", "recycle_above", "memory_limit"]
VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["b1", "w1", "127.0.0.1:7101", "10.0.0.1:5", "h:70000", "default", "a.b"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3),
)


def toml(value: object) -> str:
    if isinstance(value, str):
        # TOML's basic strings are those of JSON, but for DEL and surrogates.
        return json.dumps(value.encode("utf-8", "replace").decode()).replace("\x7f", "?")
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value)


@st.composite
def documents(draw: st.DrawFn) -> str:
    lines = []
    for header in draw(st.lists(st.sampled_from(HEADERS), max_size=6)):
        lines.append(header)
        for key in draw(st.lists(st.sampled_from(KEYS), max_size=5, unique=True)):
            lines.append(f"{key} = {toml(draw(VALUES))}")
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), documents()))
def test_whatever_the_text_is_it_gives_a_topology_or_a_topology_error(text):
    try:
        plan = parse(text, "t")
    except TopologyError as error:
        assert str(error).startswith("t:")
    else:
        assert len(plan.brokers) in BROKER_COUNTS
        assert len({node.name for node in (*plan.brokers, *plan.workers)}) == len(plan.brokers) + len(plan.workers)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_good_file_with_any_line_replaced_by_anything_gives_no_other_error(data):
    lines = GOOD.splitlines()
    lines[data.draw(st.integers(0, len(lines) - 1))] = data.draw(st.text(max_size=40))
    try:
        parse("\n".join(lines), "t")
    except TopologyError as error:
        assert str(error).startswith("t:")
