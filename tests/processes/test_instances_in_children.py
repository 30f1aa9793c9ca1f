"""Instances of task actors in a real child: what they keep, how they begin, and how they end."""

from pathlib import Path
from typing import Any

from actor_tasks import AlsoCounter, Counter, Lingering, Picky, Slow
from executor_rig import Rig, run, slot

from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_CRASHED, OUTCOME_FAILED, Failure
from cluster.task_actor import TaskActor, definition_of
from cluster.worker.wear import WearLimits

MODULE = "actor_tasks"


async def call(rig: Rig, actor: type[TaskActor], name: str, *args: object, **options: Any) -> Any:
    """What a method returns, or its failure."""
    task = definition_of(actor).tasks[name]
    outcome = await rig.outcome(rig.give(task, *args, **options))
    if outcome.status == OUTCOME_COMPLETED:
        return task.decode_result(outcome.body)
    assert outcome.error is not None
    return outcome.error


def test_an_instance_keeps_its_state_from_task_to_task() -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            pid = await rig.pid()
            assert [await call(rig, Counter, "add", 2) for _ in range(3)] == [(2, pid), (4, pid), (6, pid)]
            assert await call(rig, Counter, "add_later", 1) == (7, pid)
            assert (await call(rig, AlsoCounter, "add", 1))[0] == 1, "each class has its own"
            assert await call(rig, Counter, "who") == ("", 0, f"{MODULE}:Counter.who")

    run(main)


def test_each_key_has_an_instance_for_as_long_as_its_epoch() -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            for key, total in (("a", 1), ("b", 1), ("a", 2), ("b", 2)):
                assert (await call(rig, Counter, "add", 1, key=key, epoch=5))[0] == total
            assert (await call(rig, Counter, "add", 1))[0] == 1
            assert (await call(rig, Counter, "add", 1, key="a", epoch=6))[0] == 1
            assert await call(rig, Counter, "who", key="a", epoch=6) == ("a", 6, f"{MODULE}:Counter.who")
            assert (await call(rig, Counter, "add", 1, key="b", epoch=5))[0] == 3

    run(main)


def test_what_started_raises_fails_the_task_and_the_next_one_tries_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            given = {"key": str(tmp_path), "epoch": 1}
            error = await call(rig, Picky, "starts", **given)
            assert isinstance(error, Failure)
            assert (error.type, error.message) == ("FileNotFoundError", f"no file ready in {tmp_path}")
            assert "OSError" in error.kinds, "it can be retried"
            assert "raise FileNotFoundError" in error.traceback
            assert "executor.py" not in error.traceback and "instances.py" not in error.traceback
            (tmp_path / "ready").touch()
            assert await call(rig, Picky, "starts", **given) == 2
            assert await call(rig, Picky, "starts", **given) == 2

    run(main)


def test_an_exception_in_a_method_keeps_the_instance_unless_it_asks_for_a_new_one() -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            pid = await rig.pid()
            assert await call(rig, Counter, "add", 5) == (5, pid)
            error = await call(rig, Counter, "fail", "wrong")
            assert (error.type, error.message) == ("ValueError", "wrong") and "executor.py" not in error.traceback
            assert await call(rig, Counter, "add", 1) == (6, pid)
            assert await call(rig, Counter, "start_afresh") is None
            assert await call(rig, Counter, "add", 1) == (1, pid)

    run(main)


def test_the_limits_of_a_task_hold_for_started_as_well() -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            error = await call(rig, Slow, "work", soft_timeout_ms=100)
            assert (error.type, error.message) == ("ValueError", "interrupted")
            error = await call(rig, Slow, "work", timeout_ms=100)
            assert error.type == "TimeLimitExceeded"
            await rig.until(lambda: rig.starts == 2)
            assert (await call(rig, Counter, "add", 1))[0] == 1

    run(main)


def test_instances_are_stopped_when_the_child_ends_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            for key in ("a", "b"):
                await call(rig, Counter, "add", 3, key=key, epoch=1)
                await call(rig, Counter, "leave_word", str(tmp_path), key=key, epoch=1)
            await call(rig, Counter, "leave_word", "/nowhere/at/all")
            rig.child.close()
            await rig.until(lambda: rig.exits == 1)
            assert [(tmp_path / f"stopped-{key}").read_text() for key in ("a", "b")] == ["3", "3"]

    run(main)


def test_after_a_crash_nothing_is_left_and_the_next_task_gets_a_new_instance(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            pid = await rig.pid()
            await call(rig, Counter, "add", 3, key="a", epoch=1)
            await call(rig, Counter, "leave_word", str(tmp_path), key="a", epoch=1)
            task = rig.give(definition_of(Counter).tasks["exit"], 3, key="a", epoch=1)
            assert (await rig.outcome(task)).status == OUTCOME_CRASHED
            total, second = await call(rig, Counter, "add", 1, key="a", epoch=1)
            assert total == 1 and second != pid
            assert not (tmp_path / "stopped-a").exists(), "nobody was there to stop it"

    run(main)


def test_arguments_that_do_not_fit_start_no_instance(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot(MODULE) as rig:
            outcome = await rig.outcome(rig.give(definition_of(Counter).tasks["add"], "one"))
            assert outcome.status == OUTCOME_FAILED and outcome.error is not None
            assert outcome.error.message == f"argument 1 of {MODULE}:Counter.add: Expected `int`, got `str`"

    run(main)


def test_the_successor_of_a_child_begins_with_a_key_when_the_instance_of_the_former_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        begin = definition_of(Lingering).tasks["begin"]
        async with slot(MODULE, wear=WearLimits(recycle_after=1)) as rig:
            given = [rig.give(begin, str(tmp_path), key="k", epoch=7) for _ in range(3)]
            pids = [begin.decode_result((await rig.outcome(task)).body) for task in given]
            lives = (tmp_path / "lives").read_text().split("\n")[:5]
            assert lives == [f"{what} {pid}" for pid in pids for what in ("began", "ended")][:5]
            assert rig.exits == 0 and len(set(pids)) == 3

    run(main)
