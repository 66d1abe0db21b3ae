"""Decisions made again beside the live ones, on SQLite and on PostgreSQL: equal under live traffic, and what was broken
is named, put right, and put back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.scoring import comparing, switching
from services.scoring.domain.deciding import Decision
from services.scoring.domain.step import Rules
from services.scoring.rebuilding import Found, Rebuilder, found_of
from services.scoring.switching import NAME, House
from shared import rebuild
from shared.clock import SystemClock
from shared.database import Database, execute, fetch
from shared.errors import Conflict
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.rebuild import Rebuild, Wish
from shared.topics import topics
from tests.support.decisions import Scoring, absorbed, bought, changed, complained, erased, leaf_on, s
from tests.support.steps import PARTITIONS, START_MS, fresh_database

ANA, BEN, CLIO, DAN, EVE, FAY = (
    leaf_on(n % PARTITIONS, name) for n, name in enumerate(("ana", "ben", "clio", "dan", "eve", "fay"))
)
DEADLINE_SECONDS = 60.0


class Beside:
    """Scoring driven by hand, its log, and rebuilders that come and go."""

    def __init__(self, database: Database, log: SqliteLog) -> None:
        self.database, self.log = database, log
        self.scoring = Scoring(database)
        rules = Rules(self.scoring.definitions, UTC)
        self.house = House(log, database, lambda _: rules, PARTITIONS)
        self.tasks: list[asyncio.Task[None]] = []
        self.rebuilders: list[Rebuilder] = []

    def process(self, patience_seconds: float = 60.0) -> asyncio.Task[None]:
        """A process that takes part in the rebuild."""
        self.rebuilders.append(Rebuilder(self.house, SystemClock(), patience_seconds))
        task = asyncio.create_task(self.rebuilders[-1].run())
        self.tasks.append(task)
        return task

    async def relay(self) -> None:
        """What waits in the outbox goes to the log."""
        store = self.scoring.projection.store
        for row in (await store.outbox(range(PARTITIONS), 1_000)).rows:
            await self.log.append(row.topic, [Outgoing(row.partition, row.value, row.key)])
            async with self.database.transaction() as connection:
                await execute(connection, "DELETE FROM outbox WHERE seq = $1", row.seq)

    async def begin(self, wanted: Wish = "") -> None:
        """Begin a rebuild."""
        await switching.begin(self.house, START_MS, wanted)
        self._wake()

    async def ask(self, wanted: Wish) -> None:
        """What a person wants of it."""
        known = await self.row()
        assert known is not None
        async with self.database.transaction() as connection:
            await rebuild.ask(connection, known, wanted)
        self._wake()

    def _wake(self) -> None:
        for one in self.rebuilders:
            one.wake()

    async def row(self) -> Rebuild | None:
        """The rebuild as it stands."""
        async with self.database.snapshot() as connection:
            return await rebuild.load(connection, NAME)

    async def until(self, is_so: Callable[[Rebuild | None], bool]) -> Rebuild | None:
        """Wait for it."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not is_so(row := await self.row()):
                await asyncio.sleep(0.02)
        return row

    async def phase(self, phase: str) -> Rebuild:
        """Wait for a phase."""
        row = await self.until(lambda one: one is not None and one.phase == phase)
        assert row is not None
        return row

    async def compared(self) -> Found:
        """Wait until it is compared."""
        found = found_of(await self.phase("ready"))
        assert found is not None
        return found

    async def gone(self) -> None:
        """Wait until nothing stands beside live."""
        await self.until(lambda row: row is None)
        for table in ("recalled", "recalled_alert", "rebuild_differing", "rebuild_checkpoint"):
            assert not await self.select(f"SELECT * FROM {table}")

    async def differing(self) -> dict[bytes, str]:
        """Customer → in what they differ."""
        return {row.customer: row.fields for row in await self.select("SELECT * FROM rebuild_differing")}

    async def select(self, statement: str) -> list[Any]:
        """Rows of a statement."""
        async with self.database.snapshot() as connection:
            return await fetch(connection, statement)

    async def tables(self) -> tuple[Any, Any]:
        """Decisions and alerts as they stand."""
        decisions, alerts, _ = await self.scoring.contents()
        return decisions, alerts

    async def spoil(self, statement: str, *values: Any) -> None:
        """Damage live."""
        async with self.database.transaction() as connection:
            assert await execute(connection, statement, *values)

    async def end(self) -> None:
        """End the processes."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture(params=["sqlite", "postgres"])
async def beside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Beside]:
    """Scoring on a fresh database of each kind, and its log."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    log = SqliteLog(tmp_path / "log", SystemClock())
    await log.ensure(topics(PARTITIONS))
    async with fresh_database(url, tmp_path, "scoring") as database:
        made = Beside(database, log)
        await lived(made)
        identity = await log.identity("profile-changes")
        await made.spoil("UPDATE checkpoint SET log_identity = $1", identity)
        try:
            yield made
        finally:
            await made.end()
            await log.close()


