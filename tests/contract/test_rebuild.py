"""A rebuild of profiles beside the live one, on SQLite and on PostgreSQL: the same digests, under live traffic, through
processes that die at any phase.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import event

from services.profiles import candidate, switching, versions
from services.profiles.comparing import Comparison, decoded_report
from services.profiles.digest import digest
from services.profiles.switching import House
from shared import profile as profiles
from shared import rebuild
from shared.codec import decode
from shared.errors import Conflict, Fenced
from shared.events import CustomerErased, LeafErased, ProfileChanged
from shared.log.port import Batch
from shared.rebuild import Rebuild
from shared.topics import PROFILE_CHANGES
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.rebuilding import Beside, ended, history, profiles_beside
from tests.support.steps import PARTITIONS, fresh_database

SARA = a_leaf("sara")


@pytest.fixture(params=["sqlite", "postgres"])
async def beside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Beside]:
    """Profiles on a fresh database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "profiles") as database, profiles_beside(tmp_path, database) as made:
        yield made


def report_of(row: Rebuild) -> Comparison:
    """What the comparison found."""
    report = decoded_report(row.report)
    assert report is not None
    return report


def never_back(before: dict[bytes, tuple[int, int]], after: dict[bytes, tuple[int, int]]) -> bool:
    """Whether no leaf's version or moves went back."""
    return all(after[leaf][0] >= version and after[leaf][1] >= moves for leaf, (version, moves) in before.items())


async def test_a_rebuilt_version_lists_the_stages_that_stand(beside: Beside) -> None:
    """Stages that were decided before the rebuild, while it stood ready, and after it was switched to."""
    await beside.say(*history(1, 100))
    beside.work()
    await beside.settle()
    customers = sorted(row.customer for row in await beside.rows("SELECT customer FROM customer"))
    beside.rebuild()
    await beside.decide(customers[0::3], "active")
    await beside.begin()
    await beside.phase("ready")
    await beside.decide(customers[1::3], "lapsed")
    await beside.ask("switch")
    await beside.phase("switched")
    await beside.decide(customers[2::3], "at_risk")
    stages = {row.customer: row.stage for row in await beside.rows("SELECT customer, stage FROM customer")}
    assert stages == {one: ("active", "lapsed", "at_risk")[n % 3] for n, one in enumerate(customers)}


async def test_a_rebuild_equals_live_and_takes_its_place_under_traffic(beside: Beside) -> None:
    """Ties, links, erasures and parked touchpoints; live goes on all the while, and no version goes back."""
    await beside.say(*history(1, 250))
    beside.work()
    await beside.settle()
    assert await beside.rows("SELECT 1 FROM parked")
    assert await beside.rows("SELECT 1 FROM leaf WHERE root <> leaf")
    before = await beside.versions()
    personal = (
        "INSERT INTO personal (leaf, field, workspace, value, at, id) VALUES ($1, 'trait:name', 'main', $1, 1, $1)"
    )
    await beside.write(personal, SARA)
    beside.rebuild()
    await beside.begin()
    for seed in range(2, 8):
        await beside.say(*history(seed, 20))
        await asyncio.sleep(0)
    report = report_of(await beside.phase("ready"))
    assert report.is_equal
    assert report.digest_live == report.digest_made
    await beside.say(*history(9, 30))
    await beside.ask("switch")
    await beside.say(*history(10, 30))
    await beside.phase("switched")
    await beside.say(*history(11, 30))
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    assert never_back(before, await beside.versions())
    assert len(await beside.rows("SELECT 1 FROM personal")) == 1
    sent = [decode(record.value) for record in await changes(beside)]
    assert in_order(sent)


async def test_a_switch_is_rolled_back_and_what_is_left_is_dropped(beside: Beside) -> None:
    """The version before folds what came meanwhile, is live again, and another rebuild can follow."""
    await beside.say(*history(1, 80), bought(0))
    beside.work()
    await beside.settle()
    beside.rebuild()
    await beside.begin("switch")
    await beside.phase("switched")
    before = await beside.versions()
    with pytest.raises(Conflict, match="still kept"):
        await beside.begin()
    await beside.say(*history(2, 40), bought(1), LeafErased("main", b"e" * 16, SARA, NOON_MS), bought(2))
    await beside.settle()
    assert await kept_of(beside, SARA) == [(b"", b"")]
    await beside.ask("rollback")
    row = await beside.until(lambda row: row is not None and row.kind == "rollback" and row.phase == "switched")
    assert row is not None
    assert report_of(row).is_equal
    assert row.generation == 1
    await beside.say(*history(3, 40))
    await beside.ask("drop")
    await beside.until(lambda row: row is None)
    await beside.begin("switch")
    await beside.phase("switched")
    await beside.ask("drop")
    await beside.until(lambda row: row is None)
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    assert never_back(before, await beside.versions())


