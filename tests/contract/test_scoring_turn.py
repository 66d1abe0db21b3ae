"""The turn of a partition at the very instant a definition takes effect."""

import asyncio
from datetime import UTC
from pathlib import Path

from migrations import migrate
from services.scoring.decide import ChangesProjection
from services.scoring.domain.definitions import in_force
from services.scoring.domain.step import Rules
from services.scoring.domain.watermark import Heard
from services.scoring.ports import FIRST_ARMED
from services.scoring.store import SqlStore
from shared.clock import FrozenClock
from shared.codec import encode
from shared.database import open_database
from shared.events import Statement, WatermarkStated
from shared.ids import partition_of
from shared.log.port import Batch, Record
from shared.topics import PROFILE_CHANGES
from tests.service.scoring_house import NOW_MS, Customer
from tests.unit.scoring_cases import a_definition

EFFECTIVE_AT = NOW_MS + 60_000


async def test_nobody_is_armed_anew_before_the_version_decides(tmp_path: Path) -> None:
    versions = [a_definition(1), a_definition(2, EFFECTIVE_AT)]
    database = open_database("", tmp_path, "scoring")
    await migrate(database, "scoring")
    clock, heard = FrozenClock(NOW_MS), Heard(1)
    step = ChangesProjection(
        SqlStore(database, 1),
        clock,
        1,
        lambda workspace: Rules(versions, UTC),
        lambda: 0.0,
        heard,
        in_force=lambda at: {"shop": in_force(versions, at).version},
    )
    try:
        claim = await step.store.acquire(PROFILE_CHANGES, 0, "log")
        sara = Customer("sara")
        assert partition_of(sara.id, 1) == 0
        change = encode(sara.change(sara.bought(NOW_MS), at=NOW_MS))
        claim = await step.fold(claim, Batch((Record(claim.position, NOW_MS, change, sara.id),), claim.position + 1))
        for watermark, armed in ((EFFECTIVE_AT, 1), (EFFECTIVE_AT + 1, 2)):
            clock.advance(30_000)
            heard.hear(WatermarkStated((Statement(0, claim.position),), (watermark,)))
            async with asyncio.timeout(10):
                claim = await step.turn(claim)
            assert await step.store.armed_before(0, "shop", armed, FIRST_ARMED, 10) == []
            assert await step.store.armed_before(0, "shop", armed + 1, FIRST_ARMED, 10) == [(armed, sara.id)]
    finally:
        await database.close()
