"""Locks for programs without an event loop: threads, the end of a block, forks and Ctrl-C, on a real cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_rig import DEADLINE_S
from cluster_tasks import echo

from cluster import (
    BlockingClient,
    BlockingLock,
    Client,
    ClusterError,
    Election,
    Lock,
    LockBusy,
    LockLost,
    LockMismatch,
    ReadWriteLock,
    Semaphore,
)
from cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]


def test_eight_threads_hold_one_lock_one_at_a_time(client: BlockingClient) -> None:
    inside: list[int] = []
    most: list[int] = []
    fences: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            with Lock(client, "threads") as lock:
                inside.append(number)
                most.append(len(inside))
                fences.append(lock.fence)
                time.sleep(0.001)
                lock.assert_held()
                inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(most) == 80 and max(most) == 1
    assert fences == sorted(set(fences))


def test_two_clients_exclude_each_other(client: BlockingClient, cluster: LocalCluster) -> None:
    with Client.open(cluster.topology) as other, Lock(client, "both", note="mine") as lock:
        assert not Lock(other, "both").try_acquire()
        with pytest.raises(LockBusy) as caught:
            Lock(other, "both", wait="200ms").acquire()
        assert 0.2 <= caught.value.waited < 5
        with pytest.raises(LockMismatch):
            Semaphore(other, "both", 2).acquire()
        (info,) = other.locks("bo")
        assert (info.name, info.kind, info.held, info.waiting) == ("both", "mutex", 1, 0)
        assert (info.holders[0].note, info.holders[0].fence) == ("mine", lock.fence)
        lock.release()
        with Lock(other, "both", wait="5s") as taken:
            assert taken.fence > info.holders[0].fence


def test_all_kinds_have_the_same_words(client: BlockingClient) -> None:
    index = ReadWriteLock(client, "index")
    with index.read() as one, index.read() as two:
        assert one.fence < two.fence and not index.write().try_acquire()
    with index.write():
        assert not index.read().try_acquire()
    with Semaphore(client, "pool", 2), Semaphore(client, "pool", 2):
        assert not Semaphore(client, "pool", 2).try_acquire()
    lock = Lock(client, "words", hold="2s")
    assert isinstance(lock, BlockingLock) and repr(lock) == '<BlockingLock "words">' and lock.name == "words"
    assert not lock.is_held
    assert lock.acquire(wait="5s") == lock.fence
    lock.extend("1m")
    with pytest.raises(ClusterError, match=r'^lock "words" is acquired already'):
        lock.acquire()
    assert client.submit(echo.options(fence=lock.fence), 7).result("60s") == 7
    lock.release()
    with pytest.raises(ClusterError, match="is not acquired"):
        lock.assert_held()


def test_who_leads_can_be_asked_and_watched(client: BlockingClient) -> None:
    election = Election(client, "boss", "thread")
    leaders = election.watch()
    assert next(leaders) is None and election.leader() is None
    with election:
        leader = next(leaders)
        assert leader is not None and (leader.note, leader.fence) == ("thread", election.fence)
        assert election.leader() == leader
    assert next(leaders) is None
    leaders.close()


def test_a_lost_lock_is_told_by_the_next_call_and_where_the_block_ends(cluster: LocalCluster) -> None:
    client = Client.open(cluster.topology).start()
    with pytest.raises(LockLost, match="its client was closed"), Lock(client, "lost", hold="1h") as lock:
        client.close()
        assert not lock.is_held
        with pytest.raises(LockLost):
            lock.assert_held()
    other = Client.open(cluster.topology).start()
    with pytest.raises(ValueError, match="of the body"), Lock(other, "lost", wait="10s"):   # free by the goodbye
        other.close()
        raise ValueError("of the body")


def test_what_the_body_raises_comes_out_and_the_lock_is_free(client: BlockingClient) -> None:
    with pytest.raises(ValueError, match="of the body"), Lock(client, "raising"):
        raise ValueError("of the body")
    assert Lock(client, "raising").try_acquire()


def test_a_thread_that_holds_on_without_a_word_keeps_its_lock(client: BlockingClient, cluster: LocalCluster) -> None:
    """The client's own thread speaks for it."""
    with Client.open(cluster.topology) as other, Lock(client, "quiet", hold="2s") as lock:
        time.sleep(4)
        lock.assert_held()
        assert not Lock(other, "quiet").try_acquire()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_holds_nothing(client: BlockingClient) -> None:
    with Lock(client, "forked") as lock:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            answer = [str(lock.is_held)]
            for call in (lock.assert_held, lambda: lock.fence, lock.release, lambda: lock.__exit__(None, None, None)):
                try:
                    call()
                except ClusterError as error:
                    answer.append(str("forked" in str(error)))
            os.write(writer, " ".join(answer).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        with os.fdopen(reader) as told:
            assert told.read() == "False True True True True"
        lock.assert_held()


def test_ctrl_c_while_it_waits_leaves_nothing_behind(client: BlockingClient, cluster: LocalCluster) -> None:
    code = (
        "import os, signal, sys, threading\n"
        "from cluster import Client, Lock\n"
        "with Client.open(sys.argv[1]) as cluster:\n"
        "    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        Lock(cluster, 'ctrl-c').acquire()\n"
        "    except KeyboardInterrupt:\n"
        "        while any(info.waiting for info in cluster.locks('ctrl-c')):     # its release may be on its way\n"
        "            pass\n"
        "        print('nobody waits')\n"
    )
    with Lock(client, "ctrl-c"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(cluster.topology)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout, done.returncode) == ("nobody waits\n", 0), done.stderr


TURNS_SIGTERM_INTO_AN_EXIT = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"     # as docs/guide/locks.md says
HOLDS_UNTIL_IT_IS_TOLD = f"""
import asyncio, signal, sys, time
from cluster import Client, Lock

{TURNS_SIGTERM_INTO_AN_EXIT}
kind, topology = sys.argv[1:]


def in_a_block():
    with Client.open(topology) as cluster, Lock(cluster, "told", hold="1h"):
        print("held", flush=True)
        time.sleep(60)


def in_a_turn():
    with Client.open(topology) as cluster, cluster.exclusive("told", at_most="1h", hold="1h"):
        print("held", flush=True)
        time.sleep(60)


async def in_a_loop():
    async with Client.connect(topology) as cluster, Lock(cluster, "told", hold="1h"):
        print("held", flush=True)
        await asyncio.sleep(60)


asyncio.run(in_a_loop()) if kind == "loop" else in_a_turn() if kind == "turn" else in_a_block()
"""


@pytest.mark.parametrize("kind", ["block", "turn", "loop"])
def test_a_holder_that_turns_sigterm_into_an_exit_frees_its_lock_at_once(
    client: BlockingClient, cluster: LocalCluster, kind: str
) -> None:
    assert TURNS_SIGTERM_INTO_AN_EXIT in (ROOT / "docs/guide/locks.md").read_text(encoding="utf-8")
    call = [sys.executable, "-c", HOLDS_UNTIL_IT_IS_TOLD, kind, str(cluster.topology)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    lock = Lock(client, "told")
    assert lock.try_acquire()
    lock.release()


def test_a_holder_that_is_killed_loses_its_lock_after_its_hold_time(
    client: BlockingClient, cluster: LocalCluster, tmp_path: Path
) -> None:
    code = (
        "import sys, time\n"
        "from cluster import Client, Lock\n"
        "with Client.open(sys.argv[1]) as cluster, Lock(cluster, 'killed', hold='2s'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(cluster.topology)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert not Lock(client, "killed").try_acquire()
        process.send_signal(signal.SIGKILL)
        begun = time.monotonic()
        with Lock(client, "killed", wait="30s"):
            assert 1 < time.monotonic() - begun < 10
    finally:
        process.kill()
        process.wait()


def test_a_stopped_holder_knows_when_it_wakes_that_it_lost(client: BlockingClient, cluster: LocalCluster) -> None:
    code = (
        "import sys\n"
        "from cluster import Client, Lock\n"
        "with Client.open(sys.argv[1]) as cluster:\n"
        "    lock = Lock(cluster, 'stopped', hold='2s')\n"
        "    lock.acquire()\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print(lock.is_held, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(cluster.topology)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        with Lock(client, "stopped", wait="30s") as lock:
            process.stdin.write("\n")
            process.stdin.flush()
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "False\n"
            lock.assert_held()
    finally:
        process.kill()
        process.wait()


def test_threads_that_wait_when_the_client_is_closed_are_told(cluster: LocalCluster, client: BlockingClient) -> None:
    other = Client.open(cluster.topology).start()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            Lock(other, "closing").acquire()
        except ClusterError as error:
            errors.append(error)

    with Lock(client, "closing"):
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        while not any(info.waiting == 4 for info in client.locks("closing")):
            time.sleep(0.01)
        other.close()
        for thread in threads:
            thread.join(30)
        assert len(errors) == 4
        assert [info.waiting for info in client.locks("closing")] == [0]


def test_a_turn_that_looks_gives_way_and_one_that_does_not_is_waited_for(client: BlockingClient) -> None:
    begun, may_end = threading.Event(), threading.Event()
    reasons: list[str] = []

    def old(looks: bool) -> None:
        try:
            with client.exclusive("replaced", at_most="1m", on_busy="replace") as turn:
                begun.set()
                while looks and turn.is_held:
                    time.sleep(0.01)
                if looks:
                    with pytest.raises(LockLost, match="came to replace"):
                        turn.assert_held()
                may_end.wait(30)
        except LockLost as lost:
            reasons.append(lost.reason)

    for looks in (True, False):
        begun.clear()
        may_end.clear()
        thread = threading.Thread(target=old, args=(looks,))
        thread.start()
        assert begun.wait(30)
        with ThreadPoolExecutor(1) as pool:
            fence = pool.submit(take_turn, client)
            time.sleep(1)
            assert not fence.done(), "the block of the old one has not ended"
            may_end.set()
            assert fence.result(30) > 0
        thread.join(30)
    assert reasons == ["somebody came to replace who holds it"]


def take_turn(client: BlockingClient) -> int:
    with client.exclusive("replaced", at_most="1m", on_busy="replace") as turn:
        return turn.fence


def test_a_turn_that_noticed_itself_that_its_time_is_over_says_so(client: BlockingClient) -> None:
    with (
        pytest.raises(LockLost, match="held for as long as it may be"),
        client.exclusive("over", at_most="1s") as turn,
    ):
        while turn.is_held:
            time.sleep(0.001)
    with (
        pytest.raises(LockLost, match="held for as long as it may be"),
        client.exclusive("over too", at_most="1s") as turn,
    ):
        while turn.is_held:
            time.sleep(0.001)
        turn.assert_held()
