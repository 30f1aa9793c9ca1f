"""Keys that wait for a home: only those that a pool serves hear of it."""

from state_rig import Rig

from cluster.state.credit import Pool
from cluster.state.homeless import Homeless


def homeless(rig: Rig) -> Homeless:
    return rig.leader._tables.keys.homeless


def newest_pool(rig: Rig) -> Pool:
    return list(rig.leader._tables.credit.pools.values())[-1]


def waiting_keys(rig: Rig) -> list[str]:
    return [channel.key for channel in homeless(rig).served(newest_pool(rig))]


def test_a_pool_hears_of_those_whose_head_it_serves_in_order_of_their_making(rig: Rig) -> None:
    client = rig.client()
    for key, name, labels in (("c", "f", ()), ("a", "g", ()), ("b", "f", ()), ("d", "f", ("gpu",))):
        client.submit(name, key=key, actor="A", labels=labels)
    rig.worker("w1", names=("f", "g"), queues=("other",))
    assert waiting_keys(rig) == []
    rig.worker("w2", names=("h",))
    assert waiting_keys(rig) == []
    worker = rig.worker("w3", names=("f",))
    assert worker.inbox[0].key == "c" and waiting_keys(rig) == ["b"]
    gpu = rig.worker("w4", names=("f", "g"), labels=("gpu",), prefetch=1)
    assert gpu.inbox[0].key == "a" or gpu.inbox[0].key == "b"
    assert waiting_keys(rig) == sorted({"a", "b", "d"} - {gpu.inbox[0].key}, key="cabd".index)


def test_a_key_is_found_under_the_name_of_what_is_next_now(rig: Rig) -> None:
    client = rig.client()
    (first,) = client.submit("g", key="a", actor="A")
    client.submit("f", key="a", actor="A")
    assert list(homeless(rig).by_head) == [("default", "g")]
    client.cancel(first)
    assert list(homeless(rig).by_head) == [("default", "f")]
    assert [assignment.key for assignment in rig.worker(names=("f",)).inbox] == ["a"]
    assert not homeless(rig).by_head and not homeless(rig).by_index


def test_keys_hear_that_the_pool_that_served_them_has_ended(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker("w1", names=("f",), prefetch=1)
    client.submit("f")
    client.submit("f", key="a", actor="A")
    assert rig.queue()["parked"] == 0
    worker.drain()
    assert rig.queue()["parked"] == 1
    other = rig.worker("w2", slots=2, names=("f",), prefetch=1)
    worker.expire()
    assert "a" in [assignment.key for assignment in other.inbox]
