"""What can be wrong with an image of the state. The machine itself raises nothing: see `machine`."""


class ImageDamaged(Exception):
    """An image of the state cannot be read: a part is missing, repeated, swapped or altered. Discard the image; take
    an older one, or another broker's."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"damaged image of the state, {where}: {reason}; discard it and take another one")
        self.where = where
        self.reason = reason


class UnreadableState(Exception):
    """An image of the state is of a version that this release cannot read. Nothing is wrong with it: leave it alone,
    and tell the operator. `known` is the version that this release has."""

    def __init__(self, message: str, version: int, known: int) -> None:
        super().__init__(message)
        self.version = version
        self.known = known


class NewerState(UnreadableState):
    """It was written by a newer release than this one."""

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(
            f"the state was written by a newer release: its {what} is {version}, this release knows {what}s up to "
            f"{known}; start this broker with the newer release, and keep its data directory as it is",
            version,
            known,
        )


class OlderState(UnreadableState):
    """It was written by an older version of this program, and holds what this one cannot read."""

    def __init__(self, version: int, known: int, what: str) -> None:
        super().__init__(
            f"the state was written by an older version: its image version is {version}, this release writes {known} "
            f"and cannot read {what}; start this broker with the version that wrote it, let its workers go, and stop "
            "it when it has made its next snapshot, or begin with an empty data directory",
            version,
            known,
        )
