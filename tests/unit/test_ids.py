"""Ids and partitions are bytes for ever: these values must never change."""

import pytest

from shared.ids import (
    dedup_scope,
    derived_id,
    leaf_from_text,
    leaf_text,
    partition_of,
    touchpoint_id,
    uuid7,
    uuid_text,
)

LEAF = bytes(range(16))


def test_golden_values() -> None:
    """Bytes as they were on the first day."""
    assert derived_id("a", b"b").hex() == "51f0df627eafec87293cace2af5bdf2a"
    assert dedup_scope("main", "web", LEAF).hex() == "0f01961ac2f6703f"
    assert dedup_scope("main", "web", LEAF) == derived_id("scope", "main", "web", LEAF)[:8]
    assert [partition_of(LEAF, n) for n in (1, 4, 16, 1024)] == [0, 2, 10, 1002]
    assert touchpoint_id("ajs-next-1-x").hex() == "cbebc6ba2dbf512b629534b9b6fd30d5"


def test_a_uuid_keeps_its_own_bytes() -> None:
    """Time-ordered ids stay ordered; anything else is hashed."""
    text = "018f2b3c-4d5e-7f60-8a9b-acbdcedfe0f1"
    assert uuid_text(touchpoint_id(text)) == text
    assert touchpoint_id("zz8f2b3c-4d5e-7f60-8a9b-acbdcedfe0f1") == derived_id(
        "touchpoint", "zz8f2b3c-4d5e-7f60-8a9b-acbdcedfe0f1"
    )


def test_uuid7_carries_time_version_and_variant() -> None:
    """RFC 9562 §5.7."""
    made = uuid7(1_700_000_000_000, bytes(range(10)))
    assert int.from_bytes(made[:6], "big") == 1_700_000_000_000
    assert made[6] >> 4 == 7
    assert made[8] >> 6 == 0b10


def test_leaf_text_round_trip() -> None:
    """32 hexadecimal digits and nothing else."""
    assert leaf_from_text(leaf_text(LEAF)) == LEAF
    for wrong in ("", "00", LEAF.hex() + "00", "zz" * 16, " " + LEAF.hex()[1:]):
        with pytest.raises(ValueError):
            leaf_from_text(wrong)
