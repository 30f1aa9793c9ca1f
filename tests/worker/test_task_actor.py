"""`TaskActor`: which methods are tasks, with which options and names, and what is refused in the class's definition."""

from dataclasses import dataclass
from typing import Any

import pytest

from cluster.client.task_actors import ActorMethod, ActorProxy
from cluster.errors import TaskNotFound
from cluster.state.commands import Options
from cluster.task import registered_tasks, task, task_of
from cluster.task_actor import TaskActor, check_actors, definition_of, method


@dataclass
class Row:
    values: list[float]


class Model(TaskActor, timeout="30s", queue="models", priority=7):
    scale = 2.0

    def __init__(self, scale: float = 1.0) -> None:
        self.seen = 0

    def started(self) -> None:
        self.seen = 0

    def predict(self, row: Row, *, scale: float = 1.0) -> float:
        self._count()
        return sum(row.values) * scale

    @method(timeout="5m", priority=1)
    async def train(self, rows: "list[Row]") -> int:
        return len(rows)

    @property
    def count(self) -> int:
        return self.seen

    @staticmethod
    def helper() -> None: ...

    @classmethod
    def maker(cls) -> None: ...

    def _count(self) -> None:
        self.seen += 1

    def __call__(self) -> None: ...


def tasks(actor: type[TaskActor]) -> dict[str, Any]:
    return dict(definition_of(actor).tasks)


def proxy(actor: type[TaskActor], key: str | None = None) -> Any:
    return ActorProxy(None, actor, key)     # type: ignore[arg-type]


def task_behind(call: ActorMethod[..., Any]) -> Any:
    return call._task


def test_public_methods_are_tasks_and_nothing_else_is():
    assert sorted(tasks(Model)) == ["predict", "train"]
    for name, one in tasks(Model).items():
        assert one.name == f"{__name__}:Model.{name}"
        assert registered_tasks()[one.name] is one


def test_a_class_can_be_used_without_a_cluster():
    model = Model()
    model.started()
    assert (model.predict(Row([1.0, 2.0]), scale=2), model.count) == (6.0, 1)
    assert (model.context.key, model.context.epoch) == ("", 0)


def test_options_of_the_class_hold_for_all_methods_and_a_method_has_its_own_over_them():
    found = tasks(Model)
    assert found["predict"].wire_options == Options("models", 7, 30_000)
    assert found["train"].wire_options == Options("models", 1, 300_000)
    assert task_behind(proxy(Model).train.options(priority=9)).wire_options == Options("models", 9, 300_000)


def test_arguments_are_converted_as_the_annotations_behind_self_say():
    predict = tasks(Model)["predict"]
    assert predict.codec.decode_arguments(predict.encode((Row([1.5]),), {"scale": 2.0})) == ([Row([1.5])], {"scale": 2})
    train = tasks(Model)["train"]
    assert train.codec.decode_arguments(train.encode(([Row([1.5])],), {})) == ([[Row([1.5])]], {})
    with pytest.raises(TypeError, match="missing a required argument: 'row'"):
        predict.encode((), {})


def test_a_subclass_has_the_tasks_and_options_of_its_bases_under_its_own_name():
    class Mixin:
        def describe(self) -> str:
            return "big"

    class Big(Model, Mixin, priority=9):
        def predict(self, row: Row, *, scale: float = 1.0) -> float:
            return 2 * super().predict(row, scale=scale)

    found = tasks(Big)
    assert sorted(found) == ["describe", "predict", "train"]
    assert found["train"].name == f"{__name__}:{Big.__qualname__}.train"
    assert found["predict"].settings == Options("models", 9, 30_000)
    assert found["train"].settings == Options("models", 1, 300_000)
    assert found["train"].actor is Big and tasks(Model)["train"].actor is Model


def test_options_come_from_the_nearest_class_that_gives_them():
    class Root(TaskActor, priority=1, queue="root"): ...

    class Left(Root): ...

    class Right(Root, priority=3): ...

    class Both(Left, Right):
        def nothing(self) -> None: ...

    assert tasks(Both)["nothing"].settings == Options("root", 3)


def test_a_key_travels_with_the_name_of_the_actor():
    call = task_behind(proxy(Model, "eu").predict.options(priority=9))
    assert (call.wire_options.actor, call.wire_options.key) == (f"{__name__}:Model", "eu")
    assert call.wire_options.priority == 9
    assert task_behind(proxy(Model).predict).wire_options.actor == ""
    assert call.codec is tasks(Model)["predict"].codec, "which costs much to make"


def test_a_class_may_have_a_stable_name():
    class Stable(TaskActor, name="shop.Stable"):
        def work(self) -> None: ...

    assert tasks(Stable)["work"].name == "shop.Stable.work"
    assert task_behind(proxy(Stable, "a").work).settings.actor == "shop.Stable"
    with pytest.raises(ValueError, match=r"two actors are named 'shop.Stable', .*Other and .*Stable: .* name="):

        class Other(TaskActor, name="shop.Stable"): ...

    with pytest.raises(ValueError, match="name= is empty"):

        class Empty(TaskActor, name=""): ...


def test_a_class_whose_module_is_loaded_again_takes_the_place_of_the_old_one():
    def load() -> type[TaskActor]:
        class Again(TaskActor):
            def work(self) -> None: ...

        return Again

    first, second = load(), load()
    assert registered_tasks()[tasks(first)["work"].name] is tasks(second)["work"]


