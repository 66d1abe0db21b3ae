"""Republish on both databases: everybody is told again once, never behind something newer, through any interruption."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.profiles import republish
from services.profiles.republish import Republishing, progress
from services.profiles.store import SqlStore
from shared.clock import FrozenClock
from shared.codec import decode
from shared.database import Database, execute, fetch
from shared.events import (
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    LeafErased,
    LeafReinstated,
    ProfileChanged,
    RepublishPassed,
    RepublishRequested,
)
from shared.ids import partition_of
from tests.builders import a_leaf, a_record, a_touchpoint
from tests.support.steps import PARTITIONS, START_MS, a_projection, fold_all, fresh_database, outbox_of

ANA, BEN, CLIO, DAN = (a_leaf(name, rank) for name, rank in (("ana", 0), ("ben", 0), ("clio", 4), ("dan", 0)))
ID = bytes(range(16))
PAGE = 20
Told = ProfileChanged | CustomerAbsorbed | CustomerErased | CustomerParked


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(republish, "PAGE", PAGE)


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh profiles database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "profiles") as made:
        yield made


def republishing(database: Database, asked: str = "r1") -> Republishing:
    """A process that has read a request."""
    clock = FrozenClock(START_MS)
    made = Republishing(SqlStore(database), a_projection(database).house, clock, lambda: None)
    if asked:
        made.hear(RepublishRequested(asked, clock.now_ms()))
    return made


async def emptied(database: Database) -> list[tuple[int, bytes, Fact]]:
    """What lies in the outbox, and it lies there no more."""
    rows = await outbox_of(a_projection(database))
    async with database.transaction() as connection:
        await execute(connection, "DELETE FROM outbox")
    facts = [(row.partition, row.key, decode(row.value)) for row in rows]
    return [(partition, key, fact) for partition, key, fact in facts if isinstance(fact, Fact)]


async def all_pages(made: Republishing) -> None:
    """Tell everybody."""
    while await made.step():
        pass


def viewed(name: str, *leaves: bytes) -> Fact:
    """One record with a page view."""
    return a_record(a_touchpoint("page_viewed", leaves=leaves, id=name))


HISTORY: tuple[Fact, ...] = (
    viewed("1", ANA), viewed("2", BEN), viewed("3", CLIO, ), viewed("4", DAN), viewed("5", ANA, CLIO),
    IdentityLinked("main", ID, ANA, BEN, True, True, START_MS),
    IdentityUnlinked("main", ID[::-1], ANA, CLIO, True, START_MS + 1),
    LeafErased("main", ID, DAN, START_MS),
)  # fmt: skip


async def test_the_last_word_about_everybody_is_said_again(database: Database) -> None:
    await fold_all(a_projection(database), HISTORY)
    last: dict[bytes, Told] = {}
    for _, _, fact in await emptied(database):
        if isinstance(fact, Told):
            last[fact.customer] = fact
    await all_pages(republishing(database))
    again = await emptied(database)

    told = {fact.customer: fact for _, _, fact in again if isinstance(fact, Told)}
    assert told.keys() == last.keys() == {ANA, BEN, CLIO, DAN}
    for customer, fact in told.items():
        before = last[customer]
        assert (type(fact), fact.version, fact.recorded_at) == (type(before), before.version, before.recorded_at)
        if isinstance(fact, ProfileChanged) and isinstance(before, ProfileChanged):
            assert fact.state == before.state
            assert (fact.facts, fact.departed, fact.import_id) == ((), (), "republish:r1")
    assert {place.leaf: place.moves for place in told[ANA].leaves} == {ANA: 0, BEN: 1}  # type: ignore[union-attr]
    assert {place.leaf: place.moves for place in told[CLIO].leaves} == {CLIO: 2}  # type: ignore[union-attr]
    assert all(partition == partition_of(key, PARTITIONS) for partition, key, _ in again if key)
    markers = [(partition, key, fact) for partition, key, fact in again[-PARTITIONS:]]
    assert markers == [(q, b"", RepublishPassed("r1", START_MS)) for q in range(PARTITIONS)]


async def test_a_reinstated_leaf_that_says_nothing_yet_stays_erased(database: Database) -> None:
    facts = (viewed("1", ANA), LeafErased("main", ID, ANA, START_MS), LeafReinstated("main", ID[::-1], ANA, START_MS))
    await fold_all(a_projection(database), facts)
    await emptied(database)
    await all_pages(republishing(database))
    assert [type(fact) for _, key, fact in await emptied(database) if key] == [CustomerErased]


async def test_a_killed_process_is_followed_by_another_that_goes_on(database: Database) -> None:
    crowd = [viewed(f"v{n}", a_leaf(f"crowd{n}", 4)) for n in range(2 * PAGE + 10)]
    await fold_all(a_projection(database), crowd)
    await emptied(database)
    first, second = republishing(database), republishing(database, asked="")
    assert await first.step()  # and it is heard of no more
    async with database.snapshot() as connection:
        now = await republish.newest(connection)
    assert now is not None
    assert (now.leaves, now.leaves_total, now.customers) == (PAGE, len(crowd), PAGE)
    assert 0 < progress(now, START_MS + 1000).share < 1
    await all_pages(second)
    told = [fact.customer for _, _, fact in await emptied(database) if isinstance(fact, ProfileChanged)]
    assert len(told) == len(set(told)) == len(crowd)
    async with database.snapshot() as connection:
        ended = await republish.one(connection, "r1")
    assert ended is not None
    assert ended.finished_at
    assert not await second.step()


async def test_it_waits_while_the_outbox_is_full(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(republish, "OUTBOX_ROWS_MAX", 3)
    await fold_all(a_projection(database), [viewed(f"v{n}", a_leaf(f"crowd{n}", 4)) for n in range(3)])
    made = republishing(database)
    assert await made.step()
    assert made.waited == 1
    assert made.customers == 0
    await emptied(database)
    assert await made.step()
    assert made.customers == 3


async def test_a_change_between_two_pages_is_not_followed_by_an_older_version(database: Database) -> None:
    """Numbers in the outbox are given under the root's lock: whatever comes between, versions only grow."""
    crowd = [a_leaf(f"crowd{n}", 4) for n in range(PAGE + 5)]
    await fold_all(a_projection(database), [viewed(f"a{n}", leaf) for n, leaf in enumerate(crowd)])
    made = republishing(database)
    await made.step()
    await fold_all(a_projection(database), [viewed(f"b{n}", leaf) for n, leaf in enumerate(crowd)], partition=1)
    await all_pages(made)
    versions: dict[bytes, int] = {}
    for _, _, fact in await emptied(database):
        if isinstance(fact, ProfileChanged):
            assert fact.version >= versions.get(fact.customer, 0)
            versions[fact.customer] = fact.version
    assert set(versions.values()) == {2}


async def test_an_old_request_is_nobodys_any_more(database: Database) -> None:
    made = republishing(database, asked="")
    made.hear(RepublishRequested("old", START_MS - republish.REQUEST_MS_MAX - 1))
    assert not await made.step()
    async with database.snapshot() as connection:
        assert not await fetch(connection, "SELECT id FROM republish")


async def test_an_erasure_asked_for_leaves_its_customer_as_it_is(database: Database) -> None:
    await fold_all(a_projection(database), [viewed("1", ANA), ErasureRequested("main", ID, ANA, START_MS)])
    await emptied(database)
    await all_pages(republishing(database))
    assert [type(fact) for _, key, fact in await emptied(database) if key] == [ProfileChanged]
