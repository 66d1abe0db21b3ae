"""Rebuild and verify by REST and from the command line: scopes, phases, what drifted, what is lost, the self-audit."""

import asyncio
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from rich.console import Console

from services.cli import rebuild as rebuild_cli
from services.cli import verify as verify_cli
from services.cli.errors import CommandError, Refused, WrongUse
from services.cli.house import House as CliHouse
from services.local_access import LocalAccess
from services.profiles.auditing import Auditor
from services.profiles.verifying import Verifier
from shared import profile as profiles
from shared.database import execute
from shared.events import LeafErased, LeafReinstated
from shared.ids import partition_of
from tests.builders import NOON_MS, a_touchpoint
from tests.service.profiles_house import MAIN, PARTITIONS, RIVAL, House, house, page_view


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


def cli(home: House, key: str = MAIN) -> CliHouse:
    """The house as the command line knows it."""
    access = LocalAccess(workspace=MAIN, secret_key=home.keys[key], profiles_url=str(home.client.base_url))
    return CliHouse(access, Path("unused"))


async def rebuilt(home: House, asked: str = "", accept: bool = False, as_json: bool = False) -> str:
    """What `raftar rebuild profiles` prints."""
    out = Console(file=StringIO(), width=200)
    quiet = Console(file=StringIO())
    await asyncio.to_thread(rebuild_cli.run, cli(home).profiles(), asked, accept, out, quiet, True, as_json, _brief)
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


def _brief(_seconds: float) -> None:
    """The command line looks again at once."""


async def some_customers(home: House, workspace: str = MAIN, count: int = 8) -> list[str]:
    """Customers with purchases and page views, one of two identifiers; their ids."""
    people = [home.person(workspace, user=f"u{n}", anonymous=f"c{n}") for n in range(count)]
    for n, person in enumerate(people):
        buy = a_touchpoint("purchased", at=NOON_MS + n, id=f"b{n}", order_id=f"o{n}", amount=5, currency="EUR")
        await home.track(person, page_view(NOON_MS + n), buy, workspace=workspace)
    await home.settle()
    return [person.id for person in people]


async def write(home: House, statement: str, *values: Any) -> None:
    """Change rows behind everybody's back."""
    async with home.database.transaction() as connection:
        assert await execute(connection, statement, *values)


async def plant(home: House, customer: str) -> None:
    """Make the stored customer poorer by its purchase: its own state and the merged one."""
    leaf = bytes.fromhex(customer)
    row = (await home.rows("SELECT state, merged FROM leaf WHERE leaf = $1", leaf))[0]
    for column, state in (("state", row.state), ("merged", row.merged)):
        if state:
            poorer = profiles.narrowed(state, "behaviour")
            await write(home, f"UPDATE leaf SET {column} = $1 WHERE leaf = $2", poorer, leaf)


async def test_a_rebuild_from_the_command_line(home: House) -> None:
    """Begun, watched until it is ready, switched to, rolled back, dropped; each step says the next."""
    await some_customers(home)
    assert (await home.get("/v1/rebuild", "reader")).status_code == 403
    assert (await home.post("/v1/rebuild", {}, "reader")).status_code == 403
    assert (await home.shown("/v1/rebuild"))["phase"] == "none"
    said = await rebuilt(home)
    assert "rebuild: ready, 100.0 %" in said
    assert "Nothing differs" in said
    shown = await home.shown("/v1/rebuild")
    assert (shown["equal"], shown["wanted"], shown["digest_live"]) == (True, "", shown["digest_made"])
    assert all(one["position"] == one["live_position"] for one in shown["partitions"])
    assert (await home.post("/v1/rebuild", {})).status_code == 409
    assert (await home.post("/v1/rebuild/rollback", None)).status_code == 409
    with pytest.raises(WrongUse, match="nothing was switched"):
        await rebuilt(home, "--drop-previous")
    assert "rebuild: switched" in await rebuilt(home, "--switch")
    with pytest.raises(WrongUse, match="still kept"):
        await rebuilt(home)
    with pytest.raises(WrongUse, match="live already"):
        await rebuilt(home, "--abandon")
    assert "rollback: switched" in await rebuilt(home, "--rollback")
    assert '"phase":"none"' in await rebuilt(home, "--drop-previous", as_json=True)
    with pytest.raises(Refused, match="no rebuild"):
        await rebuilt(home, "--abandon")
    await home.track(home.person(user="new"), page_view())
    await home.settle()
    assert len((await home.shown("/v1/customers"))["items"]) == 9


