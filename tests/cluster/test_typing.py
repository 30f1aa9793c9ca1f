"""What a type checker says of a user's program: wrong calls are refused, results have the type of the function."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# `# E: code` = an error with this code is expected in this line; `# T: type` = what reveal_type says.
PROGRAM = """
from datetime import datetime
from cluster import (
    AsyncLock, Batch, BlockingLock, Client, Election, Handle, Leader, Lock, Outcome, ReadWriteLock, Record, Semaphore,
    TaskActor, after, cron, current, every, group, method, task,
)

@task
def resize(path: str, width: int, *, quality: int = 85) -> tuple[int, int]:
    return width, quality

@task(timeout="5m", queue="mail", retry=2)
async def send(address: str) -> str:
    return address

@task
def square(number: int) -> float:
    return float(number * number)

def plain(number: int) -> int:
    return number

class Model(TaskActor, timeout="30s", queue="models"):
    async def started(self) -> None:
        self.weights = [1.0]

    def stopped(self) -> None:
        self.weights.clear()

    def predict(self, row: list[float], *, scale: float = 1.0) -> float:
        return self.weigh(row[0]) * scale

    @method(timeout="5m")
    async def train(self, rows: int) -> str:
        return str(rows)

    def weigh(self, number: float) -> float:
        return number * self.weights[0]

class Big(Model, priority=9):
    pass

class Wrong(TaskActor, prio=1):  # E: call-arg
    @method(retry="often")  # E: arg-type
    def work(self) -> None: ...

@cron("0 21 * * MON-FRI", tz="Asia/Seoul", on_busy="queue")
@task(queue="reports")
def nightly(days: int = 1) -> str:
    return str(days)

@every("15m", anchor=datetime.now())
def tidy() -> bytes:
    return b""

@every("15m", exclusive=False)
@cron("0 0 * * *", name="daily")
async def sweep() -> float:
    return 1.0

@cron("0 0 * * *", misfire="maybe")  # E: arg-type
def wrong_policy() -> None: ...

@every("1h", zone="UTC")  # E: call-arg
def wrong_argument() -> None: ...

async def schedules(cluster: Client) -> None:
    reveal_type(nightly(2))  # T: str
    reveal_type(tidy())  # T: bytes
    reveal_type(await (await cluster.submit(sweep)))  # T: float
    nightly("2")  # E: arg-type
    reveal_type([info.next_slot async for info in cluster.schedules()])  # T: list[datetime.datetime | None]
    reveal_type(await cluster.run_now("nightly"))  # T: cluster.client.handle.Handle[Any]
    reveal_type((await cluster.history("nightly"))[0].outcome)  # T: str

async def actors(cluster: Client) -> None:
    model = cluster.actor(Model, key="eu")
    reveal_type(await model.predict([1.0]))  # T: Any
    reveal_type(await model.predict.submit([1.0]))  # T: cluster.client.handle.Handle[Any]
    reveal_type(await model[Model.predict]([1.0], scale=2))  # T: float
    reveal_type(await model[Model.train](3))  # T: str
    reveal_type(await model[Model.predict].submit([1.0]))  # T: cluster.client.handle.Handle[float]
    reveal_type(await model[Model.train].options(priority=9).submit(3))  # T: cluster.client.handle.Handle[str]
    reveal_type(await model[Model.train].map([3]))  # T: cluster.client.handle.Batch[str]
    reveal_type(await cluster.actor(Big)[Model.predict]([1.0]))  # T: float
    reveal_type(await cluster.actor(Big)[Big.predict]([1.0]))  # T: float
    reveal_type(Model().weigh(1.0))  # T: float
    await model[Model.predict](["1"])  # E: list-item
    await model[Model.predict]([1.0], scal=2)  # E: call-arg
    await model[Model.train].map(["3"])  # E: list-item
    await cluster.actor(Model)[Big.weigh](1.0)
    await cluster.actor(Model)[str.upper]()  # E: index
    await model.predict.options(prio=9)([1.0])  # E: call-arg
    cluster.actor(int)  # E: type-var
    cluster.actor(Model, key=7)  # E: arg-type

@task
def summarise(values: list[float]) -> str:
    return str(values)

@task
def judge(outcomes: list[Outcome[float]]) -> int:
    return sum(outcome.ok for outcome in outcomes)