def test_an_init_that_needs_arguments_is_refused_with_what_to_do_instead():
    with pytest.raises(TypeError, match=r"Wants.__init__ needs 'path', but workers make instances without arguments"):

        class Wants(TaskActor):
            def __init__(self, path: str) -> None: ...

    class Takes(TaskActor):
        def __init__(self, *paths: str, depth: int = 1, **other: int) -> None: ...


def test_a_class_that_a_decorator_makes_anew_keeps_its_name_and_options():
    """`@dataclass(slots=True)` makes a second class and says nothing of what is behind the bases of the first."""

    @dataclass(slots=True)
    class Scaled(TaskActor, name="tests:Scaled", queue="models", timeout="30s"):
        scale: int = 2

        def predict(self, number: int) -> int:
            return number * self.scale

    found = definition_of(Scaled)
    assert found.name == "tests:Scaled" and registered_tasks()["tests:Scaled.predict"] is found.tasks["predict"]
    assert (found.tasks["predict"].settings.queue, found.tasks["predict"].settings.timeout_ms) == ("models", 30_000)
    assert found.tasks["predict"].actor is Scaled


def test_a_class_that_is_defined_again_with_other_methods_begins_anew():
    def define(**options: Any) -> Any:
        class Again(TaskActor, **options):
            def work(self) -> None: ...

        return definition_of(Again).tasks["work"].settings

    assert define(queue="models").queue == "models" and define().queue == "default"


def test_an_init_that_a_decorator_added_is_refused_when_all_modules_are_imported_and_at_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.task_actor._actors", {})

    @dataclass
    class Lacks(TaskActor):
        path: str

        def work(self) -> None: ...

    with pytest.raises(TypeError, match=r"Lacks.__init__ needs 'path', but workers make instances without arguments"):
        check_actors()
    with pytest.raises(TypeError, match=r"Lacks.__init__ needs 'path', but workers make instances without arguments"):
        definition_of(Lacks).tasks["work"].encode((), {})


def test_wrong_options_are_refused_with_the_place_where_they_are():
    with pytest.raises(TypeError, match=r'Wrong: unknown task option "prio": did you mean "priority"'):

        class Wrong(TaskActor, prio=3): ...     # type: ignore[call-arg]

    with pytest.raises(ValueError, match=r"Late.work: soft_timeout: 40 s is no less than timeout, which is 30 s"):

        class Late(TaskActor, timeout="30s"):
            @method(soft_timeout="40s")
            def work(self) -> None: ...

    assert not any("Late.work" in name for name in registered_tasks())


@pytest.mark.parametrize("option", [{"queue": "other"}, {"labels": ["gpu"]}])
def test_where_instances_live_is_for_the_class_to_say(option: Any):
    """A key has one owner in each queue and for each set of labels."""
    (name,) = option
    with pytest.raises(TypeError, match=f"Split.work: {name} is an option of the class"):

        class Split(TaskActor):
            @method(**option)
            def work(self) -> None: ...

    with pytest.raises(TypeError, match=f"Model.predict: {name} is an option of the class"):
        proxy(Model, "a").predict.options(**option)


def test_a_task_inside_of_an_actor_is_refused():
    with pytest.raises(TypeError, match=r"Double.work has @task above it: public methods .* put @method"):

        class Double(TaskActor):
            @task
            def work(self) -> None: ...


def test_what_is_no_task_of_an_actor_is_said_with_a_hint():
    hints = [
        ("predct", "Model has no method 'predct': did you mean 'predict'"),
        ("zzz", "Model has no method 'zzz': there are predict, train"),
        ("_count", "_count is no task"),
        *((name, f"Model.{name} is no task") for name in ("started", "stopped", "count", "helper", "context")),
    ]
    for name, text in hints:
        with pytest.raises(AttributeError, match=text):
            getattr(proxy(Model), name)
    with pytest.raises(TaskNotFound, match=r"predict is a method of a TaskActor: .* cluster.actor\(Model\).predict"):
        task_of(Model.predict)
    with pytest.raises(TypeError, match=r"needs an instance"):
        tasks(Model)["predict"](Row([]))


def test_a_method_is_found_by_its_function_as_well():
    assert task_behind(proxy(Model)[Model.predict]) is tasks(Model)["predict"]
    assert task_behind(proxy(Model, "a")[Model.predict]).settings.key == "a"
    with pytest.raises(TypeError, match="is no task of Model"):
        proxy(Model)[Row]


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        ("", ValueError, "1 to 256 bytes of UTF-8 are allowed, not 0"),
        ("é" * 129, ValueError, "1 to 256 bytes of UTF-8 are allowed, not 258"),
        ("\ud800", ValueError, "no valid Unicode"),
        (7, TypeError, r"expected a str, not 7; write str\(\.\.\.\)"),
        (b"eu", TypeError, "expected a str, not b'eu'"),
    ],
)
def test_a_wrong_key_is_refused(key: Any, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        proxy(Model, key)
    assert proxy(Model, "é" * 128) is not None


@pytest.mark.parametrize("other", [TaskActor, int, Model(), "Model"])
def test_what_is_no_actor_is_refused(other: Any):
    with pytest.raises(TypeError, match="expected a subclass of TaskActor, not"):
        proxy(other)