async def test_what_differs_is_shown_of_ones_own_workspace_alone(home: House) -> None:
    """Customer and features to the workspace they belong to; the others see that the house does not equal."""
    ids = await some_customers(home)
    await some_customers(home, RIVAL, 2)
    await plant(home, ids[3])
    said = await rebuilt(home)
    assert "1 customers of this workspace differ" in said
    assert ids[3] in said
    theirs = await home.shown("/v1/rebuild", RIVAL)
    assert (theirs["equal"], theirs["differing"]["customers"], theirs["differing"]["examples"]) == (False, 0, [])
    assert (await home.post("/v1/rebuild/switch", {})).status_code == 409
    assert "rebuild: switched" in await rebuilt(home, "--switch", accept=True)
    async with asyncio.timeout(20):
        while (await home.shown("/v1/rebuild"))["leaves_to_tell"]:
            await asyncio.sleep(0.05)
    assert (await verified(home, customer=ids[3]))["drifts"] == []
    assert '"phase":"none"' in await rebuilt(home, "--drop-previous", as_json=True)


async def test_the_house_is_run_by_its_first_workspace(home: House) -> None:
    """Administrators of another workspace see how it stands; what concerns everybody is not theirs to do."""
    orders = [("POST", "/v1/rebuild"), ("POST", "/v1/rebuild/switch"), ("POST", "/v1/rebuild/rollback"),
              ("DELETE", "/v1/rebuild"), ("POST", "/v1/republish")]  # fmt: skip
    for method, path in orders:
        answer = await home.client.request(method, path, headers={"authorization": f"Bearer {home.keys[RIVAL]}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope"), path
    assert (await home.shown("/v1/rebuild", RIVAL))["phase"] == "none"


async def verified(home: House, key: str = MAIN, **wanted: Any) -> Any:
    """The answer of a verification."""
    answer = await home.post("/v1/verify", wanted, key)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_planted_drift_is_named(home: House) -> None:
    """Customer, feature, what is stored and what the log says; the others are found in order."""
    ids = await some_customers(home)
    assert (await verified(home))["drifts"] == []
    await plant(home, ids[2])
    for wanted in ({"customer": ids[2]}, {"customer": "user:u2"}, {}):
        found = await verified(home, **wanted)
        assert found["drifted"] == 1
        orders = next(one for one in found["drifts"] if one["feature"] == "money")
        assert orders["customer_id"] == ids[2]
        assert (orders["stored"], orders["refolded"]) == ({}, {"EUR": 500})
    listing = "UPDATE customer SET spend_minor = 9999 WHERE customer = $1"
    await write(home, listing, bytes.fromhex(ids[4]))
    found = await verified(home, customer=ids[4])
    assert [(one["feature"], one["stored"], one["refolded"]) for one in found["drifts"]] == [
        ("listing.spend_minor", 9999, 500)
    ]
    assert (await home.post("/v1/verify", {"customer": ids[2]}, RIVAL)).status_code == 404
    assert (await home.post("/v1/verify", {"customer": ids[2]}, "reader")).status_code == 403
    assert (await home.post("/v1/verify", {"customer": "x"})).status_code == 400
    assert (await home.post("/v1/verify", {"customer": ids[2], "sample": 3})).status_code == 422


async def test_all_are_verified_in_pages_and_a_sample_by_chance(home: House) -> None:
    """Every customer once, however small the pages; the command line adds the pages up."""
    ids = await some_customers(home)
    seen, after = 0, None
    while True:
        page = await verified(home, limit=3, **({"after": after} if after else {}))
        seen, after = seen + page["customers"], page["next"]
        if after is None:
            break
    assert seen == len(ids)
    assert 1 <= (await verified(home, sample=5))["customers"] <= 5
    await plant(home, ids[0])
    quiet = Console(file=StringIO())
    found = await asyncio.to_thread(verify_cli.run, cli(home), None, None, quiet)
    assert (found["customers"], found["drifted"]) == (len(ids), 1)
    found = await asyncio.to_thread(verify_cli.run, cli(home), "user:u0", None, quiet)
    assert {one["customer_id"] for one in found["drifts"]} == {ids[0]}
    with pytest.raises(CommandError, match="no such customer"):
        await asyncio.to_thread(verify_cli.run, cli(home), "user:stranger-7", None, quiet)


async def test_what_the_log_holds_and_nobody_counted_is_found(home: House) -> None:
    """A proof that is gone is drift of its customer, and a touchpoint that is lost."""
    ids = await some_customers(home)
    leaf = bytes.fromhex(ids[5])
    await write(home, "DELETE FROM touchpoint WHERE leaf = $1 AND kind = 'purchased'", leaf)
    lost: list[Any] = []
    async with asyncio.timeout(20):
        while not lost:
            lost = (await verified(home, sample=1, log_records=1_000))["lost"]
    assert lost[0]["leaf"] == ids[5]
    assert lost[0]["partition"] == partition_of(leaf, PARTITIONS)
    features = {one["feature"] for one in (await verified(home, customer=ids[5]))["drifts"]}
    assert "money" in features
    while not (found := await verified(home, RIVAL, sample=1, log_records=1_000))["log_touchpoints"]:
        pass
    assert found["lost"] == []


async def test_erased_and_reinstated_identifiers_are_verified_too(home: House) -> None:
    """What was blanked counts no more; what came after counts."""
    ids = await some_customers(home, count=2)
    leaf = bytes.fromhex(ids[0])
    await home.append(leaf, LeafErased(MAIN, b"e" * 16, leaf, NOON_MS))
    await home.settle()
    assert (await verified(home))["drifts"] == []
    home.clock.advance(1_000)
    await home.append(leaf, LeafReinstated(MAIN, b"r" * 16, leaf, NOON_MS))
    home.clock.advance(1_000)
    await home.track(home.person(user="u0"), page_view(NOON_MS + 77))
    await home.settle()
    assert (await verified(home, customer=ids[0]))["touchpoints"] == 1
    assert (await verified(home))["drifts"] == []


async def test_the_audit_finds_drift_and_says_so(home: House) -> None:
    """It counts, raises an alarm without any value, and keeps the service ready."""
    ids = await some_customers(home, count=3)
    auditor = Auditor(Verifier(home.log, home.database), home.clock, 6.0)
    await auditor.once()
    assert (auditor.tally.audited, auditor.tally.drifted, auditor.tally.lost) == (1, 0, 0)
    await plant(home, ids[1])
    await write(home, "DELETE FROM touchpoint WHERE leaf = $1", bytes.fromhex(ids[2]))
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(20):
            while auditor.last_drift is None or auditor.tally.lost == 0:
                await auditor.once()
    check = auditor.check()
    assert check["ok"]
    assert check["last_drift"]["customer_id"] in {ids[1], ids[2]}
    said = [one for one in logs if one["log_level"] == "error"]
    assert any("stored otherwise" in one["event"] for one in said)
    assert any("nobody counted" in one["event"] for one in said)
    assert "500" not in str(said)
    body = (await home.client.get("/readyz")).json()
    assert body["checks"]["audit"]["ok"]
    assert body["checks"]["projection"] == {"ok": True, "fold_version": 1, "outdated": False, "rebuild": ""}
    metrics = (await home.client.get("/metrics")).text
    for name in ("audit_audited_total", "audit_drifted_total", "audit_lost_total", "projection_outdated"):
        assert f"raftar_profiles_{name}" in metrics
