"""Alerts follow their customers through joins, splits and shared orders, on both databases, however read."""

import asyncio
import random
from datetime import UTC
from pathlib import Path

import pytest

from services.scoring.decide import ChangesProjection
from services.scoring.domain.step import Rules
from services.scoring.domain.watermark import Heard
from services.scoring.store import SqlStore
from shared.clock import FrozenClock
from shared.codec import encode
from shared.events import Fact, Statement, WatermarkStated
from shared.ids import partition_of
from shared.log.port import Batch, Record
from shared.topics import PROFILE_CHANGES
from tests.support.decisions import Scoring, a_definition, absorbed, bought, changed, complained, erased, leaf_on, s
from tests.support.steps import PARTITIONS, START_MS, fresh_database

ANA, BEN, CLIO = leaf_on(0, "ana"), leaf_on(1, "ben", rank=1), leaf_on(2, "clio", rank=4)
ONE, TWO = bought(ANA, 0), bought(BEN, 20)
ONE_KEY, TWO_KEY = (f"order:{one.properties['order_id']}" for one in (ONE, TWO))


async def opened(scoring: Scoring) -> list[tuple[bytes, str]]:
    """(customer, opening key) of every open alert."""
    rows = await scoring.rows()
    return sorted(
        (customer, alert.key)
        for customer, row in rows.items()
        for alert in row.decision.alerts
        if alert.state == "open"
    )


# --- joins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absorbed_first", [True, False])
async def test_joined_customers_keep_one_open_alert_for_one_silence(scoring: Scoring, absorbed_first: bool) -> None:
    """Both had crossed; the root lies on another partition; whichever side is read first."""
    await scoring.tell(changed(ANA, 1, 0, ONE), changed(BEN, 1, 20, TWO))
    await scoring.reach(s(90))
    assert len(await opened(scoring)) == 2
    join = [absorbed(BEN, ANA, 2, 91), changed(ANA, 2, 91, ONE, TWO, new=0, leaves={ANA: 0, BEN: 1})]
    await scoring.tell(*(join if absorbed_first else reversed(join)))
    assert await opened(scoring) == [(ANA, TWO_KEY)]
    await scoring.reach(s(900))
    assert {row.state for row in (await scoring.alerts()).values()} == {"open", "retracted"}
    assert (await scoring.rows())[BEN].absorbed_into == ANA


async def test_the_root_is_made_when_it_was_never_heard_of(scoring: Scoring) -> None:
    await scoring.tell(changed(BEN, 1, 20, TWO, complained(BEN, 21), new=2))
    await scoring.reach(s(90))
    await scoring.tell(absorbed(BEN, ANA, 2, 91))
    row = (await scoring.rows())[ANA]
    assert (row.partition, row.version, row.due_at) == (0, 0, None)
    assert {alert.policy for alert in row.decision.alerts} == {"silence", "bad_experience"}
    await scoring.reach(s(95))
    both = (TWO, complained(BEN, 21))
    await scoring.tell(changed(ANA, 1, 91, *both, new=0, leaves={ANA: 0, BEN: 1}))
    await scoring.reach(s(100))
    assert len(await opened(scoring)) == 2
    assert {row.customer for row in (await scoring.alerts()).values()} == {ANA}


async def test_an_absorbed_customer_is_advanced_to_its_own_end_first(scoring: Scoring) -> None:
    """Nothing had fired yet: what time brought before the join is told under the old name, then the alert moves."""
    await scoring.tell(changed(BEN, 1, 20, TWO))
    scoring.hear(s(100))
    await scoring.tell(absorbed(BEN, ANA, 2, 91))
    assert "alert.raised r1 @80" in await scoring.told(BEN)
    assert {row.customer for row in (await scoring.alerts()).values()} == {ANA}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_chain_of_absorptions_ends_at_its_root(scoring: Scoring, order: tuple[int, int]) -> None:
    """Clio into Ben, Ben into Ana; read in either order, the alert arrives."""
    three = bought(CLIO, 40)
    await scoring.tell(changed(CLIO, 1, 40, three))
    await scoring.reach(s(101))
    chain = [absorbed(CLIO, BEN, 2, 102), absorbed(BEN, ANA, 3, 103)]
    await scoring.tell(*(chain[n] for n in order))
    assert {row.customer for row in (await scoring.alerts()).values()} == {ANA}
    await scoring.tell(changed(ANA, 4, 103, three, new=0, leaves={ANA: 0, BEN: 1, CLIO: 2}))
    await scoring.reach(s(500))
    assert len(await opened(scoring)) == 1
    assert len(await scoring.told(of="alert.raised")) == 1


