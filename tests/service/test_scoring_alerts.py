"""From profile changes and watermarks to alerts: on the topic, in REST, and what people say about them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.scoring.defaults import default_rules
from shared.codec import encode
from shared.events import DefinitionPublished, WorkspaceDefined
from shared.log.port import Outgoing
from shared.topics import DEFINITIONS, SEGMENT_CHANGES
from tests.service.scoring_house import NOW_MS, Customer, House, a_key, house

HOUR_MS = 3_600_000
SILENCE = ["orders >= 1", "silence >= 1h"]
"""A rule whose crossing can be read off the page."""


def a_definition(version: int, effective_at: int, silence: list[str], workspace: str = "shop") -> DefinitionPublished:
    rules = default_rules()
    rules["alerts"]["silence"]["when"] = silence
    return DefinitionPublished(workspace, version, effective_at, rules, {})


@pytest.fixture(params=["sqlite", "postgres"])
async def scoring(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with house(tmp_path, url, definitions=[a_definition(1, 0, SILENCE)]) as made:
        yield made


async def bought_now(scoring: House, *names: str, workspace: str = "shop") -> list[Customer]:
    """Customers who just bought for the first time, and are decided on."""
    customers = [Customer(name, workspace) for name in names]
    at = scoring.clock.now_ms()
    before = len(await scoring.events(SEGMENT_CHANGES))
    await scoring.change(*(one.change(one.bought(at), at=at) for one in customers))
    await scoring.until_said(before + len(names), SEGMENT_CHANGES)
    return customers


async def complained(scoring: House, *names: str, workspace: str = "shop") -> list[str]:
    """Customers who just complained; their alerts' ids, oldest first."""
    known = {event["id"] for event in await scoring.events()}
    for name in names:
        customer = Customer(name, workspace)
        scoring.clock.advance(1)
        at = scoring.clock.now_ms()
        await scoring.change(customer.change(customer.touchpoint("complained", at, ticket_id=f"T-{name}"), at=at))
    events = await scoring.until_said(len(known) + len(names))
    fresh = sorted((event for event in events if event["id"] not in known), key=lambda event: event["data"]["at"])
    return [event["data"]["alert_id"] for event in fresh]


async def test_silence_is_alerted_at_its_exact_crossing_once_the_watermark_allows(scoring: House) -> None:
    [sara] = await bought_now(scoring, "sara")
    bought_at = scoring.clock.now_ms()
    await scoring.time_passes(HOUR_MS)  # a due time fires when the watermark is beyond it
    decided = await scoring.get(f"/v1/customers/{sara.text}/decision")
    assert decided["alerts"] == []
    assert [one["type"] for one in decided["upcoming"]] == ["raftar.alert.raised"]
    await scoring.time_passes(1)
    [event] = await scoring.until_said(1)
    assert (event["type"], event["subject"]) == ("raftar.alert.raised", sara.text)
    assert event["data"]["crossed_at"] == event["data"]["raised_at"] == bought_at + HOUR_MS
    assert event["data"]["emitted_at"] == scoring.clock.now_ms()
    page = await scoring.get("/v1/alerts")
    assert [item["event"] for item in page["items"]] == [event]
    assert page["items"][0]["state"] == "open"
    assert await scoring.get(f"/v1/alerts/{event['data']['alert_id']}") == page["items"][0]
    decided = await scoring.get(f"/v1/customers/{sara.text}/decision")
    assert decided["alerts"] == page["items"]
    assert decided["risk"] == pytest.approx(sum(part["amount"] for part in decided["reasons"]["parts"]))
    assert decided["definition_version"] == 1


async def test_a_purchase_recovers_and_the_alert_says_so(scoring: House) -> None:
    [sara] = await bought_now(scoring, "sara")
    await scoring.time_passes(2 * HOUR_MS)
    await scoring.until_said(1)
    at = scoring.clock.now_ms()
    await scoring.change(sara.change(sara.bought(at), at=at))
    raised, recovered = await scoring.until_said(2)
    assert recovered["data"]["alert_id"] == raised["data"]["alert_id"]
    shown = await scoring.get(f"/v1/alerts/{raised['data']['alert_id']}")
    assert (shown["state"], shown["revision"], shown["event"]) == ("recovered", 2, recovered)


