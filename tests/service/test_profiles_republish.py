"""Republish through the service: asked for by REST and by the command line, seen, and told on the log."""

import asyncio
from pathlib import Path

from rich.console import Console

from services.cli import republish as command
from services.cli.house import House as Known
from services.local_access import LocalAccess
from shared.codec import decode
from shared.events import ProfileChanged, RepublishPassed
from shared.topics import PROFILE_CHANGES
from tests.service.profiles_house import DEADLINE_SECONDS, MAIN, PARTITIONS, House, house, page_view


async def facts_of(home: House) -> list[object]:
    """Everything on profile-changes."""
    batches = [await home.log.read(PROFILE_CHANGES, partition, 0) for partition in range(PARTITIONS)]
    return [decode(record.value) for batch in batches for record in batch.records]


async def test_asked_for_and_seen_through(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        for name in ("1", "2", "3"):
            await home.track(home.person(user=name), page_view(name=name))
        await home.settle()
        assert (await home.get("/v1/republish")).status_code == 404
        assert (await home.post("/v1/republish", None, "reader")).status_code == 403

        asked = (await home.post("/v1/republish", None)).json()
        assert asked["phase"] in ("waiting", "running", "finished")  # the task may be quicker than the answer
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (shown := (await home.shown("/v1/republish"))) and shown["phase"] != "finished":
                await asyncio.sleep(0.02)
        assert (shown["id"], shown["customers"], shown["share"]) == (asked["id"], 3, 1.0)
        assert await home.shown(f"/v1/republish/{asked['id']}", "reader") == shown
        await home.settle()

        facts = await facts_of(home)
        assert sorted(fact.version for fact in facts if isinstance(fact, ProfileChanged)) == [1] * 6
        passed = [fact for fact in facts if isinstance(fact, RepublishPassed)]
        assert [fact.id for fact in passed] == [asked["id"]] * PARTITIONS


async def test_the_command_line_shows_it_to_its_end(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await home.track(home.person(user="1"), page_view())
        await home.settle()
        known = Known(
            LocalAccess(workspace=MAIN, secret_key=home.keys[MAIN], profiles_url=str(home.client.base_url)), tmp_path
        )
        out, err = Console(record=True, width=200), Console(record=True, quiet=True)
        await asyncio.to_thread(command.run, known, out, err, False, True)
        assert "1 customers were told again" in out.export_text()
