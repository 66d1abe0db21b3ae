"""What a step is told, what it is done under and what it counts."""

from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from typing import NamedTuple

import msgspec

from services.scoring.domain.definitions import Definition
from shared.events import CustomerAbsorbed, CustomerErased, CustomerParked, ProfileChanged

Change = ProfileChanged | CustomerAbsorbed | CustomerErased | CustomerParked


class Wanted(Exception):
    """Not an error: these customers' rows, and these alerts', are needed under lock."""

    def __init__(self, customers: Iterable[bytes] = (), alerts: Iterable[bytes] = ()) -> None:
        super().__init__("more rows are wanted")
        self.customers, self.alerts = frozenset(customers), frozenset(alerts)


class Rules(NamedTuple):
    """What a workspace decides by: its versions in ascending order (at least one) and its time zone."""

    definitions: Sequence[Definition]
    zone: tzinfo


class Setting(NamedTuple):
    """What a step is done under. `rules` of a workspace · `now`: our clock, epoch ms · `partitions` of the house."""

    rules: Callable[[str], Rules]
    now: int
    partitions: int


class Counts(msgspec.Struct):
    """What a step counts."""

    decided: int = 0
    outdated: int = 0  # changes of a version already seen
    unsettled_silences: int = 0  # silences that ended before their crossing was settled
    parked: int = 0
    taken_over: int = 0  # alerts raised under an id that another customer held
    suppressed: int = 0  # words about an alert that belongs to another customer by now