async def dependencies(cluster: Client) -> None:
    one = await cluster.submit(square, 3)
    many = await cluster.map(square, range(10))
    reveal_type(after(one))  # T: float
    reveal_type(after(one, outcome=True))  # T: cluster.dependencies.Outcome[float]
    reveal_type(after(one, outcome=True).get())  # T: float
    reveal_type(group(many))  # T: list[float]
    reveal_type([after(each) for each in many.members()])  # T: list[float]
    reveal_type(group([one], one, many))  # T: list[float]
    reveal_type(group(one, outcomes=True))  # T: list[cluster.dependencies.Outcome[float]]
    reveal_type(await cluster.submit(summarise, group(many)))  # T: cluster.client.handle.Handle[str]
    reveal_type(await cluster.submit(judge, group(many, outcomes=True)))  # T: cluster.client.handle.Handle[int]
    with Client.open("topology.toml") as blocking:
        reveal_type(group(blocking.map(square, [1])))  # T: list[float]
        reveal_type(after(blocking.submit(square, 1)))  # T: float
    await cluster.submit(judge, group(many))  # E: arg-type
    await cluster.submit(square, after(one))  # E: arg-type
    await cluster.submit(square, one)  # E: arg-type
    after(3)  # E: call-overload

async def right(cluster: Client) -> None:
    handle = await cluster.submit(resize, "a.jpg", 640, quality=90)
    reveal_type(handle)  # T: cluster.client.handle.Handle[tuple[int, int]]
    reveal_type(await handle)  # T: tuple[int, int]
    reveal_type(await handle.result(timeout=5))  # T: tuple[int, int]
    reveal_type(handle.id)  # T: int
    reveal_type(handle.state())  # T: str
    reveal_type(await (await cluster.submit(send, "a@example.org")))  # T: str
    reveal_type(await cluster.submit(square.options(priority=9), 2))  # T: cluster.client.handle.Handle[float]
    batch = await cluster.map(square, range(10))
    reveal_type(batch)  # T: cluster.client.handle.Batch[float]
    reveal_type(await batch)  # T: list[float]
    reveal_type(await batch.results(timeout=1.5))  # T: list[float]
    async for finished in batch.as_completed():
        reveal_type(finished)  # T: cluster.client.handle.Handle[float]
    await batch.on_progress(lambda finished, failed, all_: None)
    reveal_type(await cluster.map(send, ["a", "b"]))  # T: cluster.client.handle.Batch[str]
    records: list[Record] = await cluster.records(batch.ids)
    reveal_type(square(3))  # T: float
    reveal_type(current().attempt)  # T: int

async def wrong(cluster: Client) -> None:
    await cluster.submit(resize, "a.jpg", "640")  # E: arg-type
    await cluster.submit(resize, "a.jpg")  # E: call-arg
    await cluster.submit(resize, "a.jpg", 640, 90)  # E: call-arg
    await cluster.submit(resize, "a.jpg", 640, qualty=90)  # E: call-arg
    await cluster.submit(send, 5)  # E: arg-type
    await cluster.submit(plain, 5)  # E: arg-type
    await cluster.map(square, 5)  # E: arg-type
    await cluster.map(square, ["1", "2"])  # E: arg-type
    await cluster.map(plain, [5])  # E: arg-type
    # What is expected of the result goes into the call: it is the function that does not fit.
    number: int = await (await cluster.submit(send, "a"))  # E: arg-type
    texts: list[str] = await (await cluster.map(square, [1]))  # E: arg-type
    other: Handle[str] = await cluster.submit(square, 1)  # E: arg-type
    many: Batch[str] = await cluster.map(square, [1])  # E: arg-type
    square.options(prio=1)  # E: call-arg
    square.options(retry="often")  # E: arg-type
    await cluster.handle("7")  # E: arg-type