async def lived(beside: Beside) -> None:
    """A silence said, complaints, one absorbed, one erased, one held by an import; half of it waits in the outbox."""
    scoring = beside.scoring
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), changed(BEN, 1, 1, bought(BEN, 1)))
    await scoring.tell(changed(CLIO, 1, 2, complained(CLIO, 2)), changed(DAN, 1, 3, bought(DAN, 3)))
    await scoring.tell(changed(EVE, 1, 4, complained(EVE, 4)))
    await scoring.reach(s(20))
    await beside.relay()
    await scoring.tell(
        changed(ANA, 2, 30, bought(ANA, 0), bought(ANA, 30)),
        changed(CLIO, 2, 40, complained(CLIO, 2), bought(CLIO, 40)),
        absorbed(DAN, ANA, 2, 41),
        erased(EVE, 2, 42),
        changed(FAY, 1, 43, bought(FAY, 1), import_id="i1"),
    )
    await scoring.reach(s(70))


async def live_on(beside: Beside, begin: int, count: int) -> None:
    """Live traffic: purchases, complaints, and time."""
    for n in range(begin, begin + count):
        at = 100 + n
        await beside.scoring.tell(changed(BEN, 1 + n, at, bought(BEN, at), complained(BEN, at), new=2))
        if n % 4 == 0:
            await beside.scoring.reach(s(at))
            await beside.relay()
        await asyncio.sleep(0)


async def spoil_decision(beside: Beside, customer: bytes, **changes: Any) -> None:
    """Another decision in the row of a customer."""
    row = (await beside.scoring.rows())[customer]
    decision: Decision = msgspec.structs.replace(row.decision, **changes)
    data = msgspec.msgpack.Encoder(order="deterministic").encode(decision)
    await beside.spoil("UPDATE decision SET decision = $2 WHERE customer = $1", customer, data)


async def test_what_was_said_equals_live_under_traffic(beside: Beside) -> None:
    """Nobody differs while live goes on, and making it live changes nothing and says nothing."""
    beside.process()
    await beside.begin()
    await live_on(beside, 1, 25)
    found = await beside.compared()
    assert (found.differing, found.customers) == (0, 6)
    assert found.digest_live == found.digest_made
    await live_on(beside, 26, 10)
    before, sent = await beside.tables(), await beside.scoring.sent()
    await beside.ask("switch")
    await beside.phase("switched")
    assert (await beside.tables(), await beside.scoring.sent()) == (before, sent)
    await beside.ask("drop")
    await beside.gone()


async def spoil_everything(beside: Beside) -> dict[bytes, str]:
    """Damage live in every way; returns in what each customer is to differ."""
    await spoil_decision(beside, ANA, stage="gone", sequence=1)
    await beside.spoil("UPDATE alert SET state = 'judged', revision = 9 WHERE customer = $1", CLIO)
    await beside.spoil("DELETE FROM decision WHERE customer = $1", BEN)
    await beside.spoil("UPDATE decision SET decision = $2 WHERE customer = $1", EVE, b"\xc1")
    await beside.spoil("UPDATE decision SET due_at = 5, held = 0 WHERE customer = $1", FAY)
    return {ANA: "sequence stage", CLIO: "alert_rows", BEN: "row", EVE: "unreadable", FAY: "due_at"}


async def test_what_was_damaged_is_named_put_right_and_not_said_again(beside: Beside) -> None:
    was = await beside.scoring.rows()
    alerts = await beside.scoring.alerts()
    expected = await spoil_everything(beside)
    damaged = await beside.tables()
    beside.process()
    await beside.begin("switch")
    found = await beside.compared()
    assert found.differing == len(expected)
    assert found.digest_live != found.digest_made
    assert await beside.differing() == expected
    row = await beside.until(lambda one: one is not None and bool(one.why))
    assert row is not None
    assert "differs" in row.why
    assert await beside.tables() == damaged
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    now = await beside.scoring.rows()
    assert {who: now[who] for who in (ANA, CLIO, DAN, FAY)} == {who: was[who] for who in (ANA, CLIO, DAN, FAY)}
    assert now[EVE].decision == msgspec.structs.replace(was[EVE].decision, version=1)
    assert (now[BEN].decision.stage, now[BEN].decision.alerts) == (was[BEN].decision.stage, was[BEN].decision.alerts)
    assert await beside.scoring.alerts() == alerts

    before = await beside.scoring.told()
    await beside.scoring.tell(changed(BEN, 1, 1, bought(BEN, 1), new=0))  # told again by a republish
    await beside.scoring.reach(s(75))
    assert await beside.scoring.told() == before
    for one in (await beside.scoring.rows()).values():
        assert one.due_at == beside.scoring.due_of(one)