async def test_one_touchpoints_partition_that_stops_holds_silence_back_and_is_named(scoring: House) -> None:
    await bought_now(scoring, "sara")
    start = scoring.clock.now_ms()
    await scoring.time_passes(1)
    for _ in range(3):
        scoring.clock.advance(2 * HOUR_MS)
        now = scoring.clock.now_ms()
        await scoring.watermark([now, now, start, now])
    await scoring.until_metric("raftar_scoring_statements_total", 4)
    status, body = await scoring.ask("GET", "/readyz")
    check = body["checks"]["watermarks"]
    assert status == 503
    assert check["held_back_by_touchpoints_partitions"] == [2]
    assert await scoring.events() == []
    await scoring.time_passes(1)
    [event] = await scoring.until_said(1)
    assert event["data"]["crossed_at"] == start + HOUR_MS
    assert (await scoring.ask("GET", "/readyz"))[1]["checks"]["watermarks"]["ok"]


async def test_a_definitions_feed_that_stands_still_fires_nothing(scoring: House) -> None:
    await bought_now(scoring, "sara")
    await scoring.time_passes(1)
    await scoring.feed.close()
    scoring.clock.advance(5 * HOUR_MS)
    await scoring.watermark(scoring.clock.now_ms())
    await scoring.until_metric("raftar_scoring_definitions_too_old_total", 1)
    ali = Customer("ali")  # neither does a change of somebody else make time pass for them
    at = scoring.clock.now_ms()
    await scoring.change(ali.change(ali.bought(at), at=at))
    await scoring.until_said(2, SEGMENT_CHANGES)
    assert await scoring.events() == []
    status, body = await scoring.ask("GET", "/readyz")
    assert (status, body["checks"]["definitions"]["ok"]) == (503, False)
    await scoring.feed.start()
    await scoring.watermark(scoring.clock.now_ms())
    await scoring.until_said(1)


async def test_a_change_under_old_definitions_decides_no_silence(scoring: House) -> None:
    [sara] = await bought_now(scoring, "sara")
    await scoring.time_passes(1)
    await scoring.feed.close()
    scoring.clock.advance(5 * HOUR_MS)
    await scoring.watermark(scoring.clock.now_ms())
    await scoring.until_metric("raftar_scoring_definitions_too_old_total", 1)
    at = scoring.clock.now_ms()
    await scoring.change(sara.change(sara.touchpoint("complained", at, ticket_id="T"), at=at))
    [event] = await scoring.until_said(1)
    assert event["data"]["policy"] == "bad_experience"


async def test_a_new_definition_arms_anew_and_raises_nothing_for_the_past(scoring: House) -> None:
    [sara] = await bought_now(scoring, "sara")
    await scoring.time_passes(HOUR_MS // 2)
    status, made = await scoring.ask(
        "POST", "/v1/definitions", json={"rules": a_definition(2, 0, ["silence >= 20m"]).rules}
    )
    assert (status, made["version"]) == (201, 2)
    await scoring.time_passes(5_000)  # the version takes effect at the watermark itself: not yet
    await scoring.time_passes(HOUR_MS)
    [reza] = await bought_now(scoring, "reza")
    at = scoring.clock.now_ms()
    await scoring.time_passes(HOUR_MS)
    [event] = await scoring.until_said(1)
    assert event["subject"] == reza.text
    assert event["data"]["crossed_at"] == at + 20 * 60_000
    assert event["data"]["definition_version"] == 2
    assert (await scoring.get(f"/v1/customers/{sara.text}/decision"))["definition_version"] == 2
    listed = (await scoring.get("/v1/definitions"))["items"]
    assert [(one["version"], one["in_force"], one["built_in"]) for one in listed] == [
        (1, False, False),
        (2, True, False),
    ]
    assert len((await scoring.get("/v1/definitions", "rival"))["items"]) == 1


async def test_words_on_an_alert(scoring: House) -> None:
    [alert_id] = await complained(scoring, "sara")
    path = f"/v1/alerts/{alert_id}"
    status, shown = await scoring.ask("POST", f"{path}/acknowledge")
    assert (status, shown["state"], shown["revision"]) == (200, "open", 2)
    assert shown["acknowledged_at"] is not None
    again = await scoring.ask("POST", f"{path}/acknowledge")
    assert again == (200, shown)
    status, judged = await scoring.ask("POST", f"{path}/judge", json={"verdict": "false_alarm"})
    assert (status, judged["state"], judged["event"]["data"]["verdict"]) == (200, "judged", "false_alarm")
    status, body = await scoring.ask("POST", f"{path}/judge", json={"verdict": "true_alarm"})
    assert (status, body["code"]) == (409, "conflict")
    events = await scoring.until_said(3)
    assert [event["type"].removeprefix("raftar.alert.") for event in events] == ["raised", "acknowledged", "judged"]
    assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)
    assert events[-1] == judged["event"]


