"""A customer as of T and as known at T, on both databases: what the log, cut at T, folds to in another database."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.profiles.domain.past import Cut
from services.profiles.past import told_then
from services.profiles.reading_past import take_time
from shared import profile as profiles
from shared.codec import encode
from shared.database import Database, fetch
from shared.errors import NotFound
from shared.events import Fact, IdentityLinked, IdentityUnlinked, LeafErased, TouchpointsRecorded
from shared.ids import derived_id, partition_of
from shared.log.port import Batch, Record
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.steps import PARTITIONS, START_MS, a_projection, fold_all, fresh_database

LEAVES = tuple(a_leaf(f"{name}{n}", rank) for rank, name in enumerate(("user", "mail", "phone")) for n in range(3))
HOUR_MS = 3_600_000
LENGTH = 120

Log = list[tuple[int, int, Fact]]
"""(partition, recorded at, fact)."""


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh profiles database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "profiles") as made:
        yield made


def history(seed: int) -> Log:
    """Late events, ties, links, unlinks and duplicates of nine identifiers, on their partitions, one a second."""
    chance = random.Random(seed)
    log: Log = []
    for n in range(LENGTH):
        at = NOON_MS + chance.randrange(LENGTH) * HOUR_MS
        a, b = sorted(chance.sample(LEAVES, 2))
        fact: Fact
        match chance.randrange(10):
            case 0:
                fact = IdentityLinked("main", derived_id(str(n)), a, b, True, chance.random() < 0.5, at)
            case 1:
                fact = IdentityUnlinked("main", derived_id(str(n)), a, b, True, at)
            case 2 if told := [one for one in log if isinstance(one[2], TouchpointsRecorded)]:
                fact = chance.choice(told)[2]
                assert isinstance(fact, TouchpointsRecorded)
                a = fact.touchpoints[0].leaves[0]
            case _:
                leaves = (a, b) if chance.random() < 0.4 else (a,)
                order: dict[str, Any] = {"order_id": str(chance.randrange(20)), "amount": chance.randrange(1, 9)}
                bought = a_touchpoint("purchased", at=at, leaves=leaves, id=f"buy {n}", currency="EUR", **order)
                seen = a_touchpoint("page_viewed", at=at + 1, leaves=leaves, id=f"page {n}")
                fact = a_record(chance.choice([bought, seen]))
        log.append((partition_of(a, PARTITIONS), START_MS + n * 1000, fact))
    return log


async def fold(database: Database, log: Log) -> None:
    """Fold a log, partition after partition."""
    projection = a_projection(database)
    for partition in range(PARTITIONS):
        claim = await projection.store.acquire(TOUCHPOINTS, partition, "test")
        mine = [(at, encode(fact)) for there, at, fact in log if there == partition]
        records = [Record(claim.position + n, at, value) for n, (at, value) in enumerate(mine)]
        await projection.fold(claim, Batch(tuple(records), claim.position + len(records)))


def cut_off(log: Log, cut: Cut) -> tuple[Log, Log]:
    """The log up to `known_at`, whole (it says who belongs together), and without what happened after `as_of`."""
    known = [one for one in log if cut.known_at is None or one[1] <= cut.known_at]
    happened = [one for one in known if not isinstance(one[2], TouchpointsRecorded) or _until(one[2], cut.as_of)]
    return known, happened


def _until(fact: TouchpointsRecorded, as_of: int | None) -> bool:
    return as_of is None or all(one.occurred_at <= as_of for one in fact.touchpoints)


async def leaf_rows(folder: Path, log: Log) -> dict[bytes, tuple[bytes, bytes]]:
    """Leaf → (root, own state) of this log folded into a database of its own."""
    async with fresh_database("", folder, "profiles") as other:
        await fold(other, log)
        async with other.snapshot() as connection:
            return {row[0]: (row[1], row[2]) for row in await fetch(connection, "SELECT leaf, root, state FROM leaf")}


def merged(leaves: Sequence[bytes], rows: dict[bytes, tuple[bytes, bytes]]) -> profiles.Profile:
    whole = profiles.new()
    for leaf in leaves:
        if leaf in rows and rows[leaf][1]:
            whole = profiles.merge(whole, profiles.decode(rows[leaf][1]))
    return whole


CUTS = (
    Cut(None, START_MS + LENGTH * 500),
    Cut(NOON_MS + LENGTH * HOUR_MS // 2, START_MS + LENGTH * 800),
    Cut(NOON_MS + LENGTH * HOUR_MS // 3, None),
)


async def test_the_past_is_a_refold_of_the_log_cut_there(database: Database, tmp_path: Path) -> None:
    """Members, and the bytes of the state, of every identifier; by all three ways to ask."""
    log = history(4)
    await fold(database, log)
    for number, cut in enumerate(CUTS):
        known, happened = cut_off(log, cut)
        who = await leaf_rows(tmp_path / f"who{number}", known)
        what = await leaf_rows(tmp_path / f"what{number}", happened)
        for leaf in LEAVES:
            async with database.snapshot() as connection:
                if leaf not in who:
                    with pytest.raises(NotFound):
                        await told_then(connection, "main", leaf, cut)
                    continue
                then = await told_then(connection, "main", leaf, cut)
            members = sorted(one for one in who if who[one][0] == who[leaf][0])
            assert then.members.whole.customer == who[leaf][0]
            assert list(then.members.whole.leaves) == members
            assert profiles.encode(then.state) == profiles.encode(merged(members, what))
    assert len({row[0] for row in who.values()}) < len(who), "nobody was joined: the history shows nothing"


async def test_what_was_erased_is_in_no_past(database: Database) -> None:
    """Nobody by that id at any time; who stayed is told without what was erased."""
    stays, goes = LEAVES[0], LEAVES[3]
    joined = a_record(a_touchpoint("page_viewed", leaves=(stays, goes), id="1"))
    own = a_record(a_touchpoint("page_viewed", leaf=goes, id="2"))
    await fold_all(a_projection(database), [joined, own, LeafErased("main", b"e" * 16, goes, NOON_MS)])
    async with database.snapshot() as connection:
        for cut in (Cut(None, START_MS + 1), Cut(NOON_MS, None)):
            with pytest.raises(NotFound):
                await told_then(connection, "main", goes, cut)
            then = await told_then(connection, "main", stays, cut)
            assert then.members.whole.leaves == (stays,)
            assert profiles.counts(then.state) == {"page_viewed": {"web": 1}}


async def test_another_workspace_has_no_past_here(database: Database) -> None:
    """A leaf of somebody else's is unknown, then as now."""
    await fold_all(a_projection(database), [a_record(a_touchpoint("page_viewed", leaf=LEAVES[0], id="1"))])
    async with database.snapshot() as connection:
        with pytest.raises(NotFound):
            await told_then(connection, "rival", LEAVES[0], Cut(None, START_MS + 9))


async def test_a_long_reading_is_not_cut_off_like_a_step(database: Database) -> None:
    """The timer that ends a step in time is stopped for a reading of the past."""
    if database.is_sqlite:
        return  # knows no such timer
    async with database.snapshot() as connection:
        for limit in ("0", "'300ms'"):
            await connection.exec_driver_sql(f"SET LOCAL transaction_timeout = {limit}")
        await take_time(connection)
        await fetch(connection, "SELECT pg_sleep(0.5)")
