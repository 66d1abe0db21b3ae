"""What comes next by time alone, if nothing else happens: the transitions at the next due time."""

from typing import NamedTuple

from services.scoring.domain.alerts import AnyTransition
from services.scoring.domain.deciding import Decision
from services.scoring.domain.decision import advance, due
from services.scoring.domain.definitions import Definition
from services.scoring.domain.snapshot import Snapshot


class Outlook(NamedTuple):
    """`at`: epoch ms of the next flip, None when time alone flips nothing · `transitions`: what it will bring."""

    at: int | None = None
    transitions: tuple[AnyTransition, ...] = ()


def outlook(decision: Decision, snapshot: Snapshot, definition: Definition) -> Outlook:
    """The next flip by time of a customer who does nothing. A held customer has none."""
    at = due(decision, snapshot, definition)
    if at is None:
        return Outlook()
    return Outlook(at, advance(decision, snapshot, at + 1, definition).transitions)
