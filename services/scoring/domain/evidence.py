"""What a definition makes of a snapshot: the buying, the readings and what was found of their flips, derived once."""

from typing import Any

from services.scoring.domain.conditions import Reading
from services.scoring.domain.definitions import Definition
from services.scoring.domain.snapshot import Snapshot, buying

UNASKED = -1


class Evidence:
    """One snapshot under one definition. Nothing in it can change, except that more of it becomes known.

    `bought`: None when no purchase counts · `crossed_at`: the crossing of the present silence, UNASKED before the first
    question (`silence.py` asks) · `armed`: what the last due time rested on, how far silence was settled, and it.
    """

    __slots__ = ("_readings", "armed", "bought", "crossed_at", "definition")

    def __init__(self, snapshot: Snapshot, definition: Definition) -> None:
        pack = definition.pack
        self.definition = definition
        self.bought = buying(snapshot, pack.purchase_trust_min, pack.day_ms)
        self.crossed_at: int | None = UNASKED
        self.armed: tuple[tuple[Any, ...], int, int | None] = (), UNASKED, None
        flips: dict[str, int | None] = {}
        self._readings = tuple(
            Reading(self.bought, snapshot.contract_ended_at, definition.model, same_spell, flips)
            for same_spell in (False, True)
        )

    def reading(self, same_spell: bool) -> Reading:
        """What conditions are asked about; both readings share what is known of flips, which no spell moves."""
        return self._readings[same_spell]


def evidence_of(snapshot: Snapshot, definition: Definition) -> Evidence:
    """The evidence of a snapshot, remembered with it for the definition asked last."""
    memory = snapshot.memory
    if memory and memory[0].definition is definition:
        found: Evidence = memory[0]
        return found
    evidence = Evidence(snapshot, definition)
    memory[:] = [evidence]
    return evidence