async def test_what_drifted_is_named_not_switched_to_and_told_once_accepted(beside: Beside) -> None:
    """A state changed behind everybody's back: the report names customer and feature; after the switch it is mended
    and told as an ordinary change, one version further.
    """
    await beside.say(*history(1, 60), bought(1), bought(2))
    beside.work()
    await beside.settle()
    version, poorer = (await beside.versions())[SARA][0], profiles.new()
    profiles.fold(poorer, bought(1).touchpoints[0], "shop", 2)
    await beside.write("UPDATE leaf SET state = $1 WHERE leaf = $2", profiles.encode(poorer), SARA)
    beside.rebuild()
    await beside.begin("switch")
    row = await beside.phase("ready")
    assert "differs" in row.why
    mine = report_of(row).workspaces["main"]
    assert (mine.customers, mine.examples[0].customer) == (1, SARA.hex())
    assert set(mine.features) == {"behaviour", "orders"}
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    await told(beside)
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    fact = [decode(record.value) for record in await changes(beside) if record.key == SARA][-1]
    assert isinstance(fact, ProfileChanged)
    assert fact.version == version + 1
    assert len(profiles.purchases(profiles.decode(fact.state))) == 2


async def test_another_fold_version_brings_a_report_instead_of_a_proof(beside: Beside) -> None:
    """States without a component, as an older fold left them: how many customers, in which features."""
    await beside.say(*history(1, 150), bought(1))
    beside.work()
    await beside.settle()
    behaviour_only = 0
    for row in await beside.rows("SELECT leaf, state, merged, root FROM leaf WHERE NOT erased"):
        for column, state in (("state", row.state), ("merged", row.merged)):
            if state and profiles.narrowed(state, "orders") != profiles.encode(profiles.new()):
                older = profiles.narrowed(state, "behaviour")
                await beside.write(f"UPDATE leaf SET {column} = $1 WHERE leaf = $2", older, row.leaf)
                behaviour_only += 1
    assert behaviour_only
    await beside.write("UPDATE projection SET fold_version = 0")
    beside.rebuild()
    await beside.begin()
    mine = report_of(await beside.phase("ready")).workspaces["main"]
    assert set(mine.features) == {"orders"}
    assert mine.customers == mine.features["orders"] >= len(mine.examples) > 0
    await beside.say(bought(3))
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    await told(beside)
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    assert (await beside.rows("SELECT fold_version FROM projection WHERE name = 'profiles'"))[0][0] == 1
    retold = [decode(record.value) for record in await changes(beside)]
    assert in_order(retold)


async def test_a_customer_the_log_knows_nothing_of_is_taken_back(beside: Beside) -> None:
    """Rows from nowhere: gone after the switch, and consumers are told with a version they believe."""
    await beside.say(bought(1))
    beside.work()
    await beside.settle()
    ghost = a_leaf("ghost")
    columns = "leaf, workspace, root, standing, full_rank, state, merged, version, moves, erased, erased_at, known"
    values = "$1, workspace, $1, standing, full_rank, state, merged, 7, moves, erased, erased_at, known, changed_at"
    await beside.write(
        f"INSERT INTO leaf ({columns}, changed_at) SELECT {values} FROM leaf WHERE leaf = $2", ghost, SARA
    )
    beside.rebuild()
    await beside.begin()
    assert report_of(await beside.phase("ready")).workspaces["main"].features == {"leaf": 1}
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    await told(beside)
    await beside.settle()
    fact = [decode(record.value) for record in await changes(beside) if record.key == ghost][-1]
    assert isinstance(fact, CustomerErased)
    assert fact.version == 8


async def test_a_process_that_dies_at_any_phase_is_taken_over(beside: Beside) -> None:
    """Whoever holds the rebuild ends anywhere; the next one goes on, and the outcome is the same."""
    random = Random(1)
    await beside.say(*history(1, 100))
    beside.work()
    await beside.settle()
    await beside.begin("switch")
    for life in range(3):
        task = beside.rebuild(patience_seconds=0.3)
        await asyncio.sleep(0.3 + random.random() * 0.3)
        await ended(task)
        await beside.say(*history(100 + life, 10))
    beside.rebuild(patience_seconds=0.3)
    await beside.phase("switched")
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew


async def test_a_replaced_holder_can_read_and_never_write(beside: Beside) -> None:
    """Neither the row nor the version it made."""
    await beside.say(bought(1))
    beside.work()
    await beside.settle()
    await beside.begin()
    row = await beside.row()
    assert row is not None
    async with beside.database.transaction() as connection:
        old = await rebuild.seize(connection, row)
        claims = await candidate.claims(connection, raise_epoch=True)
    async with beside.database.transaction() as connection:
        await rebuild.seize(connection, old)
        await candidate.claims(connection, raise_epoch=True)
    with pytest.raises(Fenced):
        async with beside.database.transaction() as connection:
            await rebuild.hold(connection, old)
    claim = claims[0]
    with pytest.raises(Fenced):
        await candidate.projection_beside(beside.database, PARTITIONS).fold(claim, Batch((), claim.position))


class Died(BaseException):
    """The process ended here."""


async def test_a_switch_that_dies_at_any_statement_leaves_all_as_it_was(beside: Beside) -> None:
    """One transaction: before its last statement nothing has happened, after it everything."""
    await beside.say(*history(1, 60))
    beside.work()
    await beside.settle()
    task = beside.rebuild()
    await beside.begin()
    await beside.phase("ready")
    await ended(task)
    before, statements = await digest(beside.database), 0
    while True:
        statements += 1
        try:
            await _switch(beside, statements)
        except Died:
            assert (await beside.phase("ready")).switched_at == 0
            assert await digest(beside.database) == before
            continue
        break
    assert statements > 15
    await beside.say(*history(2, 20))
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    assert (await beside.phase("switched")).switched_at > 0


async def _switch(beside: Beside, dies_at: int) -> None:
    """Switch, unless it dies at its nth statement."""
    row = await beside.row()
    assert row is not None
    async with beside.database.transaction() as connection:
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == dies_at:
                raise Died

        with pytest.MonkeyPatch.context() as patch:
            if beside.database.is_sqlite:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                execute = driver._execute

                async def counted(*call: Any) -> Any:
                    count()
                    return await execute(*call)

                patch.setattr(driver, "_execute", counted)
            else:
                event.listen(connection.sync_connection, "before_cursor_execute", count)
            await switching.switch(connection, House(beside.log, beside.database, PARTITIONS), row, 1, accept=False)


# --- what was told ----------------------------------------------------------------------------------------------


async def changes(beside: Beside) -> list[Any]:
    """Every record of profile-changes, partition by partition."""
    found: list[Any] = []
    for partition, bounds in (await beside.log.bounds(PROFILE_CHANGES)).items():
        position = bounds.earliest
        while position < bounds.end:
            batch = await beside.log.read(PROFILE_CHANGES, partition, position, wait_seconds=1)
            found += batch.records
            position = batch.next_position
    return found


def in_order(facts: list[Any]) -> bool:
    """Whether each customer's versions only grow; what is sent again must be the same."""
    said: dict[bytes, dict[int, Any]] = {}
    for fact in facts:
        known = said.setdefault(getattr(fact, "customer", b""), {})
        version = getattr(fact, "version", 0)
        if version in known:
            assert fact == known[version]
        elif version and version < max(known, default=0):
            return False
        elif version:
            known[version] = fact
    return True


async def kept_of(beside: Beside, leaf: bytes) -> list[tuple[bytes, bytes]]:
    """State and bodies of a leaf in the version that was live before."""
    kept = versions.beside("previous", beside.database.is_sqlite)
    statement = f"""SELECT l.state, t.body FROM {kept.leaf.fullname} l
JOIN {kept.touchpoint.fullname} t ON t.leaf = l.leaf WHERE l.leaf = $1"""
    return [(row.state, row.body) for row in await beside.rows(statement, leaf)]


async def told(beside: Beside) -> None:
    """Wait until everybody who differed was told."""
    async with asyncio.timeout(30):
        while await beside.rows("SELECT 1 FROM rebuild_differing"):
            await asyncio.sleep(0.02)


def bought(n: int) -> Any:
    """A purchase of Sara."""
    return a_record(a_touchpoint("purchased", at=NOON_MS + n, leaf=SARA, order_id=f"s{n}", amount=5, currency="EUR"))
