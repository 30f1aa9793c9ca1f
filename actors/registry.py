"""Names of the live actors of one system."""

from typing import Generic, TypeVar

from actors.errors import NameTaken

T = TypeVar("T")


class Registry(Generic[T]):
    """Name -> actor; a name belongs to one live actor at a time."""

    __slots__ = ("_actors", "_next")

    def __init__(self) -> None:
        self._actors: dict[str, T] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._actors)

    def register(self, name: str, actor: T) -> None:
        """Raises NameTaken."""
        if name in self._actors:
            raise NameTaken(name)
        self._actors[name] = actor

    def unregister(self, name: str, actor: T) -> None:
        """The actor ended; its name is free."""
        assert self._actors[name] is actor
        del self._actors[name]

    def find(self, name: str) -> T | None:
        """The live actor of this name."""
        return self._actors.get(name)

    def fresh(self, stem: str) -> str:
        """A name that nobody has, for an actor that was given none."""
        while True:
            name = f"{stem}-{self._next}"
            self._next += 1
            if name not in self._actors:
                return name

    def names(self) -> list[str]:
        """All names, in the order they were registered."""
        return list(self._actors)
