"""Who is this customer, what happened, where do they stand: REST of profiles on both databases, over a real socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.events import ErasureRequested, LeafReinstated
from shared.ids import leaf_text
from tests.builders import NOON_MS, a_touchpoint
from tests.service.profiles_house import MAIN, NOW_MS, RIVAL, House, Person, house, page_view

HOUR_MS = 3_600_000


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


def bought(order: str, amount: float, at: int = NOON_MS) -> Any:
    """A purchase in euros."""
    return a_touchpoint("purchased", at=at, id=f"buy {order}", order_id=order, amount=amount, currency="EUR")


async def sara(home: House) -> Person:
    """Sara, with a purchase, a page view and an email address in the clear."""
    person = home.person(user="42", email="Sara@Example.com", anonymous="cookie-1")
    told = {"traits": {"name": "Sara"}, "text": {"comment": "call me"}, "ip": "192.0.2.7"}
    await home.track(person, page_view(), bought("A-1", 12.5, NOON_MS + HOUR_MS), personal=told)
    return person


async def test_a_view_shows_who_what_and_why(home: House) -> None:
    """Profile, identifiers with their explanation, personal values, stage, risk and open alerts in one answer."""
    person = await sara(home)
    await home.stage(person, "active", 3, risk=0.25, risk_at=NOW_MS, reasons={"orders": 1})
    await home.alert(person, "ab" * 16, 1, "open", policy="bad_experience", at=NOW_MS, raised_at=NOW_MS)
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert (view["customer_id"], view["resolved_from"]) == (person.id, None)
    assert (view["first_at"], view["last_at"]) == ("2023-11-15T12:00:00.000Z", "2023-11-15T13:00:00.000Z")
    assert (view["stage"], view["risk"], view["reasons"]) == ("active", 0.25, {"orders": 1})
    assert view["risk_at"] == "2023-11-16T12:00:00.000Z"
    assert [alert["policy"] for alert in view["alerts"]] == ["bad_experience"]
    assert {view["alerts"][0][name] for name in ("at", "raised_at")} == {"2023-11-16T12:00:00.000Z"}
    assert [(one["kind"], one["value"], one["reason"]) for one in view["identifiers"]] == [
        ("user", "42", "alone"),
        ("email", "sara@example.com", "joined"),
        ("anonymous", "cookie-1", "joined"),
    ]
    assert view["identifiers"][1]["explanation"].startswith("This email belongs to customer " + person.id)
    assert view["personal"] == {"traits": {"name": "Sara"}, "context": {"ip": "192.0.2.7"}}
    assert view["profile"]["money"] == {"EUR": 1250}
    assert view["profile"]["orders"]["last_at"] == "2023-11-15T13:00:00.000Z"
    assert view["profile"]["activity"] == [{"day": "2023-11-15", "days": 1, "count": 2}]
    assert view["version"] == 1
    only = await home.shown(f"/v1/customers/{person.id}/identifiers")
    assert only == {"customer_id": person.id, "identifiers": view["identifiers"]}


async def test_any_leaf_and_any_spelling_lead_to_the_customer(home: House) -> None:
    """A leaf resolves to its root; an identifier is normalised before it is looked up."""
    person = await sara(home)
    await home.settle()
    cookie = leaf_text(person.leaves[2])
    view = await home.shown(f"/v1/customers/{cookie}")
    assert (view["customer_id"], view["resolved_from"]) == (person.id, cookie)
    for text in ("user:42", "email: SARA@example.COM ", "anonymous:cookie-1", "user:۴۲"):
        assert (await home.shown("/v1/customers", identifier=text))["customer_id"] == person.id
    assert (await home.get("/v1/customers", identifier="user:43")).status_code == 404
    for wrong in ("nonsense", "email:nobody", "user:null", "shoe:42", ":", "provider:"):
        answer = await home.get("/v1/customers", identifier=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_field"), wrong


async def test_a_foreign_customer_answers_exactly_like_a_missing_one(home: House) -> None:
    """Two workspaces with the same identifiers never see each other's rows, in no route."""
    person = await sara(home)
    twin = home.person(RIVAL, user="42", email="sara@example.com")
    await home.track(twin, page_view(), workspace=RIVAL)
    await home.stage(person, "active", 1, risk=0.5)
    await home.stage(twin, "at_risk", 1, RIVAL, risk=0.9)
    await home.settle()
    missing = await home.get("/v1/customers/" + "0" * 32)
    assert missing.status_code == 404
    for path in ("", "/identifiers", "/timeline"):
        foreign = await home.get(f"/v1/customers/{twin.id}{path}")
        assert (foreign.status_code, foreign.json()) == (404, missing.json())
    assert (await home.get("/v1/customers/not-an-id")).json() == missing.json()
    assert twin.id != person.id
    for key, mine, stage in (("main", person, "active"), (RIVAL, twin, "at_risk")):
        for sort in ("last_seen", "spend", "risk"):
            page = await home.shown("/v1/customers", key, sort=sort)
            assert [(one["customer_id"], one["stage"]) for one in page["items"]] == [(mine.id, stage)]
        assert (await home.shown("/v1/customers", key, identifier="user:42"))["customer_id"] == mine.id
    tie = await home.post("/v1/customers/link", {"a": twin.id, "b": "user:42"})
    assert tie.status_code == 404