async def test_a_silence_that_crossed_before_a_join_is_told_before_it(scoring: Scoring) -> None:
    """The joined customer's own crossing lies before the join: another's open alert does not swallow it."""
    await scoring.tell(changed(ANA, 1, 20, bought(ANA, 20)), changed(BEN, 1, 0, bought(BEN, 0)))
    await scoring.reach(s(70))
    scoring.hear(s(200))
    both = (bought(BEN, 0), bought(ANA, 20))
    await scoring.tell(changed(ANA, 2, 90, *both, new=0, leaves={ANA: 0, BEN: 1}))
    assert "alert.raised r1 @80" in await scoring.told(ANA)
    assert len(await opened(scoring)) == 1


# --- one order, two customers -----------------------------------------------------------------------------------------


async def test_an_order_that_two_customers_know_is_one_alert(scoring: Scoring) -> None:
    """Who raises it last holds it; the other falls silent about it, for good."""
    mine, yours = bought(ANA, 0, "1001"), bought(BEN, 5, "1001")
    await scoring.tell(changed(ANA, 1, 0, mine), changed(BEN, 1, 5, yours))
    await scoring.reach(s(61))
    assert {row.customer for row in (await scoring.alerts()).values()} == {ANA}
    await scoring.reach(s(66))
    assert [(row.customer, row.revision) for row in (await scoring.alerts()).values()] == [(BEN, 2)]
    assert scoring.projection.tally.counts.taken_over == 1
    await scoring.reach(s(5_000))
    assert (await scoring.told(of="alert")) == ["alert.raised r1 @60", "alert.raised r2 @65", "alert.expired r3 @1065"]
    assert scoring.projection.tally.counts.suppressed == 1


async def test_the_same_order_crossing_in_one_batch(scoring: Scoring) -> None:
    one, other = leaf_on(0, "one"), leaf_on(0, "other")
    mine, yours = bought(one, 0, "1001"), bought(other, 5, "1001")
    await scoring.tell(changed(one, 1, 0, mine), changed(other, 1, 5, yours))
    await scoring.reach(s(900))
    assert await scoring.told(of="alert") == ["alert.raised r1 @60", "alert.raised r2 @65"]
    [alert] = (await scoring.alerts()).values()
    assert alert.customer == other


# --- splits -----------------------------------------------------------------------------------------------------------

JOINED = {ANA: 0, BEN: 1}
"""How often the leaves had moved when Ben had joined Ana."""


async def joined(scoring: Scoring) -> None:
    """Ana and Ben, one customer from the start; the alert opened with Ben's purchase at 20 is open since 80."""
    await scoring.tell(absorbed(BEN, ANA, 1, 1), changed(ANA, 1, 20, ONE, TWO, new=2, leaves=JOINED))
    await scoring.reach(s(90))
    assert await opened(scoring) == [(ANA, TWO_KEY)]


