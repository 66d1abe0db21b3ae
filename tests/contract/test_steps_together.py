"""What several partitions bring to one step does what it does when each is folded alone; refused, nothing of it did."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from services.profiles.digest import digest
from services.profiles.fold import TouchpointsProjection
from services.profiles.opening import KeyAway
from shared.checkpoint import Claim
from shared.clock import SystemClock
from shared.codec import decode
from shared.database import Database, fetch
from shared.ending import ended
from shared.errors import Fenced, Stopped
from shared.events import ErasureRequested, Fact, IdentityLinked, LeafErased, Sealed
from shared.lane import Portion
from shared.sealing import PersonalFields
from shared.stepping import Stepping
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.decisions import Scoring
from tests.support.steps import START_MS, a_batch, a_projection, fresh_database, outbox_of

SARA, SARA_MAIL, REZA, COOKIE = a_leaf("sara", 0), a_leaf("sara-mail", 1), a_leaf("reza", 0), a_leaf("cookie", 4)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else ""


@pytest.fixture
async def database(url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_database(url, tmp_path, "profiles") as made:
        yield made


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Database]:
    """Where the same is folded partition by partition."""
    async with fresh_database("", tmp_path / "other", "profiles") as made:
        yield made


def views(*leaves: bytes, at: int = NOON_MS, count: int = 3) -> list[Fact]:
    return [a_record(a_touchpoint("page_viewed", at=at + n, leaves=leaves)) for n in range(count)]


def bought(leaf: bytes, order: str) -> Fact:
    return a_record(a_touchpoint("purchased", at=NOON_MS, leaf=leaf, order_id=order, amount=5, currency="EUR"))


LINK = IdentityLinked("main", b"l" * 16, SARA, REZA, True, False, NOON_MS)
ERASE = ErasureRequested("main", b"e" * 16, REZA, NOON_MS + 9)
ERASED = LeafErased("main", b"f" * 16, REZA, NOON_MS + 9)
ROUNDS: Sequence[Mapping[int, Sequence[Fact]]] = (
    {0: [*views(SARA), bought(SARA, "o1")], 1: views(COOKIE), 3: [*views(REZA), bought(REZA, "o2")]},
    {0: views(SARA, COOKIE, at=NOON_MS + 10), 1: [*views(COOKIE), bought(COOKIE, "o3")], 2: views(SARA_MAIL)},
    {0: [*views(SARA, at=NOON_MS + 20), LINK, *views(SARA, SARA_MAIL, at=NOON_MS + 30)], 3: [bought(REZA, "o2"), LINK]},
    {1: [ERASE, ERASED, *views(REZA, at=NOON_MS + 40)], 2: views(SARA_MAIL, at=NOON_MS + 50), 3: views(REZA)},
)
"""Ties over partitions, a command between touchpoints, an erasure; what is in it twice counts once."""


async def claims_of(projection: TouchpointsProjection) -> dict[int, Claim]:
    return {partition: await projection.store.acquire(TOUCHPOINTS, partition, "test") for partition in range(4)}


async def told_of(database: Database) -> list[tuple[str, int, bytes, bytes]]:
    rows = await outbox_of(a_projection(database))
    return [(row.topic, row.partition, row.key, row.value) for row in rows]


async def fold_rounds(database: Database, other: Database) -> None:
    """The same in both: in one step a round, and in a step for each partition."""
    together, alone = a_projection(database), a_projection(other)
    claims, single = await claims_of(together), await claims_of(alone)
    for number, brought in enumerate(ROUNDS):
        at = START_MS + 100 * number
        portions = [Portion(claims[one], a_batch(claims[one], facts, at)) for one, facts in brought.items()]
        claims |= {claim.partition: claim for claim in await together.fold_together(portions)}
        for one, facts in brought.items():
            single[one] = await alone.fold(single[one], a_batch(single[one], facts, at))
    assert [claim.position for claim in claims.values()] == [claim.position for claim in single.values()]
    assert together.tally == alone.tally


async def test_profiles_are_the_same_bytes_and_say_the_same(database: Database, other: Database) -> None:
    await fold_rounds(database, other)
    assert await told_of(database) == await told_of(other)
    assert await digest(database) == await digest(other)


async def test_decisions_are_the_same(database: Database, other: Database, url: str, tmp_path: Path) -> None:
    await fold_rounds(database, other)
    changes: dict[int, list[Fact]] = {}
    for topic, partition, _, value in await told_of(other):
        if topic == PROFILE_CHANGES and isinstance(fact := decode(value), Fact):
            changes.setdefault(partition, []).append(fact)
    assert len(changes) > 1
    async with (
        fresh_database(url, tmp_path, "scoring") as one_step,
        fresh_database("", tmp_path / "alone", "scoring") as steps,
    ):
        together, alone = Scoring(one_step), Scoring(steps)
        claims = [await together.claim(partition) for partition in changes]
        portions = [Portion(claim, a_batch(claim, changes[claim.partition], START_MS)) for claim in claims]
        await together.projection.fold_together(portions)
        for partition, facts in changes.items():
            await alone.fold(partition, facts)
        assert await decided(one_step) == await decided(steps)
        assert together.projection.tally.counts == alone.projection.tally.counts


async def decided(database: Database) -> list[list[tuple[object, ...]]]:
    async with database.snapshot() as connection:
        decisions = await fetch(connection, "SELECT customer, version, state, decision, due_at FROM decision")
        said = await fetch(connection, "SELECT topic, partition, key, value FROM outbox ORDER BY partition, seq")
    assert decisions
    return [sorted(tuple(row) for row in decisions), [tuple(row) for row in said]]


async def test_refused_for_one_partition_nothing_of_any_is_folded(database: Database) -> None:
    projection = a_projection(database)
    claims = await claims_of(projection)
    await projection.store.acquire(TOUCHPOINTS, 1, "test")  # by somebody else
    portions = [Portion(claims[one], a_batch(claims[one], views(a_leaf(f"{one}")))) for one in range(3)]
    with pytest.raises(Fenced, match="touchpoints/1"):
        await projection.fold_together(portions)
    assert await told_of(database) == []
    moved = await projection.fold_together([portions[0], portions[2]])
    assert [(claim.partition, claim.position) for claim in moved] == [(0, 3), (2, 3)]


async def test_a_partition_in_which_nothing_can_be_folded_stops_alone(database: Database) -> None:
    projection = a_projection(database)
    claims = await claims_of(projection)
    for source in ("shop", "erp"):
        for _ in range(60):
            projection.streaks[1] = projection._streak(1)
            projection.streaks[1].failed(source)
    portions = [Portion(claims[one], a_batch(claims[one], [])) for one in (0, 1)]
    moved = await projection.fold_together(portions)
    assert await projection.turn(moved[0]) == moved[0]
    with pytest.raises(Stopped, match="sources could not be folded"):
        await projection.turn(moved[1])


async def test_a_key_that_is_not_here_yet_holds_its_partition_alone(database: Database) -> None:
    def key_is_away(workspace: str, sealed: Sealed) -> PersonalFields:
        raise KeyAway(f"{sealed.key} is not here")

    projection = a_projection(database)
    projection.open_sealed = key_is_away
    claims = await claims_of(projection)
    sealed = msgspec.structs.replace(views(REZA)[0], personal=Sealed("k2", b"d", b"b"))
    steps = Stepping(projection, projection.store, SystemClock())
    task = asyncio.create_task(steps.run())
    brought = (views(SARA), [sealed], views(SARA_MAIL))
    told = await asyncio.gather(
        *(steps.fold(claims[one], a_batch(claims[one], facts)) for one, facts in enumerate(brought)),
        return_exceptions=True,
    )
    await ended([task])
    assert [one.position if isinstance(one, Claim) else type(one) for one in told] == [3, KeyAway, 3]
    assert {row[2] for row in await told_of(database)} == {SARA, SARA_MAIL}
