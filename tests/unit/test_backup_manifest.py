"""What a backup says of itself: damage is noticed, and a checkpoint its logs do not carry is named."""

import msgspec
import pytest

from services.backup.manifest import (
    FORMAT,
    Manifest,
    SavedCheckpoint,
    SavedDatabase,
    SavedFile,
    SavedKeys,
    SavedTopic,
    Unusable,
    contradictions,
    from_bytes,
    to_bytes,
)

TOPICS = {"touchpoints": SavedTopic("log-1", ((0, 7), (3, 9)))}


def a_database(partition: int = 0, position: int = 7, identity: str = "log-1") -> dict[str, SavedDatabase]:
    held = SavedCheckpoint("touchpoints", partition, position, position - 1, identity)
    return {"profiles": SavedDatabase("0001", (held,), 0)}


def a_manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        raftar="0.1.0",
        sqlite="3.40.1",
        taken_at=1_700_000_000_000,
        workspace="main",
        partitions=2,
        with_keys=False,
        files=(SavedFile("profiles.db", 10, "ab"), SavedFile("log/touchpoints.sqlite", 20, "cd")),
        topics=TOPICS,
        databases=a_database(),
        keys={"main": SavedKeys("0123", ("0001-aa",))},
    )


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert from_bytes(to_bytes(a_manifest())) == a_manifest()
    assert a_manifest().size_bytes == 30


def test_a_changed_manifest_is_noticed() -> None:
    with pytest.raises(Unusable, match="checksum differs"):
        from_bytes(to_bytes(a_manifest()).replace(b'"size_bytes": 10', b'"size_bytes": 11'))


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_cut_manifest_is_noticed(kept: int) -> None:
    with pytest.raises(Unusable, match="damaged"):
        from_bytes(to_bytes(a_manifest())[:kept])


def test_a_newer_format_asks_for_a_newer_raftar() -> None:
    with pytest.raises(Unusable, match="newer Raftar"):
        from_bytes(to_bytes(msgspec.structs.replace(a_manifest(), format=FORMAT + 1)))


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (a_database(), None),
        (a_database(position=6), None),
        (a_database(position=8), "up to 8, the log ends at 7"),
        (a_database(identity="log-2"), "of log log-2, here is log log-1"),
        (a_database(partition=2), "the log has 2 partitions"),
    ],
)
def test_a_checkpoint_that_its_log_does_not_carry_is_named(
    database: dict[str, SavedDatabase], said: str | None
) -> None:
    wrong = contradictions(TOPICS, database)
    assert len(wrong) == (said is not None)
    assert said is None or said in wrong[0]


def test_a_checkpoint_of_a_log_that_is_not_here_is_named() -> None:
    assert contradictions({}, a_database()) == ["profiles folded touchpoints/0, a log that is not here"]
