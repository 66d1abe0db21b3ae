"""The past over REST, on both databases: a customer as of T and known at T, what was decided, why a number is so."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.profiles.showing import moment
from shared.events import ErasureRequested, IdentityUnlinked
from shared.moments import moment_text
from tests.builders import NOON_MS, a_touchpoint
from tests.service.profiles_house import DEADLINE_SECONDS, NOW_MS, RIVAL, House, Person, house, page_view

HOUR_MS = 3_600_000
ALERT = "ab" * 16


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


def bought(order: str, amount: float, at: int, **more: Any) -> Any:
    """A purchase in euros."""
    return a_touchpoint(
        "purchased", at=at, id=more.pop("id", f"buy {order}"), order_id=order, amount=amount, currency="EUR", **more
    )


async def later(home: House) -> int:
    """Everything so far is folded; the clock goes on by an hour. Returns the hour before, by which it was known."""
    await home.settle()
    known = home.clock.now_ms()
    home.clock.advance(HOUR_MS)
    return known


async def two_become_one(home: House) -> tuple[Person, Person, int]:
    """A cookie that looked and bought, then a user it turned out to be, who bought before. With the time between."""
    cookie, user = home.person(anonymous="cookie-1"), home.person(user="42", anonymous="cookie-1")
    await home.track(cookie, page_view(NOON_MS), bought("A-1", 10, NOON_MS + HOUR_MS))
    await home.stage(cookie, "new", 1, risk=0.25, at=NOON_MS + HOUR_MS, reasons={"orders": 1})
    await home.alert(cookie, ALERT, 1, "open", policy="silence", at=NOON_MS + HOUR_MS)
    between = await later(home)
    await home.track(user, bought("A-0", 5, NOON_MS - HOUR_MS))
    await home.stage(user, "active", 2, risk=0.125, at=NOON_MS + 2 * HOUR_MS, reasons={"orders": 2})
    await home.alert(user, ALERT, 2, "recovered", sequence=3, policy="silence", at=NOON_MS + 2 * HOUR_MS)
    await later(home)
    return cookie, user, between


async def test_known_at_shows_who_they_were_and_what_was_decided_then(home: House) -> None:
    """Before the link each is a customer of its own, with its own stage, risk and alert; afterwards they are one."""
    cookie, user, between = await two_become_one(home)
    now = await home.shown(f"/v1/customers/{cookie.id}")
    assert (now["customer_id"], now["stage"], now["alerts"], now["known_at"]) == (user.id, "active", [], None)
    assert now["profile"]["orders"]["count"] == 2

    then = await home.shown(f"/v1/customers/{cookie.id}", known_at=between)
    assert (then["customer_id"], then["resolved_from"], then["version"]) == (cookie.id, None, None)
    assert then["profile"]["orders"]["count"] == 1
    assert (then["stage"], then["risk"], then["reasons"]) == ("new", 0.25, {"orders": 1})
    assert [one["revision"] for one in then["alerts"]] == [1]
    assert [one["value"] for one in then["identifiers"]] == ["cookie-1"]
    assert (then["known_at"], then["as_of"]) == (moment_text(moment(between)), None)
    assert (await home.get(f"/v1/customers/{user.id}", known_at=between)).status_code == 404
    assert (await home.get(f"/v1/customers/{cookie.id}", known_at=between - HOUR_MS)).status_code == 404


async def test_as_of_cuts_what_happened_with_the_links_of_today(home: House) -> None:
    """The late purchase counts, since it happened before; what happened after the instant does not."""
    cookie, user, between = await two_become_one(home)
    then = await home.shown(f"/v1/customers/{cookie.id}", as_of=moment_text(moment(NOON_MS)))
    assert (then["customer_id"], then["resolved_from"]) == (user.id, cookie.id)
    assert then["profile"]["orders"]["count"] == 1
    assert then["profile"]["money"] == {"EUR": 500}
    assert then["last_at"] == moment_text(moment(NOON_MS))
    assert then["stage"] is None
    both = await home.shown(f"/v1/customers/{cookie.id}", as_of=NOON_MS, known_at=between)
    assert both["profile"]["orders"]["count"] == 0
    assert both["profile"]["counts"] == {"page_viewed": {"web": 1}}
    before = await home.shown(f"/v1/customers/{user.id}", as_of=NOON_MS - 9 * HOUR_MS)
    assert (before["first_at"], before["profile"]["counts"]) == (None, {})
    timeline = await home.shown(f"/v1/customers/{cookie.id}/timeline", as_of=NOON_MS)
    assert [one["kind"] for one in timeline["items"]] == ["page_viewed", "purchased"]
    known = await home.shown(f"/v1/customers/{cookie.id}/timeline", known_at=between)
    assert (known["customer_id"], [one["kind"] for one in known["items"]]) == (cookie.id, ["purchased", "page_viewed"])
    assert "belongs to this" not in then["identifiers"][1]["explanation"]
    assert user.id in then["identifiers"][1]["explanation"]
    by_name = await home.shown("/v1/customers", identifier="user:42", as_of=NOON_MS)
    assert by_name["profile"] == then["profile"]


async def test_what_was_decided_is_told_with_every_alert_known_then(home: House) -> None:
    """Alerts by their last word recorded by then, also of a leaf that was another customer when it was raised."""
    cookie, _, between = await two_become_one(home)
    then = await home.shown(f"/v1/customers/{cookie.id}/past", known_at=between)
    assert [(one["state"], one["revision"], one["customer_id"]) for one in then["alerts"]] == [("open", 1, cookie.id)]
    now = await home.shown(f"/v1/customers/{cookie.id}/past")
    assert [(one["state"], one["revision"]) for one in now["alerts"]] == [("recovered", 2)]
    assert now["alerts"][0]["event"]["data"]["policy"] == "silence"
    spoken = await home.shown(f"/v1/customers/{cookie.id}/past", as_of=NOON_MS + HOUR_MS)
    assert [(one["state"], one["revision"]) for one in spoken["alerts"]] == [("open", 1)]
    async with asyncio.timeout(DEADLINE_SECONDS):  # a frontier follows the clock when its partition was read to its end
        while not (await home.shown(f"/v1/customers/{cookie.id}/past", known_at=between))["complete"]:
            await asyncio.sleep(0.05)
    ahead = await home.shown(f"/v1/customers/{cookie.id}/past", known_at=NOW_MS + 99 * HOUR_MS)
    assert ahead["complete"] is False


async def test_a_split_is_undone_in_the_past(home: House) -> None:
    """Before the unlink both were one; its recorded time decides, not when it was said to have happened."""
    cookie, user, _ = await two_become_one(home)
    joined = home.clock.now_ms()
    home.clock.advance(HOUR_MS)
    unlink = IdentityUnlinked("main", b"u" * 16, user.leaves[0], cookie.leaves[0], True, NOON_MS)
    await home.append(user.leaves[0], unlink)  # a user sorts before a cookie
    await later(home)
    assert (await home.shown(f"/v1/customers/{cookie.id}"))["customer_id"] == cookie.id
    then = await home.shown(f"/v1/customers/{cookie.id}", known_at=joined)
    assert (then["customer_id"], then["profile"]["orders"]["count"]) == (user.id, 2)
    explanation = next(one for one in then["identifiers"] if one["kind"] == "anonymous")["explanation"]
    assert user.id in explanation


async def test_a_number_names_the_touchpoints_that_made_it(home: House) -> None:
    """Contributions over all pages add up; a copy is not listed; a cancelled order is one more and one less."""
    person = home.person(user="42")
    orders = [bought(f"o{n}", 10 + n, NOON_MS + n) for n in range(5)]
    copy = bought("o1", 11, NOON_MS + 9, id="copy")
    back = a_touchpoint("refunded", at=NOON_MS + 20, id="back", order_id="o2", refund_id="r1")
    pages = [page_view(NOON_MS + 30 + n) for n in range(7)]
    texts = {"text": {"reason": "too small"}}
    await home.track(person, *orders, copy, *pages)
    await home.track(person, back, personal=texts)
    await home.settle()
    path = f"/v1/customers/{person.id}/facts"
    shown = (await home.shown(path))["features"]
    assert (shown["orders.count"], shown["money.EUR"], shown["counts.page_viewed.web"]) == (4, 4800, 7)
    for name in ("orders.count", "money.EUR", "counts.page_viewed.web", "active_days_30"):
        for size in (1, 3, 50):
            items, after = [], None
            while True:
                page = await home.shown(f"{path}/{name}", limit=size, **({"next": after} if after else {}))
                items += page["items"]
                after = page["next"]
                if after is None:
                    break
            assert sum(one["contribution"] for one in items) == shown[name] == items[-1]["value"], (name, size)
            assert len({one["touchpoint"]["id"] for one in items}) == len(items)
    listed = (await home.shown(f"{path}/orders.count"))["items"]
    assert [one["contribution"] for one in listed] == [1, 1, 1, 1, 1, -1]
    assert listed[-1]["touchpoint"]["text"] == {"reason": "too small"}
    last = await home.shown(f"{path}/orders.last_at")
    assert (last["value"], last["adds_up"]) == (moment_text(moment(NOON_MS + 4)), False)
    assert [one["value"] for one in last["items"]] == [last["value"]]
    first = await home.shown(f"{path}/first_at")
    assert [one["touchpoint"]["occurred_at"] for one in first["items"]] == [moment_text(moment(NOON_MS))]


async def test_where_a_number_of_the_past_came_from(home: House) -> None:
    """The same question under a cut is answered from what counted then."""
    cookie, _, between = await two_become_one(home)
    path = f"/v1/customers/{cookie.id}/facts/money.EUR"
    now, then = await home.shown(path), await home.shown(path, known_at=between)
    assert (now["value"], [one["contribution"] for one in now["items"]]) == (1500, [500, 1000])
    assert (then["value"], [one["contribution"] for one in then["items"]]) == (1000, [1000])


async def test_what_is_not_there_is_said_so(home: House) -> None:
    """An unknown number names the known ones; erased and foreign customers have no past; bad questions are refused."""
    person = home.person(user="42")
    await home.track(person, page_view())
    known = await later(home)
    missing = await home.get(f"/v1/customers/{person.id}/facts/shoe.size")
    assert missing.status_code == 404
    assert "counts.page_viewed.web" in missing.json()["message"]
    assert (await home.get("/v1/customers", as_of=NOON_MS)).json()["code"] == "invalid_field"
    for query in ({"as_of": "yesterday"}, {"known_at": "12:00"}):
        assert (await home.get(f"/v1/customers/{person.id}", **query)).status_code == 422
    for path in ("", "/past", "/facts", "/facts/first_at"):
        assert (await home.get(f"/v1/customers/{person.id}{path}", RIVAL, known_at=known)).status_code == 404
        assert (await home.get(f"/v1/customers/{person.id}{path}", "website")).status_code == 403
    await home.append(person.leaves[0], ErasureRequested("main", b"e" * 16, person.leaves[0], NOON_MS))
    await home.settle()
    for path in ("", "/past", "/facts"):
        assert (await home.get(f"/v1/customers/{person.id}{path}", known_at=known)).status_code == 404
