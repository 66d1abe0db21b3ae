"""The stream over real sockets: nothing missed, nothing repeated, nobody held up by somebody else."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from services.cli.sse import lines as cut_lines
from services.scoring.resuming import id_of, vector_of
from services.scoring.tail import Gap, Said, Tail, Told, Wish, earliest, listener
from shared.clock import FrozenClock
from shared.errors import InvalidField
from shared.events import KeyRevoked
from shared.log.port import Log, Outgoing, Topic
from shared.log.sqlite import SqliteLog
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES
from tests.service.scoring_house import NOW_MS, PARTITIONS, PATIENCE_SECONDS, Customer, House, house, until

STREAM = "/v1/alerts/stream"


class Event(NamedTuple):
    """One event as a browser would see it."""

    name: str
    id: str
    data: Any
    retry: str


@pytest.fixture
async def scoring(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """Events of an open stream, split as the standard says."""
    fields: dict[str, str] = {}
    rest = b""
    async for chunk in answer.aiter_raw():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in cut_lines([b"\n".join(whole) + b"\n"] if whole else []):
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("event", "message"), fields["id"], data, fields.get("retry", ""))
            fields = {}


@asynccontextmanager
async def following(
    scoring: House, workspace: str = "shop", last_id: str = "", **params: Any
) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream, its `ready` read already."""
    headers = scoring.bearer(workspace) | ({"last-event-id": last_id} if last_id else {})
    async with (
        httpx.AsyncClient(base_url=scoring.url, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", STREAM, params=params, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        events = events_of(answer)
        assert (await anext(events)).name == "ready"
        yield events


async def taken(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(events) for _ in range(count)]


async def complain(scoring: House, *names: str, workspace: str = "shop") -> None:
    """Each complains once, at an instant of its own."""
    for name in names:
        scoring.clock.advance(1)
        customer, at = Customer(name, workspace), scoring.clock.now_ms()
        await scoring.change(customer.change(customer.touchpoint("complained", at, ticket_id=name), at=at))


async def test_an_alert_is_heard_as_it_is_on_the_topic(scoring: House) -> None:
    async with scoring.client.stream("GET", STREAM, headers=scoring.bearer("shop")) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert not {"content-encoding", "content-length"} & answer.headers.keys()
        events = events_of(answer)
        ready = await anext(events)
        assert (ready.name, ready.data, ready.retry) == ("ready", {}, "3000")
        await complain(scoring, "sara")
        [alert] = await taken(events, 1)
    assert alert.name == "churn_alert"
    assert [alert.data] == await scoring.events()


async def test_a_quiet_stream_beats_before_five_seconds(scoring: House) -> None:
    async with scoring.client.stream("GET", STREAM, headers=scoring.bearer("shop")) as answer:
        chunks = answer.aiter_raw()
        assert b"ready" in await anext(chunks)
        async with asyncio.timeout(5):
            assert await anext(chunks) == b":\n"


async def test_ten_forced_reconnects_miss_nothing_and_repeat_nothing(scoring: House) -> None:
    names = [f"c{n}" for n in range(60)]
    chosen = random.Random(7)
    heard: list[Event] = []
    async with following(scoring) as events:
        pass
    last_id = ""
    complaining: asyncio.Task[None] | None = None
    for cut in range(11):
        async with following(scoring, last_id=last_id) as events:
            complaining = complaining or asyncio.create_task(complain(scoring, *names))
            left = len(names) - len(heard)
            wanted = left if cut == 10 else min(left - (10 - cut), chosen.randint(1, 9))
            for event in await taken(events, wanted):
                heard.append(event)
                last_id = event.id
    assert complaining is not None
    await complaining
    assert sorted(event.data["subject"] for event in heard) == sorted(Customer(name).text for name in names)
    said = [event["id"] for event in await scoring.until_said(len(names))]
    assert sorted(event.data["id"] for event in heard) == sorted(said)


async def test_what_happened_between_two_connections_is_heard(scoring: House) -> None:
    async with scoring.client.stream("GET", STREAM, headers=scoring.bearer("shop")) as answer:
        ready = await anext(events_of(answer))
    await complain(scoring, "a", "b")
    await scoring.until_said(2)
    async with following(scoring, last_id=ready.id) as events:
        assert len(await taken(events, 2)) == 2
    async with following(scoring, last_event_id=ready.id) as events:
        assert len(await taken(events, 2)) == 2


async def test_from_the_start_or_from_now(scoring: House) -> None:
    await complain(scoring, "old")
    await scoring.until_said(1)
    await until_told(scoring)
    async with following(scoring, **{"from": "start"}) as all_of_it, following(scoring) as new_only:
        await complain(scoring, "new")
        old, new = Customer("old").text, Customer("new").text
        assert [event.data["subject"] for event in await taken(all_of_it, 2)] == [old, new]
        assert [event.data["subject"] for event in await taken(new_only, 1)] == [new]


async def until_told(scoring: House) -> None:
    """Wait until the shared tail has read what is there: one stream from the end then hears only what follows."""
    async with following(scoring, **{"from": "start"}) as events:
        await taken(events, len(await scoring.events()))


async def test_filters_and_workspaces(scoring: House) -> None:
    sara = Customer("sara").text
    async with (
        following(scoring, types="alerts,segments") as everything,
        following(scoring, types="segments") as segments,
        following(scoring, customer=sara) as of_sara,
        following(scoring, policy="silence") as silences,
        following(scoring, "rival") as rivals,
    ):
        await complain(scoring, "ali", "sara")
        await complain(scoring, "zoe", workspace="rival")
        heard = await taken(everything, 4)
        assert {event.name for event in heard} == {"churn_alert", "segment_change"}
        assert {event.data["workspace"] for event in heard} == {"shop"}
        assert {event.name for event in await taken(segments, 2)} == {"segment_change"}
        assert [event.data["subject"] for event in await taken(of_sara, 1)] == [sara]
        assert [event.data["workspace"] for event in await taken(rivals, 1)] == ["rival"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(silences)


async def test_a_position_that_is_not_there_is_told_as_a_gap(scoring: House) -> None:
    async with scoring.client.stream("GET", STREAM, headers=scoring.bearer("shop")) as answer:
        ready = await anext(events_of(answer))
    identities = {CHURN_ALERTS: identity_in(ready.id)}
    beyond = id_of({CHURN_ALERTS: [0, 5, 0, 0]}, identities)
    async with following(scoring, last_id=beyond) as events:
        [gap] = await taken(events, 1)
        assert (gap.name, gap.data["partition"], gap.data["from"], gap.data["to"]) == ("gap", 1, 5, 0)
        await complain(scoring, "a", "b", "c", "d", "e", "f")
        assert len(await taken(events, 6)) == 6
    other = id_of({CHURN_ALERTS: [0, 0, 0, 0]}, {CHURN_ALERTS: identities[CHURN_ALERTS] ^ 1})
    async with following(scoring, last_id=other) as events:
        heard = await taken(events, PARTITIONS + 6)
    assert [event.data["reason"] for event in heard[:PARTITIONS]] == ["of another log"] * PARTITIONS
    assert {event.name for event in heard[PARTITIONS:]} == {"churn_alert"}


def identity_in(event_id: str) -> int:
    import base64

    saved = msgspec.msgpack.decode(base64.urlsafe_b64decode(event_id + "=="))
    return int(saved[CHURN_ALERTS][0])


@pytest.mark.parametrize("text", ["x", "é", "AAAA", "a" * 40_000, id_of({CHURN_ALERTS: [1]}, {CHURN_ALERTS: 7})])
def test_an_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        vector_of(text, {CHURN_ALERTS: 7}, PARTITIONS)


async def test_a_revoked_key_hears_no_more(scoring: House) -> None:
    async with following(scoring) as events:
        key_id = scoring.keys["shop"].split("_")[2]
        await scoring.define(KeyRevoked("shop", key_id, NOW_MS))
        await complain(scoring, "sara", "ali")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert len([event async for event in events]) <= 2  # what was on its way, then the end


async def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    async with house(tmp_path, scoring_streams_max=1) as scoring, following(scoring):
        answer = await scoring.client.get(STREAM, headers=scoring.bearer("shop"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_streams_end_when_the_house_stops(tmp_path: Path) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        async with house(tmp_path) as scoring:
            request = client.build_request("GET", scoring.url + STREAM, headers=scoring.bearer("shop"))
            answer = await client.send(request, stream=True)
            events = events_of(answer)
            assert (await anext(events)).name == "ready"
        assert [event async for event in events] == []
        await answer.aclose()


async def test_who_does_not_read_is_cut_off_and_holds_up_nobody(tmp_path: Path) -> None:
    async with house(tmp_path, scoring_stream_stall_seconds=0.5, scoring_stream_events_max=5) as scoring:
        port = int(scoring.url.rpartition(":")[2])
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
        request = f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {scoring.keys['shop']}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(deaf, request.encode())
        await scoring.until_metric("raftar_scoring_streams", 1)
        async with following(scoring) as events:
            for number in range(80):
                await scoring.log.append(CHURN_ALERTS, [an_event(number, 100_000)])
            heard = await taken(events, 80)
            assert [event.data["id"] for event in heard] == [str(number) for number in range(80)]
            await scoring.until_metric("raftar_scoring_streams_cut_off_total", 1)
        deaf.close()


def an_event(number: int, padding: int = 0, partition: int = 0) -> Outgoing:
    event = {"id": str(number), "workspace": "shop", "subject": "s", "data": {"policy": "silence", "x": "x" * padding}}
    return Outgoing(partition, msgspec.json.encode(event))


# --- the tail by itself ---------------------------------------------------------------------------------------


@asynccontextmanager
async def tailing(folder: Path, clock: FrozenClock, **topic: Any) -> AsyncIterator[tuple[Log, Tail]]:
    log = SqliteLog(folder, clock)
    await log.ensure([Topic(name, PARTITIONS, **topic) for name in (CHURN_ALERTS, SEGMENT_CHANGES)])
    tail = Tail(log, PARTITIONS)
    running = asyncio.create_task(tail.run())
    await tail.started()
    try:
        yield log, tail
    finally:
        running.cancel()
        await asyncio.wait([running])
        await log.close()


WISH = Wish("shop", (CHURN_ALERTS,))


def numbers(told: list[Told]) -> list[int]:
    return [int(json.loads(one.what.body)["id"]) for one in told if isinstance(one.what, Said)]


async def test_a_slow_listener_goes_on_from_the_log(tmp_path: Path) -> None:
    async with tailing(tmp_path, FrozenClock()) as (log, tail):
        slow = await listener(tail, WISH, None, (), kept_max=5)
        assert await slow.some(0.0) == []  # it is level, and joined
        await log.append(CHURN_ALERTS, [an_event(number) for number in range(50)])
        await until(lambda: tail.positions[CHURN_ALERTS][0] == 50)
        heard: list[int] = []
        while len(heard) < 50:
            heard += numbers(await slow.some(PATIENCE_SECONDS))
        assert heard == list(range(50))
        assert slow.fell_behind == 1
        await log.append(CHURN_ALERTS, [an_event(50)])
        assert numbers(await slow.some(PATIENCE_SECONDS)) == [50]
        slow.close()


async def test_every_id_resumes_right_behind_its_event(tmp_path: Path) -> None:
    async with tailing(tmp_path, FrozenClock()) as (log, tail):
        await log.append(CHURN_ALERTS, [an_event(number, partition=number % 3) for number in range(30)])
        await until(lambda: sum(tail.positions[CHURN_ALERTS]) == 30)
        first = await listener(tail, WISH, await earliest(tail, WISH.topics), (), kept_max=5)
        told: list[Told] = []
        while len(told) < 30:
            told += await first.some(PATIENCE_SECONDS)
        for at, one in enumerate(told):
            vector, strange = vector_of(one.id, tail.identities, PARTITIONS)
            again = await listener(tail, WISH, vector, strange, kept_max=5)
            rest: list[int] = []
            while len(rest) < 29 - at:
                rest += numbers(await again.some(PATIENCE_SECONDS))
            assert sorted(rest) == sorted(numbers(told[at + 1 :]))
            assert await again.some(0.0) == []


async def test_what_retention_took_is_a_gap(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with tailing(tmp_path, clock, retention_ms=1000) as (log, tail):
        for number in range(3):
            await log.append(CHURN_ALERTS, [an_event(number)])
        clock.advance(5000)
        await log.append(CHURN_ALERTS, [an_event(3)])
        await until(lambda: tail.positions[CHURN_ALERTS][0] == 4)
        assert isinstance(log, SqliteLog)
        assert log.tidy() > 0
        late = await listener(tail, WISH, {CHURN_ALERTS: [1, 0, 0, 0]}, (), kept_max=5)
        gap, *_ = await late.some(PATIENCE_SECONDS)
        assert gap.what == Gap(CHURN_ALERTS, 0, 1, 3, "no longer kept")
        assert numbers(await late.some(PATIENCE_SECONDS)) == [3]
