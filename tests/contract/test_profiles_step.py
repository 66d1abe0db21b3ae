"""The profiles step does the same on SQLite and on PostgreSQL: equal rows, equal facts, equal digests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from shared import profile as profiles
from shared.checkpoint import Claim
from shared.codec import decode
from shared.database import Database, fetch
from shared.errors import Fenced, Stopped
from shared.events import (
    CustomerAbsorbed,
    CustomerErased,
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    LeafErased,
    LeafReinstated,
    ProfileChanged,
)
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.steps import START_MS, a_batch, a_projection, fold_all, fresh_database, outbox_of

SARA, SARA_MAIL, COOKIE = a_leaf("sara", 0), a_leaf("sara-mail", 1), a_leaf("cookie", 4)


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh profiles database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "profiles") as made:
        yield made


async def leaves(database: Database) -> dict[bytes, tuple[bytes, bytes, bytes]]:
    """Leaf → (root, state, merged)."""
    async with database.snapshot() as connection:
        rows = await fetch(connection, "SELECT leaf, root, state, merged FROM leaf")
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


async def changes(database: Database) -> list[Fact]:
    """Profile changes in the outbox, decoded."""
    rows = await outbox_of(a_projection(database))
    found = [decode(row.value) for row in rows if row.topic == PROFILE_CHANGES]
    return [fact for fact in found if isinstance(fact, Fact)]


def page(at: int, *who: bytes, **more: str) -> Fact:
    """One page view of `who` as a record."""
    return a_record(a_touchpoint("page_viewed", at=at, leaves=who, url_path="/", **more))


async def test_a_touchpoint_counts_once_however_often_it_comes(database: Database) -> None:
    """Duplicates in a batch, in a later batch and in another record change nothing."""
    projection = a_projection(database)
    view = page(NOON_MS, SARA)

    await fold_all(projection, [view, view, page(NOON_MS + 1, SARA), view], batch=2)

    state = profiles.decode((await leaves(database))[SARA][1])
    assert profiles.counts(state)["page_viewed"] == {"web": 2}
    assert projection.tally.duplicates == 2
    assert [fact.version for fact in await changes(database) if isinstance(fact, ProfileChanged)] == [1, 2]


async def test_cuts_do_not_depend_on_batches(database: Database, tmp_path: Path) -> None:
    """One change per record and customer, whatever batch it came in."""
    facts = [page(NOON_MS + n, SARA if n % 2 else COOKIE) for n in range(10)]
    await fold_all(a_projection(database), facts, batch=10)
    async with fresh_database("", tmp_path / "other", "profiles") as other:
        await fold_all(a_projection(other), facts, batch=3)

        assert [decode(row.value) for row in await outbox_of(a_projection(other))] == await changes(database)


async def test_a_tie_joins_and_an_unlink_splits(database: Database) -> None:
    """A cookie joins its user with its past; the operator's unlink restores both, and stays."""
    alone = [page(NOON_MS, COOKIE), page(NOON_MS + 1, SARA)]
    tie = page(NOON_MS + 2, SARA, COOKIE)
    await fold_all(a_projection(database), [*alone, tie])

    joined = await leaves(database)
    assert joined[COOKIE][0] == SARA
    assert profiles.counts(profiles.decode(joined[SARA][2]))["page_viewed"] == {"web": 3}
    told = await changes(database)
    absorbed = [fact for fact in told if isinstance(fact, CustomerAbsorbed)]
    assert [(fact.customer, fact.into, fact.version) for fact in absorbed] == [(COOKIE, SARA, 2)]

    unlink = IdentityUnlinked("main", b"u" * 16, SARA, COOKIE, True, NOON_MS + 3)
    await fold_all(a_projection(database), [unlink, page(NOON_MS + 4, SARA, COOKIE)])

    split = await leaves(database)
    assert split[COOKIE][0] == COOKIE
    assert split[SARA][2] == b""
    assert profiles.counts(profiles.decode(split[COOKIE][1]))["page_viewed"] == {"web": 1}
    newest = {f.customer: f for f in await changes(database) if isinstance(f, ProfileChanged)}
    assert newest[COOKIE].version == 3
    assert [place.leaf for place in newest[COOKIE].leaves] == [COOKIE]