async def test_lists_filter_and_page(scoring: House) -> None:
    ids = await complained(scoring, "a", "b", "c", "d", "e")
    pages: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        page = await scoring.get("/v1/alerts", limit=2, **after)
        pages.append([item["alert_id"] for item in page["items"]])
        if page["next"] is None:
            break
        after = {"next": page["next"]}
    assert [one for page in pages for one in page] == ids[::-1]
    items = (await scoring.get("/v1/alerts"))["items"]
    middle = items[2]
    assert await found(scoring, customer=middle["customer_id"]) == [middle["alert_id"]]
    assert await found(scoring, raised_after=items[1]["raised_at"]) == ids[:2:-1]
    assert await found(scoring, raised_before=items[3]["raised_at"]) == ids[:1]
    assert await found(scoring, state="open", policy="bad_experience") == ids[::-1]
    assert await found(scoring, policy="silence") == []
    assert await found(scoring, state="judged") == []
    assert await found(scoring, risk_min=0.1) == []


async def found(scoring: House, **params: Any) -> list[str]:
    return [item["alert_id"] for item in (await scoring.get("/v1/alerts", **params))["items"]]


async def test_workspaces_do_not_see_each_other(scoring: House) -> None:
    [mine] = await complained(scoring, "sara")
    [theirs] = await complained(scoring, "sara", workspace="rival")
    assert mine != theirs
    assert await found(scoring) == [mine]
    foreign, missing = f"/v1/alerts/{theirs}", "/v1/alerts/0190163d-8694-739b-aea5-966c26f8ad91"
    for method, path in (("GET", ""), ("POST", "/acknowledge")):
        assert await scoring.ask(method, foreign + path) == await scoring.ask(method, missing + path)
        assert (await scoring.ask(method, foreign + path))[0] == 404
    customer = Customer("sara", "rival").text
    assert (await scoring.ask("GET", f"/v1/customers/{customer}/decision"))[0] == 404
    assert (await scoring.ask("GET", f"/v1/customers/{customer}/decision", "rival"))[0] == 200
    assert (await scoring.get("/v1/alerts", customer=customer))["items"] == []


async def test_odd_requests_are_refused_never_a_fault(scoring: House) -> None:
    [alert_id] = await complained(scoring, "sara")
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("GET", "/v1/alerts", {"params": {"next": "rubbish"}}, 400),
        ("GET", "/v1/alerts", {"params": {"customer": "rubbish"}}, 400),
        ("GET", "/v1/alerts", {"params": {"limit": 0}}, 422),
        ("GET", "/v1/alerts", {"params": {"raised_after": "yesterday"}}, 422),
        ("GET", "/v1/alerts/rubbish", {}, 404),
        ("GET", "/v1/customers/rubbish/decision", {}, 404),
        ("POST", f"/v1/alerts/{alert_id}/judge", {"json": {"verdict": "perhaps"}}, 422),
        ("POST", f"/v1/alerts/{alert_id}/judge", {"content": b"{"}, 422),
        ("GET", "/v1/alerts/stream", {"params": {"types": "x"}}, 400),
        ("GET", "/v1/alerts/stream", {"params": {"last_event_id": "x"}}, 400),
        ("GET", "/v1/alerts/stream", {"headers": {}}, 401),
    ]
    for method, path, more, status in asked:
        headers = more.pop("headers", scoring.bearer("shop"))
        answer = await scoring.client.request(method, path, headers=headers, **more)
        assert answer.status_code == status, (path, answer.text)
        assert {"code", "message", "detail"} <= answer.json().keys()


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"model": {"r": -1}}, "model.r"),
        ({"model": {"name": ["x"]}}, "model.name"),
        ({"rules": {}}, "rules.alerts"),
        ({"rules": default_rules() | {"purchase_trust_min": ["x"]}}, "rules.purchase_trust_min"),
        ({"rules": default_rules() | {"days": "0s"}}, "rules.days"),
        ({"rules": default_rules() | {"note": 10**30}}, "rules"),
        ({"effective_at": "2026-01-01T00:00:00Z"}, "effective_at"),
        ({"effective_at": "2090-01-01T00:00:00Z"}, "effective_at"),
    ],
)
async def test_a_definition_that_means_nothing_is_refused(tmp_path: Path, wanted: Any, field: str) -> None:
    async with house(tmp_path) as scoring:
        status, body = await scoring.ask("POST", "/v1/definitions", json=wanted)
        assert (status, body["field"]) == (400, field)
        assert [one["built_in"] for one in (await scoring.get("/v1/definitions"))["items"]] == [True]


