"""Links and unlinks by a person: what is foreseen is what happens, and clear values reach the personal store."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.codec import decode
from shared.events import ErasureRequested, IdentityLinked, IdentityUnlinked
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS
from tests.service.profiles_house import MAIN, RIVAL, House, house, page_view


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


async def commands(home: House) -> list[IdentityLinked | IdentityUnlinked]:
    """Links and unlinks in the log."""
    found = []
    for partition, bounds in sorted((await home.log.bounds(TOUCHPOINTS)).items()):
        batch = await home.log.read(TOUCHPOINTS, partition, bounds.earliest)
        facts = [decode(record.value) for record in batch.records]
        found += [fact for fact in facts if isinstance(fact, IdentityLinked | IdentityUnlinked)]
    return found


async def test_two_users_become_one_and_two_again(home: House) -> None:
    """The answer foresees what the fold then does; a person's unlink stays against what is tracked later."""
    a, b = home.person(user="1", anonymous="c"), home.person(user="2", email="b@example.com")
    await home.track(a, page_view(id="a"))
    await home.track(b, page_view(id="b"))
    for number, person in enumerate((a, b)):
        await home.alert(person, f"{number}a" * 16, 1, "open")
    await home.settle()
    root, other = sorted((a.id, b.id))
    answer = await home.post("/v1/customers/link", {"a": "user:1", "b": "user:2", "reason": "same household card"})
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["one_customer"] is True
    assert {(move["from_customer"], move["to_customer"]) for move in accepted["moves"]} == {(other, root)}
    assert len(accepted["moves"]) == 2
    assert accepted["consequence"] == "2 identifiers move; both are one customer afterwards."
    await home.settle()
    view = await home.shown(f"/v1/customers/{other}")
    assert (view["customer_id"], view["resolved_from"]) == (root, other)
    assert len(view["identifiers"]) == 4
    assert sorted(alert["alert_id"] for alert in view["alerts"]) == ["0a" * 16, "1a" * 16]
    assert view["identifiers"][0]["reason"] == "aliased"
    assert view["profile"]["counts"]["page_viewed"] == {"web": 2}
    assert len((await home.shown(f"/v1/customers/{root}/timeline"))["items"]) == 2
    [command] = await commands(home)
    assert isinstance(command, IdentityLinked)
    assert (command.operator, command.alias, command.reason) == (True, True, "same household card")
    home.clock.advance(1000)
    again = await home.post("/v1/customers/link", {"a": "user:1", "b": "user:2"})
    assert again.json()["consequence"].startswith("Nothing moves: both are one customer")
    home.clock.advance(1000)
    undone = (await home.post("/v1/customers/unlink", {"a": a.id, "b": b.id})).json()
    assert (undone["one_customer"], len(undone["moves"])) == (False, 2)
    await home.settle()
    for person in (a, b):
        view = await home.shown(f"/v1/customers/{person.id}")
        assert (view["customer_id"], len(view["identifiers"])) == (person.id, 2)


async def test_an_unlinked_email_stays_away(home: House) -> None:
    """Automatic ties said later never undo what a person said."""
    person = home.person(user="1", email="office@example.com")
    await home.track(person, page_view(id="first"))
    await home.settle()
    await home.post("/v1/customers/unlink", {"a": "user:1", "b": "email:office@example.com"})
    await home.settle()
    home.clock.advance(60_000)
    await home.track(person, page_view(NOON_MS + 60_000, id="later"))
    await home.settle()
    assert len((await home.shown(f"/v1/customers/{person.id}"))["identifiers"]) == 1


async def test_identifiers_never_seen_can_be_linked_and_are_shown(home: House) -> None:
    """Their clear values come over REST only, and must be kept by it."""
    await home.track(home.person(user="1"), page_view())
    await home.settle()
    answer = await home.post("/v1/customers/link", {"a": "phone:0912 345 6789", "b": "user:1"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["a"]["kind"] == "phone"
    await home.settle()
    view = await home.shown("/v1/customers", identifier="phone:+989123456789")
    assert [(one["kind"], one["value"]) for one in view["identifiers"]] == [("user", "1"), ("phone", "+989123456789")]


async def test_many_links_at_once_end_in_one_customer(home: House) -> None:
    """Twenty links of one chain sent together: each is taken, none deadlocks, all hold."""
    answers = await asyncio.gather(
        *(home.post("/v1/customers/link", {"a": f"user:n{n}", "b": f"user:n{n + 1}"}) for n in range(20))
    )
    assert [answer.status_code for answer in answers] == [202] * 20
    await home.settle()
    view = await home.shown("/v1/customers", identifier="user:n7")
    assert sorted(one["value"] for one in view["identifiers"]) == sorted(f"n{n}" for n in range(21))


async def test_what_cannot_be_linked_is_refused_with_a_reason(home: House) -> None:
    """Wrong, equal, unknown, foreign and erased identifiers, and keys that may not."""
    await home.track(home.person(user="1"), page_view())
    foreign = home.person(RIVAL, user="1")
    await home.track(foreign, page_view(), workspace=RIVAL)
    gone = home.person(user="gone")
    await home.track(gone, page_view(id="gone"))
    await home.append(gone.leaves[0], ErasureRequested(MAIN, b"e" * 16, gone.leaves[0], NOON_MS))
    await home.settle()
    for a, b, status, code in (
        ("user:1", "user:1", 400, "invalid_field"),
        ("user:1", "nonsense", 400, "invalid_field"),
        ("user:1", "email:nonsense", 400, "invalid_field"),
        ("user:1", foreign.id, 404, "not_found"),
        ("user:1", "0" * 32, 404, "not_found"),
        ("user:1", "user:gone", 409, "conflict"),
        ("user:1", gone.id, 409, "conflict"),
    ):
        answer = await home.post("/v1/customers/link", {"a": a, "b": b})
        assert (answer.status_code, answer.json()["code"]) == (status, code), (a, b)
    tie = {"a": "user:1", "b": "user:2"}
    for key, status in (("reader", 403), ("website", 403), ("", 401), ("rk_s_nonsense", 401)):
        assert (await home.post("/v1/customers/link", tie, key)).status_code == status
        assert (await home.get("/v1/failed", key)).status_code == (200 if key == "reader" else status)
    for body in ({}, {"a": "user:1"}, {**tie, "more": 1}, {"a": 1, "b": 2}, [], "x", {**tie, "reason": "x" * 501}):
        assert (await home.post("/v1/customers/link", body)).status_code == 422, body
    assert await commands(home) == []
    assert not await home.rows("SELECT leaf FROM personal WHERE leaf = $1", gone.leaves[0])
    assert (await home.get(f"/v1/customers/{gone.id}")).status_code == 404
    assert (await home.get(f"/v1/customers/{gone.id}/timeline")).status_code == 404