async def listing(home: House) -> list[Person]:
    """Five customers: spend 10 to 50, seen an hour apart, risks from sequence."""
    people = []
    for number in range(1, 6):
        person = home.person(user=f"u{number}")
        await home.track(person, bought(f"o{number}", 10.0 * number, NOON_MS + number * HOUR_MS))
        people.append(person)
    for number, person in enumerate(people[:4]):
        await home.stage(person, "active" if number % 2 else "at_risk", 1, risk=round(0.8 - number / 10, 2))
    await home.settle()
    return people


async def test_lists_filter_sort_and_page(home: House) -> None:
    """Every order, whole over its pages whatever their size; each filter alone and together."""
    people = await listing(home)
    ids = [person.id for person in people]

    async def found(**query: Any) -> list[int]:
        page = await home.shown("/v1/customers", **query)
        return [ids.index(one["customer_id"]) for one in page["items"]]

    assert await found() == [4, 3, 2, 1, 0]
    assert await found(order="asc") == [0, 1, 2, 3, 4]
    assert await found(sort="spend", limit=2) == [4, 3]
    assert await found(sort="risk") == [0, 1, 2, 3]
    assert await found(stage="active") == [3, 1]
    assert await found(risk_min=0.7) == [1, 0]
    assert await found(spend_min=3000, stage="at_risk") == [2]
    assert await found(seen_after="2023-11-15T14:00:00.000Z", seen_before="2023-11-15T16:00:00.000Z") == [2, 1]
    for sort in ("last_seen", "spend", "risk"):
        for order in ("desc", "asc"):
            whole, query = [], {"sort": sort, "order": order, "limit": 2}
            while True:
                page = await home.shown("/v1/customers", **query)
                whole += [one["customer_id"] for one in page["items"]]
                if page["next"] is None:
                    break
                query["next"] = page["next"]
            assert [ids.index(one) for one in whole] == await found(sort=sort, order=order)
    first = await home.shown("/v1/customers", limit=1)
    assert first["items"][0]["identifier"] == "user:u5"
    assert (first["items"][0]["spend_minor"], first["items"][0]["currency"]) == (5000, "EUR")
    other = await home.get("/v1/customers", sort="spend", next=first["next"])
    assert (other.status_code, other.json()["field"]) == (400, "next")


@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_who_spent_the_same_is_listed_by_when_they_came(home: House, order: str) -> None:
    """Most visitors bought nothing; two of them came in the same millisecond."""
    came = {}
    for number, at in enumerate((3, 1, 2, 2, 0)):
        person = home.person(anonymous=f"visitor-{number}")
        await home.track(person, page_view(NOON_MS + at))
        came[person.id] = at
    await home.settle()
    seen: list[str] = []
    query: dict[str, Any] = {"sort": "spend", "order": order, "limit": 1}
    while page := await home.shown("/v1/customers", **query):
        seen += [one["customer_id"] for one in page["items"]]
        if page["next"] is None:
            break
        query["next"] = page["next"]
    assert seen == sorted(came, key=lambda one: (came[one], one), reverse=order == "desc")


async def test_lists_of_a_stage_follow_what_is_decided(home: House) -> None:
    """A stage that changes, more events, and a customer who is joined to another and split off again."""
    people = await listing(home)
    ids = [person.id for person in people]

    async def found(**query: Any) -> list[int]:
        page = await home.shown("/v1/customers", **query)
        return [ids.index(one["customer_id"]) for one in page["items"]]

    await home.stage(people[1], "lapsed", 2)
    await home.track(people[1], page_view(NOON_MS + 9 * HOUR_MS))
    await home.settle()
    assert await found(stage="active", sort="spend") == [3]
    assert await found(stage="lapsed") == [1]
    assert await found() == [1, 4, 3, 2, 0]
    pair = {"a": "user:u2", "b": "user:u4"}
    assert (await home.post("/v1/customers/link", pair)).status_code == 202
    await home.settle()
    joined = min(ids[1], ids[3])
    stage = "lapsed" if joined == ids[1] else "active"
    assert await found(stage=stage, sort="spend") == [ids.index(joined)]
    assert (await home.post("/v1/customers/unlink", pair)).status_code == 202
    await home.settle()
    assert (await found(stage="active"), await found(stage="lapsed")) == ([3], [1])


