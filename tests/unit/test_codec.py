"""Bytes of every version of every fact are kept for ever in tests/golden/facts, and still mean what they meant.

`python -m tests.unit.test_codec` writes the file of a fact that has none yet; a file that is there is never rewritten.
"""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import Unknown, decode, encode
from shared.errors import NewerVersion, Poison
from shared.events import (
    FACTS,
    SECRET,
    UPCASTERS,
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    DefinitionPublished,
    Departure,
    ErasureRequested,
    Fact,
    FactRef,
    IdentityLinked,
    IdentityUnlinked,
    ImportClosed,
    ImportFinished,
    ImportPassed,
    ImportStarted,
    KeyCreated,
    KeyRevoked,
    LeafErased,
    LeafReinstated,
    Place,
    ProfileChanged,
    RepublishPassed,
    RepublishRequested,
    Sealed,
    SealingKeyDestroyed,
    Statement,
    Touchpoint,
    TouchpointFailed,
    TouchpointFailureClosed,
    TouchpointsRecorded,
    WatermarkStated,
    WorkspaceDefined,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "facts"

AT = 1_700_000_000_000
ID, USER, COOKIE = bytes(range(16)), b"\x00" + b"u" * 15, b"\x04" + b"c" * 15
SEALED = Sealed("0001-main", b"data key", b"box")

EXAMPLES: tuple[Fact, ...] = (
    TouchpointsRecorded(
        "main", "web", SECRET, AT + 5, AT + 4, "",
        (
            Touchpoint(ID, 19_675, "purchased", "web", (USER, COOKIE), AT, "2023-11-14T22:13:20Z",
                       {"order_id": "1", "amount_minor": 4_999, "currency": "EUR"}, {"library": "x"}),
            Touchpoint(ID, 0, "custom", "app", (COOKIE,), AT, None, {}, {}, "Wheel Spun"),
        ),
        SEALED,
    ),
    IdentityLinked("main", ID, USER, COOKIE, True, True, AT, "same person"),
    IdentityUnlinked("main", ID, USER, COOKIE, True, AT, "shared computer"),
    ErasureRequested("main", ID, USER, AT),
    LeafErased("main", ID, USER, AT),
    LeafReinstated("main", ID, USER, AT),
    ImportFinished("main", "import-1", AT),
    ProfileChanged(
        "main", USER, 7, AT, b"state",
        (FactRef(ID, COOKIE, "survey_answered", AT, SECRET, "response:9", 2, "survey", "csat"),),
        (Place(USER, 0), Place(COOKIE, 3)), "import-1", (Departure(COOKIE, 4, COOKIE),),
    ),
    CustomerAbsorbed("main", COOKIE, USER, 8, AT, (Departure(USER, 1, USER),)),
    CustomerErased("main", USER, 9, AT),
    CustomerParked("main", USER, 10, AT, "too large"),
    ImportPassed("main", "import-1", 3, 16),
    WatermarkStated((Statement(0, 12), Statement(1, 0)), (AT, -1)),
    TouchpointFailed("main", "web", ID, AT, "invalid_field", "properties.amount", "not a number", SEALED),
    TouchpointFailureClosed("main", ID, "replayed", AT),
    WorkspaceDefined("main", "Asia/Tehran", "IR", "0001-main", b"public", AT),
    KeyCreated("main", "k1", b"digest", "secret", "crm", ("read", "write"), "CRM", AT),
    KeyRevoked("main", "k1", AT),
    SealingKeyDestroyed("main", "0001-aabbccddeeff", AT),
    DefinitionPublished("main", 1, AT, {"stages": [{"name": "new", "when": []}]}, {"r": 0.525}),
    ImportStarted("main", "import-1", "crm", AT),
    ImportClosed("main", "import-1", False, AT),
    RepublishPassed("republish-1", AT),
    RepublishRequested("republish-1", AT),
)  # fmt: skip


def golden_of(fact: Fact) -> Path:
    """Where the bytes of this fact's present version are kept."""
    return GOLDEN / f"{fact.NAME}.v{fact.VERSION}.hex"


def test_every_fact_has_an_example() -> None:
    """A new fact comes with its golden bytes."""
    assert {type(fact) for fact in EXAMPLES} == set(FACTS)
    assert len({fact.NAME for fact in EXAMPLES}) == len(FACTS)


@pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.NAME)
def test_golden_bytes(fact: Fact) -> None:
    """The bytes of the first day still decode to the same fact, and it still encodes to them."""
    kept = bytes.fromhex(golden_of(fact).read_text())
    assert decode(kept) == fact
    assert encode(fact) == kept


def test_every_golden_file_still_decodes() -> None:
    """Old versions stay readable: each file is a known fact, brought to its present version."""
    files = sorted(GOLDEN.glob("*.hex"))
    assert len(files) >= len(FACTS)
    for file in files:
        assert isinstance(decode(bytes.fromhex(file.read_text())), Fact)


def test_upcasters_are_complete() -> None:
    """From every version below the present one there is a way up."""
    for fact in FACTS:
        for version in range(1, fact.VERSION):
            assert (fact.NAME, version) in UPCASTERS


def test_a_newer_version_stops_and_an_unknown_kind_is_kept() -> None:
    """Deploy order mistakes stop the partition; facts of another code are values."""
    with pytest.raises(NewerVersion, match="deploy"):
        decode(msgspec.msgpack.encode(("leaf.erased", 99, [])))
    assert decode(msgspec.msgpack.encode(("planet.found", 1, {"name": "x"}))) == Unknown("planet.found")


@given(st.binary(max_size=200))
def test_whatever_bytes_come(data: bytes) -> None:
    """Bytes that are no fact are poison, never another error."""
    try:
        decode(data)
    except (Poison, NewerVersion):
        return


def test_equal_facts_have_equal_bytes() -> None:
    """The order in which a map was filled does not show."""
    one = DefinitionPublished("main", 1, AT, {"a": 1, "b": {"y": 2, "x": 1}}, {})
    other = DefinitionPublished("main", 1, AT, {"b": {"x": 1, "y": 2}, "a": 1}, {})
    assert encode(one) == encode(other)


def _write_missing() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for fact in EXAMPLES:
        if not golden_of(fact).exists():
            golden_of(fact).write_text(encode(fact).hex() + "\n")


if __name__ == "__main__":
    _write_missing()
