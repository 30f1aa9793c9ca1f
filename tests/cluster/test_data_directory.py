"""A node's own folder: one holder at a time, a predecessor that ends is waited for, and what the system may say."""

import asyncio
import errno
import os

import pytest

from actors import SECOND, Locked, Ports
from actors.simulation import Process, World
from cluster.data_directory import LOCK_PATIENCE, LOCK_RETRY, DataUnusable, hold, may_pass

DIRECTORY = "data/w1"


class Holders:
    """Processes of one machine that want the same directory."""

    def __init__(self) -> None:
        self.world = World(1)
        self.outcomes: list[tuple[int, object]] = []        # after how long, and "held" or the error

    def start(self) -> Process:
        return self.world.process(f"holder-{len(self.world.processes)}", self._main, machine="m")

    async def _main(self, ports: Ports) -> None:
        begun = ports.clock.now()
        try:
            await hold(ports.files, ports.clock, DIRECTORY)
        except Locked as error:
            self.outcomes.append((ports.clock.now() - begun, error))
            return
        self.outcomes.append((ports.clock.now() - begun, "held"))
        await asyncio.get_running_loop().create_future()


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room on that disk"),
        (errno.EDQUOT, "make room on that disk"),
        (errno.EROFS, "mount it writable"),
        (errno.EACCES, "let this user write there"),
        (errno.EPERM, "let this user write there"),
        (errno.ENOTDIR, "must name a folder"),
        (errno.ENAMETOOLONG, "must name a folder"),
    ],
)
def test_what_an_operator_must_mend_says_where_what_and_how(number: int, advice: str) -> None:
    assert not may_pass(error(number))
    said = str(DataUnusable("/data/b1", error(number)))
    where = "the data directory '/data/b1' cannot be used: "
    assert said.startswith(f"{where}{os.strerror(number)} ({errno.errorcode[number]}); ")
    assert advice in said and "\n" not in said


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EINTR])
def test_what_may_pass_is_left_to_a_restart(number: int) -> None:
    assert may_pass(error(number))


def test_an_error_without_a_number_is_said_too() -> None:
    assert "FileNotFoundError: data/b1" in str(DataUnusable("data/b1", FileNotFoundError("data/b1")))


def test_who_comes_first_holds_it_at_once():
    holders = Holders()
    holders.start()
    holders.world.run_for(SECOND)
    assert holders.outcomes == [(0, "held")]


def test_a_successor_goes_on_soon_after_the_end_of_the_holder():
    holders = Holders()
    first = holders.start()
    holders.world.run_for(SECOND)
    holders.start()
    holders.world.run_for(3 * SECOND)
    assert len(holders.outcomes) == 1, "it waits"
    holders.world.crash(first)
    holders.world.run_for(LOCK_RETRY + LOCK_RETRY // 2)
    assert [outcome for _, outcome in holders.outcomes] == ["held", "held"]


def test_a_holder_that_stays_is_named_after_ten_seconds():
    holders = Holders()
    first = holders.start()
    holders.world.run_for(SECOND)
    holders.start()
    holders.world.run_for(LOCK_PATIENCE + SECOND)
    assert first.alive
    waited, outcome = holders.outcomes[1]
    assert LOCK_PATIENCE <= waited <= LOCK_PATIENCE + 2 * LOCK_RETRY
    assert isinstance(outcome, Locked) and outcome.path == f"{DIRECTORY}/lock" and outcome.pid