async def test_a_bad_trigger_is_refused_before_it_can_park_anybody(tmp_path: Path) -> None:
    rules = default_rules()
    rules["alerts"]["bad_experience"]["opens"] = [{"kind": "survey_answered", "metric": "csat", "at_most": "2"}]
    async with house(tmp_path) as scoring:
        status, body = await scoring.ask("POST", "/v1/definitions", json={"rules": rules})
        assert (status, body["field"]) == (400, "rules.alerts.bad_experience.opens[0]")


async def test_a_published_definition_that_does_not_compile_leaves_the_older_in_force(scoring: House) -> None:
    broken = DefinitionPublished("shop", 2, NOW_MS + 1, {"stages": "none"}, {})
    await scoring.define(broken)
    await scoring.until_metric("raftar_scoring_definitions_refused_total", 1)
    listed = (await scoring.get("/v1/definitions"))["items"]
    assert [(one["version"], one["in_force"], one["refused"] is None) for one in listed] == [
        (1, True, True),
        (2, False, False),
    ]
    await bought_now(scoring, "sara")
    await scoring.time_passes(2 * HOUR_MS)
    await scoring.until_said(1)
    status, made = await scoring.ask("POST", "/v1/definitions", json={"model": {"horizon": "60d"}})
    assert (status, made["version"], made["refused"]) == (201, 3, None)


async def test_scopes(scoring: House) -> None:
    [alert_id] = await complained(scoring, "sara")
    fact, reader = a_key("shop", ("read",), seed=7)
    await scoring.define(fact)
    scoring.keys["reader"] = reader
    assert (await scoring.ask("GET", "/v1/alerts", "reader"))[0] == 200
    assert (await scoring.ask("POST", f"/v1/alerts/{alert_id}/acknowledge", "reader"))[0] == 403
    assert (await scoring.ask("POST", "/v1/definitions", "reader", json={}))[0] == 403


async def test_a_new_workspace_is_waited_for_not_guessed(scoring: House) -> None:
    sara = Customer("sara", "later")
    at = scoring.clock.now_ms()
    await scoring.change(sara.change(sara.touchpoint("complained", at, ticket_id="T"), at=at))
    await scoring.until_metric("raftar_scoring_loop_failures_total", 1)
    assert await scoring.events() == []
    await scoring.log.append(DEFINITIONS, [Outgoing(0, encode(WorkspaceDefined("later", "UTC", "", "k", b"", at)))])
    [event] = await scoring.until_said(1)
    assert event["workspace"] == "later"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_restart_goes_on_where_it_was(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    async with house(tmp_path, url, definitions=[a_definition(1, 0, SILENCE)]) as before:
        [sara] = await bought_now(before, "sara")
        await before.time_passes(HOUR_MS // 2)
        clock = before.clock
    async with house(tmp_path, url, clock) as after:
        decided = await after.get(f"/v1/customers/{sara.text}/decision")
        assert decided["version"] == 1
        await after.until_owned()
        await after.time_passes(HOUR_MS)
        [event] = await after.until_said(1)
        assert event["subject"] == sara.text
        assert len(await after.events(SEGMENT_CHANGES)) == 1


async def test_probes_metrics_and_docs(scoring: House) -> None:
    await scoring.time_passes(1)
    await scoring.until_metric("raftar_scoring_statements_total", 1)
    status, body = await scoring.ask("GET", "/readyz")
    assert (status, body["ready"]) == (200, True)
    assert body["checks"]["profile-changes"]["partitions"] == 4
    document = (await scoring.client.get("/openapi.json")).json()
    assert {
        "/v1/alerts", "/v1/alerts/{alert_id}", "/v1/alerts/{alert_id}/acknowledge", "/v1/alerts/{alert_id}/judge",
        "/v1/alerts/stream", "/v1/customers/{customer_id}/decision", "/v1/definitions",
    } <= document["paths"].keys()  # fmt: skip
    scoring.clock.advance(31_000)
    assert (await scoring.ask("GET", "/readyz"))[1]["checks"]["watermarks"]["ok"] is False
