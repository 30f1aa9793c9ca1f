"""The functions that CPython's own tests of executors submit, as tasks. Workers import this module."""

import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from cluster import task

BUILT_IN: tuple[Callable[..., object], ...] = (pow, time.sleep)
NAMES = ("mul", "make_dummy_object", "sleep_and_raise", "sleep_and_print")


def python_modules() -> list[ModuleType]:
    """With mixins and functions; one up to 3.11, a package since. Raises ImportError where Python came without its
    tests."""
    package = import_module("test.test_concurrent_futures")
    if not hasattr(package, "__path__"):
        return [package]
    names = ("util", "executor", "test_wait", "test_as_completed", "test_shutdown")
    return [import_module(f"{package.__name__}.{name}") for name in names]


for function in BUILT_IN:
    task(name=f"builtin:{function.__qualname__}")(function)
for module in python_modules():
    for name in NAMES:
        if name in vars(module):
            task(vars(module)[name])


# What is no function, and what returns tuples: without an annotation those arrive as lists.


@task
def divide(left: int, right: int) -> tuple[int, int]:
    return divmod(left, right)


@task
def capture(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
    return args, kwargs


@task
def as_text(value: int) -> str:
    return str(value)


@task
def as_number() -> int:
    return 0