async def locks(cluster: Client) -> None:
    lock: AsyncLock = Semaphore(cluster, "pool", 3, hold="1m", wait=None, note="me")
    async with Lock(cluster, "door") as held:
        reveal_type(held)  # T: cluster.client.locks.AsyncLock
        reveal_type(held.fence)  # T: int
        await cluster.submit(resize.options(fence=held.fence, priority=9), "a.jpg", 640)
        await cluster.actor(Model)[Model.train].options(fence=held.fence)(3)
    reveal_type(ReadWriteLock(cluster, "index").read())  # T: cluster.client.locks.AsyncLock
    reveal_type(await lock.acquire(wait="1s"))  # T: int
    reveal_type(await lock.try_acquire())  # T: bool
    election = Election(cluster, "boss", "me")
    found: Leader | None = await election.leader()
    sure: Leader = await election.leader()  # E: assignment
    async with election as leads:
        reveal_type(leads)  # T: cluster.client.elections.AsyncElection
    async for leader in election.watch():
        found = leader
    async for info in cluster.locks("night", limit=3):
        reveal_type(info.holders)  # T: tuple[cluster.client.lock_listing.LockHolder, ...]
    Lock("topology.toml", "door")  # E: call-overload
    Lock(cluster, "door", "30s")  # E: call-overload
    Lock(cluster, "door", hold=None)  # E: call-overload
    Semaphore(cluster, "door")  # E: call-overload
    Election(cluster, "door")  # E: call-overload
    ReadWriteLock(3, "door")  # E: call-overload
    await lock.acquire(wait=b"1s")  # E: arg-type
    square.options(fence="7")  # E: arg-type

def blocking_locks() -> None:
    with Client.open("topology.toml") as cluster, Lock(cluster, "door") as lock:
        reveal_type(lock)  # T: cluster.client.locks.BlockingLock
        reveal_type(lock.acquire())  # T: int
        reveal_type(ReadWriteLock(cluster, "index").write())  # T: cluster.client.locks.BlockingLock
        pool: BlockingLock = Semaphore(cluster, "pool", 3)
        election = Election(cluster, "boss", "me")
        found: Leader | None = election.leader()
        for leader in election.watch():
            found = leader

def blocking() -> None:
    with Client.open("topology.toml") as cluster:
        handle = cluster.submit(resize, "a.jpg", 640, quality=90)
        reveal_type(handle)  # T: cluster.client.blocking.BlockingHandle[tuple[int, int]]
        reveal_type(handle.result(timeout=5))  # T: tuple[int, int]
        reveal_type(cluster.submit(send, "a@example.org").result())  # T: str
        batch = cluster.map(square, range(10))
        reveal_type(batch.results())  # T: list[float]
        for finished in batch.as_completed():
            reveal_type(finished.result())  # T: float
        cluster.submit(resize, "a.jpg", "640")  # E: arg-type
        cluster.map(square, ["1", "2"])  # E: arg-type
        model = cluster.actor(Model, key="eu")
        reveal_type(model.predict([1.0]))  # T: Any
        reveal_type(model[Model.predict]([1.0]))  # T: float
        reveal_type(model[Model.train](3))  # T: str
        reveal_type(model[Model.train].submit(3).result())  # T: str
        reveal_type(model[Model.predict].map([[1.0]]).results())  # T: list[float]
        model[Model.train]("3")  # E: arg-type
"""
LINES = PROGRAM.splitlines()


@pytest.fixture(scope="module")
def says(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """What mypy says, by line."""
    snippet = tmp_path_factory.mktemp("typing") / "program.py"
    snippet.write_text(PROGRAM)
    options = ["--strict", "--follow-imports=silent", "--no-error-summary"]
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'snippets'}"
    command = [sys.executable, "-m", "mypy", *options, cache, str(snippet)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        _, number, text = line.split(":", 2)
        found.setdefault(int(number), []).append(text.strip())
    assert found, done.stderr
    return found


@pytest.mark.parametrize("number", [number for number, line in enumerate(LINES, start=1) if "# E: " in line])
def test_a_wrong_call_is_refused(says, number):
    line = LINES[number - 1]
    code = line.partition("# E: ")[2]
    errors = [text for text in says.get(number, []) if text.startswith("error")]
    assert len(errors) == 1 and f"[{code}]" in errors[0], f"{line.strip()} gives {errors}"


@pytest.mark.parametrize("number", [number for number, line in enumerate(LINES, start=1) if "# T: " in line])
def test_a_value_has_the_type_of_the_function(says, number):
    kind = LINES[number - 1].partition("# T: ")[2]
    (note,) = says[number]
    revealed = re.search(r'Revealed type is "(.*)"', note)
    assert revealed and revealed.group(1).replace("builtins.", "") == kind


def test_right_calls_are_not_complained_of(says):
    expected = {number for number, line in enumerate(LINES, start=1) if "# E: " in line}
    errors = {number: texts for number, texts in says.items() if any(text.startswith("error") for text in texts)}
    assert set(errors) == expected, {number: errors[number] for number in set(errors) - expected}