SPLIT = [changed(ANA, 2, 91, ONE, new=0, leaves={ANA: 0}), changed(BEN, 2, 91, TWO, new=0, leaves={BEN: 2})]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_split_moves_the_alert_with_its_opening_leaf(scoring: Scoring, order: tuple[int, int]) -> None:
    """Whichever side is read first, Ben has his alert, and Ana gets one for a silence of her own."""
    await joined(scoring)
    await scoring.tell(*(SPLIT[n] for n in order))
    await scoring.reach(s(95))
    assert await opened(scoring) == [(ANA, ONE_KEY), (BEN, TWO_KEY)]
    await scoring.reach(s(500))
    assert await opened(scoring) == [(ANA, ONE_KEY), (BEN, TWO_KEY)]
    rows = {row.id: row for row in (await scoring.alerts()).values()}
    assert {(row.customer, row.leaf, row.moves) for row in rows.values()} == {(ANA, ANA, 0), (BEN, BEN, 2)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_split_from_one_who_bought_nothing_else(scoring: Scoring, order: tuple[int, int]) -> None:
    await scoring.tell(absorbed(BEN, ANA, 1, 1), changed(ANA, 1, 20, TWO, leaves=JOINED))
    await scoring.reach(s(90))
    left = [changed(ANA, 2, 91, new=0, leaves={ANA: 0}), SPLIT[1]]
    await scoring.tell(*(left[n] for n in order))
    await scoring.reach(s(95))
    assert await opened(scoring) == [(BEN, TWO_KEY)]
    assert len(await scoring.alerts()) == 1


async def test_an_older_join_read_late_takes_nothing_back(scoring: Scoring) -> None:
    """Ana's partition lags: Ben was with her and left again, and crossed alone, before her changes are read."""
    await scoring.tell(changed(BEN, 1, 20, TWO), absorbed(BEN, ANA, 2, 30))
    await scoring.tell(changed(BEN, 3, 40, TWO, new=0, leaves={BEN: 2}))
    await scoring.reach(s(100), 1)
    assert await opened(scoring) == [(BEN, TWO_KEY)]
    await scoring.tell(changed(ANA, 1, 30, TWO, new=0, leaves=JOINED), changed(ANA, 2, 40, new=0, leaves={ANA: 0}))
    await scoring.reach(s(100))
    assert await opened(scoring) == [(BEN, TWO_KEY)]
    assert await scoring.told(BEN, of="alert") == ["alert.raised r1 @80"]


async def test_an_alert_raised_in_the_batch_that_moves_it(scoring: Scoring) -> None:
    """The complaint and the split of its customer in one batch: the alert is no row yet when the split is read."""
    neighbour = leaf_on(0, "neighbour", rank=1)
    upset = complained(neighbour, 5)
    await scoring.tell(
        absorbed(neighbour, ANA, 1, 1),
        changed(ANA, 1, 5, upset, leaves={ANA: 0, neighbour: 1}),
        changed(neighbour, 2, 6, upset, new=0, leaves={neighbour: 2}),
        changed(ANA, 2, 6, new=0, leaves={ANA: 0}),
    )
    assert [row.customer for row in (await scoring.alerts()).values()] == [neighbour]
    assert [customer for customer, _ in await opened(scoring)] == [neighbour]


async def test_erasing_after_a_join_takes_the_alerts_of_both(scoring: Scoring) -> None:
    await joined(scoring)
    await scoring.tell(erased(BEN, 2, 91), erased(ANA, 2, 91))
    assert await opened(scoring) == []
    assert {row.state for row in (await scoring.alerts()).values()} == {"retracted"}
    await scoring.reach(s(900))
    assert {row.due_at for row in (await scoring.rows()).values()} == {None}


# --- two workers ------------------------------------------------------------------------------------------------------


def _couples(pairs: int, seed: int) -> tuple[list[list[Fact]], set[bytes], int]:
    """Couples that join over partitions 0 and 1 in both directions; per partition what is read, and the roots."""
    chance = random.Random(seed)
    feeds: list[list[Fact]] = [[], []]
    roots: set[bytes] = set()
    for n in range(pairs):
        side = n % 2
        root, gone = leaf_on(side, f"root{n}-", rank=0), leaf_on(1 - side, f"gone{n}-", rank=1)
        shared_order = bought(gone, 10, f"order-{n}")
        mine = bought(root, 5, f"order-{n}" if chance.random() < 0.5 else "")
        feeds[side] += [
            changed(root, 1, 5, mine, complained(root, 6), new=2),
            changed(root, 2, 100, mine, complained(root, 6), shared_order, new=0, leaves={root: 0, gone: 1}),
        ]
        feeds[1 - side] += [changed(gone, 1, 10, shared_order), absorbed(gone, root, 2, 100)]
        roots.add(root)
    return feeds, roots, pairs


@pytest.mark.parametrize("seed", range(4))
async def test_two_workers_join_both_ways_at_once(postgres_url: str, tmp_path: Path, seed: int) -> None:
    """No deadlock, no lost alert: both partitions fold and fire at the same time, locks crossing."""
    feeds, roots, pairs = _couples(40, seed)
    async with fresh_database(postgres_url, tmp_path, "scoring") as database:

        async def work(partition: int) -> None:
            chance = random.Random(seed * 2 + partition)
            clock, definitions = FrozenClock(START_MS), [a_definition()]
            projection = ChangesProjection(
                SqlStore(database, PARTITIONS), clock, PARTITIONS, lambda _: Rules(definitions, UTC), lambda: 0.0,
                Heard(PARTITIONS),
            )  # fmt: skip
            claim = await projection.store.acquire(PROFILE_CHANGES, partition, "test")
            claim = await projection.turn(claim)
            waiting = list(feeds[partition])
            while waiting:
                size = chance.randint(1, 12)
                records = [Record(claim.position + n, START_MS, encode(f)) for n, f in enumerate(waiting[:size])]
                claim = await projection.fold(claim, Batch(tuple(records), claim.position + len(records)))
                del waiting[:size]
                told = (Statement(partition, claim.position),)
                projection.heard.hear(WatermarkStated(told, (s(95),) * PARTITIONS))
                clock.advance(2_000)
                claim = await projection.turn(claim)

        async with asyncio.timeout(30):
            await asyncio.gather(work(0), work(1))
        scoring = Scoring(database)
        for partition in (0, 1):
            await scoring.acquire(partition)
        await scoring.reach(s(300))
        await scoring.check()
        alerts = list((await scoring.alerts()).values())
        assert {row.customer for row in alerts if row.state == "open"} == roots
        held = [row.customer for row in alerts if row.state == "open" and row.policy == "silence"]
        assert sorted(held) == sorted(roots), "each joined customer has exactly one silence alert"
        assert sum(row.policy == "bad_experience" for row in alerts) == pairs
        assert {partition_of(root, PARTITIONS) for root in roots} == {0, 1}
