"""What can be wrong with an image of the state. The machine itself raises nothing: see `machine`."""


class ImageDamaged(Exception):
    """An image of the state cannot be read: a part is missing, repeated, swapped or altered. Discard the image; take
    an older one, or another broker's."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"damaged image of the state, {where}: {reason}; discard it and take another one")
        self.where = where
        self.reason = reason


class NewerState(Exception):
    """An image was written by a newer release than this one, which cannot read it. Nothing is wrong with it."""

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(
            f"the state was written by a newer release: its {what} is {version}, this release knows {what}s up to "
            f"{known}; start this broker with the newer release, and keep its data directory as it is"
        )
        self.version = version
        self.known = known


class OlderState(NewerState):
    """An image was written by an older version of this program, and holds what this one cannot read. Nothing is wrong
    with it either, and who meets it has to do the same: leave it alone, and tell the operator."""

    def __init__(self, version: int, known: int, what: str) -> None:
        Exception.__init__(
            self,
            f"the state was written by an older version: its image version is {version}, this release writes {known} "
            f"and cannot read {what}; start this broker with the version that wrote it, let its workers go, and stop "
            "it when it has made its next snapshot, or begin with an empty data directory",
        )
        self.version = version
        self.known = known