async def test_a_switch_is_rolled_back_except_for_whom_live_decided_since(beside: Beside) -> None:
    await spoil_everything(beside)
    decisions, alerts = await beside.tables()
    beside.process()
    await beside.begin()
    await beside.compared()
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    await beside.scoring.tell(changed(ANA, 3, 90, complained(ANA, 90)))
    decided = (await beside.scoring.rows())[ANA]
    await beside.ask("rollback")
    await beside.gone()
    mine, theirs = await beside.tables()
    assert [row for row in mine if row[0] != ANA] == [row for row in decisions if row[0] != ANA]
    assert (await raw_row(beside, ANA))[3] == decided.version
    assert [row for row in theirs if row[2] == CLIO] == [row for row in alerts if row[2] == CLIO]


async def test_live_decides_on_while_others_are_put_right(beside: Beside) -> None:
    """Also about one who is put right at that moment: what is said of them follows from what was put right."""
    was = await beside.scoring.rows()
    await spoil_decision(beside, CLIO, stage="gone", alerts=())
    await spoil_decision(beside, BEN, sequence=0, settled=s(2))
    beside.process()
    await beside.begin()
    await beside.compared()
    assert set(await beside.differing()) == {CLIO, BEN}
    await beside.ask("switch_anyway")
    await live_on(beside, 1, 20)
    await beside.phase("switched")
    await live_on(beside, 21, 10)
    await beside.ask("drop")
    await beside.gone()
    await beside.begin()
    assert (await beside.compared()).differing == 0
    said = set(was[CLIO].decision.alerts)
    new = set((await beside.scoring.rows())[CLIO].decision.alerts) - said
    assert [(one.policy, one.crossed_at) for one in new] == [("silence", s(100))]
    assert said <= set((await beside.scoring.rows())[CLIO].decision.alerts)


async def raw_row(beside: Beside, customer: bytes) -> tuple[Any, ...]:
    """A row of decision."""
    async with beside.database.snapshot() as connection:
        row = await comparing.columns(connection, customer)
    assert row is not None
    return row


async def test_a_killed_process_is_followed_by_another(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it reads, while it compares, and within the switch."""
    expected = await spoil_everything(beside)
    damaged = await beside.tables()
    await beside.begin()
    for name in ("sides", "customers_after"):
        dead = asyncio.Event()

        async def dies(*args: object, _dead: asyncio.Event = dead) -> None:
            _dead.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(comparing, name, dies)
            task = beside.process(0.0)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await dead.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    task = beside.process(0.0)
    await beside.compared()
    assert await beside.differing() == expected
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    written, written_by = 0, comparing.write

    async def writes_two(*args: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise asyncio.CancelledError
        await written_by(*args)

    with monkeypatch.context() as patch:
        patch.setattr(comparing, "write", writes_two)
        killed = beside.process(0.0)
        await beside.ask("switch_anyway")
        await asyncio.gather(killed, return_exceptions=True)
    assert await beside.tables() == damaged
    beside.process(0.0)
    await beside.phase("switched")
    assert set(await beside.differing()) == set(expected)
    assert await beside.tables() != damaged


async def test_abandoned_it_leaves_nothing_behind(beside: Beside) -> None:
    before = await beside.tables()
    beside.process()
    await beside.begin()
    with pytest.raises(Conflict):
        await beside.begin()
    await beside.compared()
    await beside.ask("drop")
    await beside.gone()
    assert await beside.tables() == before


async def test_who_is_erased_is_not_kept_for_a_way_back(beside: Beside) -> None:
    await spoil_decision(beside, CLIO, stage="gone")
    beside.process()
    await beside.begin()
    await beside.compared()
    await beside.ask("switch_anyway")
    await beside.phase("switched")
    assert set(await beside.differing()) == {CLIO}
    await beside.scoring.tell(erased(CLIO, 3, 80))
    assert not await beside.differing()
    await beside.ask("rollback")
    await beside.gone()
    assert not (await beside.scoring.rows())[CLIO].state
    assert [row.body for row in (await beside.scoring.alerts()).values() if row.customer == CLIO] == [b""]
