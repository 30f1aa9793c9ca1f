"""`python -m cluster lock` and `locks` on real processes: a command runs while a lock is held, and no longer."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cluster_rig import DEADLINE_S, command_line, make_topology, running, wait_until

from cluster import BlockingClient, Lock, Semaphore
from cluster.command_line.lock import EXIT_BUSY, EXIT_LOST, EXIT_NOT_FOUND, EXIT_NOT_RUN, EXIT_UNAVAILABLE
from cluster.local import LocalCluster

SAYS_WHERE = "echo $QUORUMQ_LOCK $QUORUMQ_FENCE"
STAYS = "sleep 60 & echo $!; wait"          # and says who stays


def lock(cluster: LocalCluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return command_line("cluster", "lock", str(cluster.topology), *arguments)


@contextmanager
def locked(cluster: LocalCluster, name: str, *options: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A command that stays under a lock, and the pid of what it started."""
    call = [sys.executable, "-m", "cluster", "lock", str(cluster.topology), name, *options, "--", "sh", "-c", STAYS]
    process = subprocess.Popen(
        call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    started = int(process.stdout.readline())
    try:
        yield process, started
    finally:
        with suppress(ProcessLookupError):
            os.kill(started, signal.SIGKILL)
        process.kill()
        process.communicate()


def is_running(pid: int) -> bool:
    """Neither gone nor left behind by a parent that does not look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def test_nobody_holds_a_lock_yet(cluster: LocalCluster) -> None:
    """The first one here: a command that was killed, as below, keeps its lock for a while."""
    assert command_line("cluster", "locks", str(cluster.topology)).stdout == "no locks are held\n"


def test_a_command_runs_under_a_lock_gets_its_fence_and_gives_its_status(cluster: LocalCluster) -> None:
    first = lock(cluster, "a", "--", "sh", "-c", f"{SAYS_WHERE}; exit 7")
    second = lock(cluster, "a", "--", "sh", "-c", SAYS_WHERE)
    assert (first.returncode, second.returncode) == (7, 0)
    (name, fence), (again, later) = first.stdout.split(), second.stdout.split()
    assert name == again == "a" and 0 < int(fence) < int(later)
    assert first.stderr == second.stderr == ""


def test_who_skips_or_has_waited_is_told_that_others_hold_it(cluster: LocalCluster, client: BlockingClient) -> None:
    with Lock(client, "b"):
        for how in (("--skip",), ("--wait", "200ms")):
            found = lock(cluster, "b", *how, "--", "sh", "-c", "echo it ran")
            assert (found.returncode, found.stdout) == (EXIT_BUSY, "")
            assert 'lock "b" is busy: others hold it' in found.stderr
            assert ("not waited for any more" in found.stderr) == (how[0] == "--wait")
    assert lock(cluster, "b", "--skip", "--", "true").returncode == 0


def test_a_cluster_that_cannot_be_reached_has_a_status_of_its_own(tmp_path: Path) -> None:
    topology = str(make_topology(tmp_path))
    call = ("cluster", "lock", topology, "b", "--deadline", "0.5", "--wait", "10ms", "--", "sh", "-c", "exit 1")
    found = command_line(*call)
    assert found.returncode == EXIT_UNAVAILABLE == 69
    assert found.stderr.startswith("error: Unavailable: no session in 0.5 s: no leader answered")
    assert found.stderr.endswith("; `quorumq status` says why\n")


def test_a_lock_that_the_cluster_refuses_has_that_status_too(cluster: LocalCluster, client: BlockingClient) -> None:
    with Semaphore(client, "b2", 2):
        found = lock(cluster, "b2", "--", "sh", "-c", "exit 1")
    assert found.returncode == EXIT_UNAVAILABLE and "LockMismatch" in found.stderr


def test_a_signal_ends_the_command_and_frees_the_lock(cluster: LocalCluster) -> None:
    with locked(cluster, "c") as (process, started):
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
        wait_until("the command has ended", lambda: not is_running(started))
        assert lock(cluster, "c", "--skip", "--", "true").returncode == 0


def test_a_signal_that_comes_as_soon_as_the_command_has_begun_is_passed_on(cluster: LocalCluster) -> None:
    """By the command itself, that is before its first words are read."""
    kills = ("sh", "-c", "kill -TERM $PPID; exec sleep 60")
    found = lock(cluster, "c2", "--", *kills)
    assert found.returncode == 128 + signal.SIGTERM
    assert lock(cluster, "c2", "--skip", "--", "true").returncode == 0


def test_a_command_whose_lock_was_lost_is_ended(cluster: LocalCluster) -> None:
    with locked(cluster, "d", "--hold", "2s") as (process, started):
        process.send_signal(signal.SIGSTOP)
        assert lock(cluster, "d", "--wait", "20s", "--", "true").returncode == 0
        process.send_signal(signal.SIGCONT)
        assert process.wait(DEADLINE_S) == EXIT_LOST
        assert process.stderr is not None and 'lock "d" is lost' in process.stderr.read()
        wait_until("the command has ended", lambda: not is_running(started))


def test_a_command_does_not_outlive_the_process_that_holds_its_lock(cluster: LocalCluster) -> None:
    command = ("sh", "-c", "echo $$; exec sleep 60")
    call = [sys.executable, "-m", "cluster", "lock", str(cluster.topology), "e", "--", *command]
    with subprocess.Popen(call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = int(process.stdout.readline())
        process.kill()
        wait_until("the command has ended", lambda: not is_running(started))


def test_a_command_keeps_its_status_if_nobody_takes_the_release(tmp_path: Path) -> None:
    with running(make_topology(tmp_path, slots=1)) as cluster:
        assert cluster.launch is not None
        ends_all = f"kill -KILL {cluster.launch.pid}; sleep 1; exit 7"
        found = lock(cluster, "h", "--deadline", "2", "--", "sh", "-c", ends_all)
        assert found.returncode == 7
        assert 'warning: others may have to wait for the lock "h"' in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("f", "--", "no-such-program"), EXIT_NOT_FOUND, "no-such-program: no such command"),
        (("f", "--hold", "1s", "--", "true"), 2, "2 s to 1 h are allowed"),
        (("f", "--skip", "--wait", "1s", "--", "true"), 2, "leave out"),
        (("x" * 600, "--", "true"), 2, "1 to 512 bytes"),
        (("f",), 2, "COMMAND"),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_takes_no_lock(
    cluster: LocalCluster, arguments: tuple[str, ...], status: int, says: str
) -> None:
    found = lock(cluster, *arguments)
    assert found.returncode == status and says in found.stderr and "Traceback" not in found.stderr


def test_what_cannot_be_run_is_said_and_leaves_the_lock_free(cluster: LocalCluster, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF no program")
    program.chmod(0o755)
    found = lock(cluster, "g", "--", str(program))
    assert found.returncode == EXIT_NOT_RUN and str(program) in found.stderr
    assert lock(cluster, "g", "--skip", "--", "true").returncode == 0


def test_locks_are_shown_with_who_holds_them(cluster: LocalCluster, client: BlockingClient) -> None:
    with Lock(client, "shown/1", note="a host"), Lock(client, "shown/2"):
        found = command_line("cluster", "locks", str(cluster.topology), "--prefix", "shown/", "--json")
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        assert [(row["name"], row["kind"], row["held"], row["waiting"]) for row in rows] == [
            ("shown/1", "mutex", 1, 0),
            ("shown/2", "mutex", 1, 0),
        ]
        assert rows[0]["holders"][0]["note"] == "a host"
        table = command_line("cluster", "locks", str(cluster.topology), "--prefix", "shown/", "--limit", "1")
        assert "shown/1" in table.stdout and "a host" in table.stdout and "shown/2" not in table.stdout
        assert "there are more" in table.stderr
    assert command_line("cluster", "locks", str(cluster.topology), "--prefix", "shown/").stdout == "no such locks\n"
