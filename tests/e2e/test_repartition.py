"""Another number of partitions on a real house: the same profiles, nothing alerted twice, and it goes on from there."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.profiles import tables as profiles_tables
from services.repartition.state import BEGUN_ANEW, FOLDED
from services.scoring import tables as scoring_tables
from tests.e2e.evidence import DECISIONS, events, eventually, pages, rows
from tests.e2e.rules import rules
from tests.e2e.test_restore import PEOPLE, command, digest_of, logged, post, quiet, refolded
from tests.support.house import Ground, House, closing

SILENT = PEOPLE - 1
"""Two of them turn out to be one."""


async def alerts(house: House) -> dict[str, tuple[int, str]]:
    """Every alert of REST: id → revision and state."""
    listed = await pages(house, "scoring", "/v1/alerts")
    return {one["alert_id"]: (one["revision"], one["state"]) for one in listed}


async def told(house: House) -> dict[str, list[bytes]]:
    """Every decision on the log, by customer, in order."""
    found: dict[str, list[bytes]] = {}
    for topic in DECISIONS:
        for event in await events(house.ground, topic):
            found.setdefault(f"{topic} {event.body['subject']}", []).append(event.value)
    return found


async def versions(house: House) -> Mapping[bytes, int]:
    return {row.leaf: row.version for row in await rows(house, "profiles", "SELECT leaf, version FROM leaf")}


async def personal(house: House) -> list[tuple[Any, ...]]:
    found = await rows(house, "profiles", "SELECT leaf, field, value FROM personal ORDER BY leaf, field")
    return [tuple(row) for row in found]


async def everybody_silent(house: House) -> None:
    """Wait until nothing is open but silences that were told, so that time changes nothing while we compare."""

    async def all_told() -> bool:
        due = await rows(house, "scoring", "SELECT count(*) AS n FROM decision WHERE due_at IS NOT NULL")
        listed = await pages(house, "scoring", "/v1/alerts", policy="silence", state="open")
        return due[0].n >= len(listed) >= SILENT

    await eventually(all_told, 60, "everybody is silent")
    await quiet(house)


async def test_a_house_goes_on_with_another_number_of_partitions(tmp_path: Path) -> None:
    old, new = 4, 7
    house = House(Ground(tmp_path / "old", partitions=old), rules("2s"))
    house.ground.folder.mkdir()
    await house.prepare()
    with closing(house):
        house.start()
        async with house.client("ingest", seconds=30.0) as client:
            for _ in range(4):
                await post(house, client)
            named = {"kind": "page_viewed", "user_id": "r-1", "email": "sara@shop.example", "traits": {"name": "Sara"}}
            (await client.post("/v1/touchpoints", json=[named])).raise_for_status()
        async with house.client("profiles") as client:
            body = {"a": "user:r-2", "b": "user:r-3", "reason": "told by phone"}
            (await client.post("/v1/customers/link", json=body)).raise_for_status()
        await everybody_silent(house)
        before = await alerts(house)
    state, said, known, kept = await digest_of(house), await told(house), await versions(house), await personal(house)

    done = await asyncio.to_thread(
        command, house.ground, "repartition", "--to", str(new), str(tmp_path / "new"), "--json"
    )
    assert done["digest"] == state
    fresh = House(replace(house.ground, folder=tmp_path / "new", partitions=new), rules("2s"))
    assert await digest_of(fresh) == state == await refolded(fresh)
    assert await told(fresh) == said
    assert await logged(fresh) == await logged(house)
    assert await personal(fresh) == kept
    assert kept
    assert all(version >= known[leaf] for leaf, version in (await versions(fresh)).items())
    with closing(fresh):
        fresh.start()
        await quiet(fresh)
        assert await told(fresh) == said, "something was decided twice"
        assert await alerts(fresh) == before
        async with fresh.client("ingest", seconds=30.0) as client:
            await post(fresh, client)
        await quiet(fresh)

        async def recovered() -> bool:
            now = await alerts(fresh)
            return sum(now[one][1] == "recovered" for one in before if before[one][1] == "open") >= SILENT

        await eventually(recovered, 30, "who bought again has recovered")
        await quiet(fresh)
    assert await digest_of(fresh) == await refolded(fresh)


def test_every_table_that_speaks_of_partitions_is_thought_of() -> None:
    """A new table is copied as it is, unless it speaks of partitions or positions of the old log."""
    speaking = {
        table.name
        for metadata in (profiles_tables.metadata, scoring_tables.metadata)
        for table in metadata.sorted_tables
        if {"partition", "position"} & {column.name for column in table.columns}
    }
    assert speaking - {"decision"} <= FOLDED | BEGUN_ANEW