async def test_a_timeline_pages_over_equal_times_and_over_all_leaves(home: House) -> None:
    """Newest first, whole over its pages, also where several touchpoints share one millisecond."""
    person = home.person(user="42", anonymous="cookie-1")
    alone = home.person(anonymous="cookie-1")
    await home.track(person, *(page_view(NOON_MS, id=f"same {number}") for number in range(7)))
    await home.track(alone, *(page_view(NOON_MS - number, id=f"before {number}") for number in range(5)))
    await home.track(person, bought("A-1", 3.0, NOON_MS + 1), personal={"text": {"comment": "by phone"}})
    await home.settle()
    path = f"/v1/customers/{person.id}/timeline"
    whole = (await home.shown(path))["items"]
    assert len(whole) == 13
    assert whole[0]["kind"] == "purchased"
    assert whole[0]["properties"] == {"order_id": "A-1", "amount_minor": 300, "currency": "EUR"}
    assert whole[0]["text"] == {"comment": "by phone"}
    assert (whole[0]["source"], whole[0]["trust"], whole[0]["recorded_at"]) == (
        "shop",
        "secret",
        "2023-11-16T12:00:00.000Z",
    )
    assert [one["occurred_at"] for one in whole] == sorted((one["occurred_at"] for one in whole), reverse=True)
    for limit in (1, 3, 5):
        paged, after = [], {}
        while True:
            page = await home.shown(path, limit=limit, **after)
            paged += page["items"]
            if page["next"] is None:
                break
            after = {"next": page["next"]}
        assert paged == whole
    assert len((await home.shown(path, kind="purchased"))["items"]) == 1
    assert len((await home.shown(path, kind=["purchased", "page_viewed"], channel="web"))["items"]) == 13
    assert (await home.shown(path, channel="sms"))["items"] == []
    window = {"from": "2023-11-15T12:00:00.000Z", "to": "2023-11-15T12:00:00.001Z"}
    assert len((await home.shown(path, **window))["items"]) == 8
    wrong = await home.get(path, kind="purchase")
    assert (wrong.status_code, wrong.json()["field"]) == (400, "kind")
    assert "did you mean 'purchased'" in wrong.json()["message"]


async def test_a_shared_device_is_explained(home: House) -> None:
    """A cookie of two users stands alone, and says why in one sentence."""
    for user in ("1", "2"):
        await home.track(home.person(user=user, anonymous="kiosk"), page_view(id=f"by {user}"))
    await home.settle()
    view = await home.shown("/v1/customers", identifier="anonymous:kiosk")
    assert [one["reason"] for one in view["identifiers"]] == ["shared"]
    assert "tied to 2 customers" in view["identifiers"][0]["explanation"]
    for user in ("1", "2"):
        view = await home.shown("/v1/customers", identifier=f"user:{user}")
        assert [one["value"] for one in view["identifiers"]] == [user]


async def test_decisions_hold_by_sequence_revision_and_time(home: House) -> None:
    """Whatever order they are read in: the highest sequence is the stage, the highest revision the alert."""
    person = await sara(home)
    await home.stage(person, "late", 5, risk=0.5, risk_at=NOW_MS + 5)
    await home.stage(person, "early", 4, risk=0.4, risk_at=NOW_MS + 4)
    await home.settle()
    await home.stage(person, "earliest", 2, risk=0.2, risk_at=NOW_MS + 2)
    await home.alert(person, "ab" * 16, 2, "acknowledged", 7, risk=0.7, risk_at=NOW_MS + 7)
    await home.alert(person, "ab" * 16, 1, "open", 6, risk=0.6, risk_at=NOW_MS + 6)
    await home.alert(person, "cd" * 16, 3, "recovered", 8)
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert (view["stage"], view["risk"]) == ("late", 0.7)
    assert [(one["alert_id"], one["state"]) for one in view["alerts"]] == [("ab" * 16, "acknowledged")]


async def test_an_undecided_customer_has_no_stage_and_no_risk(home: House) -> None:
    """Before the first decision, and for a prospect about whom no risk can be told."""
    person = await sara(home)
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert (view["stage"], view["risk"], view["risk_at"], view["alerts"]) == (None, None, None, [])
    await home.stage(person, "prospect", 1, risk=None)
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert (view["stage"], view["risk"]) == ("prospect", None)
    assert (await home.shown("/v1/customers", sort="risk"))["items"] == []


async def test_an_erased_customer_is_missing_and_comes_back_without_a_past(home: House) -> None:
    """Erased answers like missing; reinstated, the old touchpoints are proofs without content."""
    person = home.person(user="42")
    await home.track(person, page_view(), personal={"traits": {"name": "Sara"}, "text": {"comment": "hello"}})
    await home.settle()
    [leaf] = person.leaves
    await home.append(leaf, ErasureRequested(MAIN, b"e" * 16, leaf, NOON_MS))
    await home.settle()
    assert (await home.get(f"/v1/customers/{person.id}")).status_code == 404
    assert (await home.get("/v1/customers", identifier="user:42")).status_code == 404
    assert (await home.shown("/v1/customers"))["items"] == []
    home.clock.advance(1000)
    await home.append(leaf, LeafReinstated(MAIN, b"r" * 16, leaf, NOON_MS))
    await home.track(person, page_view(NOON_MS + 1, id="again"))
    await home.settle()
    new, old = (await home.shown(f"/v1/customers/{person.id}/timeline"))["items"]
    assert (new["erased"], new["source"]) == (False, "shop")
    assert (old["erased"], old["source"], old["text"], old["received_at"]) == (True, "", {}, None)
    view = await home.shown(f"/v1/customers/{person.id}")
    assert view["personal"] == {"traits": {}, "context": {}}
    assert view["profile"]["counts"] == {"page_viewed": {"web": 1}}
