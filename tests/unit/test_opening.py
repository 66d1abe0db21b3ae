"""Openers: a destroyed key reads as absent at once, one that was not brought here yet is waited for."""

from pathlib import Path

import pytest

from services.profiles.opening import STRANGE_SECONDS, KeyAway, Openers
from shared.access import Access
from shared.clock import FrozenClock
from shared.events import Fact, SealingKeyDestroyed, WorkspaceDefined
from shared.keyring import KeyMissing, Keyring
from shared.sealing import Sealer

FIELDS = {0: {"ip": "192.0.2.1"}}


class House:
    """Two machines of one house: where keys are made, and where they are brought."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.access = FrozenClock(), Access()
        self.maker, self.other = Keyring(folder / "maker"), Keyring(folder / "other")
        self.maker.create("main")
        self.bring("leaf.secret", "sealing/*")
        self.tell(WorkspaceDefined("main", "UTC", "", *self.maker.sealing_public("main"), 1))
        self.openers = Openers(self.other, self.clock, lambda: self.access.workspaces)

    def bring(self, *patterns: str) -> None:
        """Copy files of the maker's keys to the other machine."""
        come_from, go_to = (keyring._folder / "main" for keyring in (self.maker, self.other))
        for pattern in patterns:
            for path in come_from.glob(pattern):
                there = go_to / path.relative_to(come_from)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())

    def tell(self, fact: Fact) -> None:
        """Let everybody read a definition."""
        self.access = self.access.evolve(fact)

    def rotate(self) -> str:
        """Make a pair and tell of it."""
        self.tell(WorkspaceDefined("main", "UTC", "", *self.maker.rotate("main"), 2))
        return self.access.workspaces["main"].sealing_key


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_key_that_was_not_brought_here_is_waited_for(house: House) -> None:
    house.openers.open("main", Sealer(*house.maker.sealing_public("main")).seal(FIELDS, 0))  # keys are read by now
    name = house.rotate()
    sealed = Sealer(*house.maker.sealing_public("main")).seal(FIELDS, 0)
    with pytest.raises(KeyAway, match=name):
        house.openers.open("main", sealed)
    assert house.openers.away() == [f"main/{name}"]
    house.bring("sealing/*")
    assert house.openers.open("main", sealed) == FIELDS
    assert house.openers.away() == []


def test_a_key_that_nobody_told_of_is_waited_for_a_while_only(house: House) -> None:
    """It may be newer than what we have read of the definitions; after that it is nobody's."""
    sealed = Sealer(*house.maker.rotate("main")).seal(FIELDS, 0)
    with pytest.raises(KeyAway):
        house.openers.open("main", sealed)
    house.clock.advance(round(STRANGE_SECONDS * 1000))
    assert house.openers.open("main", sealed) == {}


def test_a_destroyed_key_is_absent_whether_it_was_ever_here_or_not(house: House) -> None:
    first = house.access.workspaces["main"].sealing_key
    sealed = Sealer(*house.maker.sealing_public("main")).seal(FIELDS, 0)
    assert house.openers.open("main", sealed) == FIELDS
    house.rotate()
    house.bring("sealing/*")
    house.tell(SealingKeyDestroyed("main", first, 3))
    assert house.other.destroy("main", first)
    house.openers.forget("main")
    assert house.openers.open("main", sealed) == {}
    for path in (house.other._folder / "main" / "sealing").glob(f"{first}*"):
        path.unlink()  # a machine set up later never had it
    house.openers.forget("main")
    assert house.openers.open("main", sealed) == {}


def test_a_key_destroyed_by_hand_is_absent_too(house: House) -> None:
    sealed = Sealer(*house.maker.sealing_public("main")).seal(FIELDS, 0)
    house.other.destroy("main", house.access.workspaces["main"].sealing_key)
    assert house.openers.open("main", sealed) == {}


def test_no_keys_at_all_stop(house: House, tmp_path: Path) -> None:
    nowhere = Openers(Keyring(tmp_path / "nowhere"), house.clock, lambda: house.access.workspaces)
    with pytest.raises(KeyMissing):
        nowhere.open("main", Sealer(*house.maker.sealing_public("main")).seal(FIELDS, 0))
    assert nowhere.away()
