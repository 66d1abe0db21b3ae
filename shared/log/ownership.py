"""Ownership where one process folds everything: the embedded house."""


class AllPartitions:
    """The port's Ownership of all `count` partitions, for ever, under one generation."""

    def __init__(self, count: int) -> None:
        self._all = frozenset(range(count))

    async def start(self) -> None:
        """Nothing to join."""

    def assigned(self) -> frozenset[int]:
        """All partitions."""
        return self._all

    def generation(self) -> int:
        """Never changes."""
        return 1

    def progress(self, topic: str, positions: dict[int, int]) -> None:
        """Nobody else watches."""

    async def close(self) -> None:
        """Nothing to leave."""