async def test_users_join_only_by_alias(database: Database) -> None:
    """Two users tied by one email stay two; an explicit alias joins them."""
    reza = a_leaf("reza", 0)
    await fold_all(a_projection(database), [page(NOON_MS, SARA, SARA_MAIL), page(NOON_MS + 1, reza, SARA_MAIL)])
    apart = await leaves(database)
    assert (apart[SARA][0], apart[reza][0], apart[SARA_MAIL][0]) == (SARA, reza, SARA_MAIL)

    link = IdentityLinked("main", b"l" * 16, SARA, reza, True, True, NOON_MS + 2)
    await fold_all(a_projection(database), [link])

    root = min(SARA, reza)
    assert {row[0] for row in (await leaves(database)).values()} == {root}


async def test_erasure_follows_its_own_facts_and_drops_what_comes_later(database: Database) -> None:
    """The command only sends `leaf.erased` to every leaf; state follows those; a reinstated leaf starts anew."""
    projection = a_projection(database)
    await fold_all(projection, [page(NOON_MS, SARA, COOKIE)])
    await fold_all(projection, [ErasureRequested("main", b"e" * 16, SARA, NOON_MS)], at=START_MS + 1_000)
    rows = await outbox_of(projection)
    commands = [fact for row in rows if row.topic == TOUCHPOINTS for fact in [decode(row.value)]]
    erased = [fact for fact in commands if isinstance(fact, LeafErased)]
    assert {fact.leaf for fact in erased} == {SARA, COOKIE}
    assert (await leaves(database))[SARA][1] != b""

    await fold_all(projection, [*erased, page(NOON_MS + 5, SARA)], at=START_MS + 2_000)

    assert all(row == (leaf, b"", b"") for leaf, row in (await leaves(database)).items())
    async with database.snapshot() as connection:
        bodies = await fetch(connection, "SELECT body FROM touchpoint")
    assert {row[0] for row in bodies} == {b""}
    assert sum(isinstance(fact, CustomerErased) for fact in await changes(database)) == 2

    reinstated = LeafReinstated("main", b"r" * 16, SARA, NOON_MS)
    await fold_all(projection, [reinstated, page(NOON_MS + 6, SARA)], at=START_MS + 3_000)
    state = profiles.decode((await leaves(database))[SARA][1])
    assert profiles.counts(state)["page_viewed"] == {"web": 1}


async def test_a_replaced_worker_is_refused(database: Database) -> None:
    """A claim of an older epoch writes nothing; the new owner goes on from where it stood."""
    projection = a_projection(database)
    old = await projection.store.acquire(TOUCHPOINTS, 0, "test")
    new = await projection.store.acquire(TOUCHPOINTS, 0, "test")
    with pytest.raises(Fenced):
        await projection.fold(old, a_batch(old, [page(NOON_MS, SARA)]))
    assert await leaves(database) == {}

    moved = await projection.fold(new, a_batch(new, [page(NOON_MS, SARA)]))

    assert moved.position == 1
    with pytest.raises(Fenced):
        await projection.store.hold([(new, new)])


