"""The bytes of a fixed history never change by accident: one touchpoint of every kind, in the table's order."""

from pathlib import Path

from shared.profile import encode, fold, new
from shared.vocabulary import KINDS
from tests.builders import NOON_MS, a_leaf, a_touchpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "profile" / "state-v1.hex"


def test_state_bytes_are_golden() -> None:
    profile = new()
    for number, kind in enumerate(KINDS.values()):
        touchpoint = a_touchpoint(
            kind.name, at=NOON_MS + number * 3_600_000, id=bytes((number,)) * 16, leaf=a_leaf("golden"), **kind.example
        )
        fold(profile, touchpoint, "shop", number % 3)
    assert encode(profile).hex() == GOLDEN.read_text().strip()
