"""What was made once and may be asked for again, bounded by what it weighs: a customer may have thousands of orders."""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Things by the key they were made of, in two generations; when the younger weighs half of `weight_max`, the older
    is forgotten. What weighs more than half alone is not kept at all."""

    __slots__ = ("_half", "_old", "_weight", "_young")

    def __init__(self, weight_max: int) -> None:
        self._half, self._weight = weight_max // 2, 0
        self._young: dict[Hashable, T] = {}
        self._old: dict[Hashable, T] = {}

    def get(self, key: Hashable) -> T | None:
        """What was kept under the key, None when nothing is."""
        found = self._young.get(key)
        return self._old.get(key) if found is None else found

    def keep(self, key: Hashable, made: T, weight: int) -> T:
        """Keep it; returns it."""
        if weight <= self._half:
            if self._weight + weight > self._half:
                self._old, self._young, self._weight = self._young, {}, 0
            self._young[key] = made
            self._weight += weight
        return made