async def test_poison_is_parked_and_its_replay_counts(database: Database) -> None:
    """A touchpoint no component can fold is kept with its reason; its neighbours count, and so does its mended copy."""
    good = a_touchpoint("purchased", at=NOON_MS, leaf=SARA, order_id="1")
    kept = {"order_id": 7}
    bad = a_touchpoint("purchased", at=NOON_MS + 1, leaf=SARA, order_id="2", id="bad")
    broken = type(bad)(*[kept if name == "properties" else getattr(bad, name) for name in bad.__struct_fields__])
    projection = a_projection(database)

    await fold_all(projection, [a_record(good, broken, a_touchpoint("page_viewed", at=NOON_MS, leaf=SARA))])

    async with database.snapshot() as connection:
        parked = await fetch(connection, "SELECT topic, position, place, reason FROM parked")
    assert [(row[0], row[1], row[2]) for row in parked] == [(TOUCHPOINTS, 0, 1)]
    assert parked[0][3].startswith("purchased: TypeError")
    await fold_all(projection, [a_record(bad)])
    state = profiles.decode((await leaves(database))[SARA][1])
    assert len(profiles.purchases(state)) == 2


async def test_the_frontier_of_a_claim_lifts_late_stamps(database: Database) -> None:
    """A record that surfaces behind the frontier counts as recorded just after it."""
    projection = a_projection(database)
    claim = await projection.store.acquire(TOUCHPOINTS, 0, "test")
    ahead = Claim(claim.topic, 0, claim.epoch, claim.revision, 0, frontier=START_MS + 50)
    claim = (await projection.store.hold([(claim, ahead)]))[0]

    await projection.fold(claim, a_batch(claim, [page(NOON_MS, SARA)]))

    told = [fact for fact in await changes(database) if isinstance(fact, ProfileChanged)]
    assert [fact.recorded_at for fact in told] == [START_MS + 51]
    assert projection.tally.late_stamps == 1


async def test_concurrent_links_from_two_workers(postgres_url: str, tmp_path: Path) -> None:
    """Two workers tie overlapping leaves at once: no deadlock, no lost leaf, the components of one after the other."""
    users = [a_leaf(f"u{n}", 0) for n in range(6)]
    mails = [a_leaf(f"m{n}", 1) for n in range(6)]
    cookies = [a_leaf(f"c{n}", 4) for n in range(12)]

    def history(worker: int) -> list[Fact]:
        ties = [(users[n % 6], mails[(n * (worker + 1)) % 6], cookies[(n * 5 + worker) % 12]) for n in range(60)]
        return [page(NOON_MS + 2 * n + worker, *who) for n, who in enumerate(ties)]

    async with fresh_database(postgres_url, tmp_path, "profiles") as database:
        workers = [fold_all(a_projection(database), history(worker), worker, batch=3) for worker in (0, 1)]
        async with asyncio.timeout(60):
            await asyncio.gather(*workers)
        together = await leaves(database)
    async with fresh_database("", tmp_path, "profiles") as alone:
        for worker in (1, 0):
            await fold_all(a_projection(alone), history(worker), worker)
        assert together == await leaves(alone)


def broken(number: int, source: str) -> Fact:
    """A record of one touchpoint that no component can fold."""
    good = a_touchpoint("purchased", at=NOON_MS + number, leaf=SARA, order_id=str(number))
    return a_record(msgspec.structs.replace(good, properties={"order_id": number + 1}), source=source)


async def test_one_bad_source_never_stops_a_partition(database: Database) -> None:
    """However many of its touchpoints fail in a row, they are parked and the next one counts."""
    projection = a_projection(database)

    await fold_all(projection, [*(broken(n, "till") for n in range(25)), page(NOON_MS, SARA)])

    assert projection.tally.parked == 25
    assert profiles.counts(profiles.decode((await leaves(database))[SARA][1])) == {"page_viewed": {"web": 1}}


async def test_twenty_failures_in_a_row_from_two_sources_stop_it(database: Database) -> None:
    """That is our fault, not theirs: the partition stops, and what failed can be looked at."""
    projection = a_projection(database)

    with pytest.raises(Stopped, match="parked events"):
        await fold_all(projection, [broken(n, f"till {n % 2}") for n in range(20)])

    async with database.snapshot() as connection:
        assert len(await fetch(connection, "SELECT position FROM parked")) == 20
