"""The straight way answers what ASGI answers, in order, whatever comes on the connection before and after."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.ingest.door import STRAIGHT_ROUTES
from shared.clock import SystemClock
from shared.errors import NotAccepting
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from tests.service.ingest_house import House, house, listening, track
from tests.service.test_ingest_events import ODD_BODIES

PATIENCE_SECONDS = 20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


def post(key: str, body: bytes, path: str = "/v1/track", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def call(**fields: Any) -> bytes:
    return json.dumps(track(**fields)).encode()


class Talk:
    """One connection; answers are read as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def hear(self) -> tuple[int, dict[bytes, bytes], bytes]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.strip().split(b"\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
            assert len(headers) == len(lines), head  # none stands twice
            return int(first.split()[1]), headers, await self.reader.readexactly(int(headers[b"content-length"]))

    async def ends(self) -> bool:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def talking(port: int) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_requests_behind_each_other_are_answered_in_their_order(door: House) -> None:
    """Straight, straight again while the first waits for the log, by ASGI, refused, and straight."""
    odd = b'{"anonymousId":"a","event":5}'
    async with listening(door.app) as port, talking(port) as talk:
        first, second, third = (post(door.write_key, call(messageId=name)) for name in "abc")
        await talk.say(first + second + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + post(door.write_key, odd) + third)
        heard = [await talk.hear() for _ in range(5)]
        await talk.say(post(door.write_key, call(messageId="d")))
        heard.append(await talk.hear())
    assert [status for status, _, _ in heard] == [200, 200, 200, 400, 200, 200]
    assert [json.loads(body).get("alive") for _, _, body in heard[:3]] == [None, None, True]
    assert len(await door.touchpoints()) == 4


async def test_a_body_that_comes_in_pieces_is_one_request(door: House) -> None:
    whole = post(door.write_key, call(properties={"text": "x" * 3000}))
    async with listening(door.app) as port, talking(port) as talk:
        await talk.say(*(whole[at : at + 97] for at in range(0, len(whole), 97)))
        status, _, body = await talk.hear()
    assert (status, json.loads(body)) == (200, {"success": True})
    assert len(await door.touchpoints()) == 1


async def test_who_wants_the_connection_closed_has_it_closed(door: House) -> None:
    async with listening(door.app) as port:
        async with talking(port) as talk:
            await talk.say(post(door.write_key, call(), "/v1/track", "Connection: close"))
            _, headers, _ = await talk.hear()
            assert headers[b"connection"] == b"close"
            assert await talk.ends()
        async with talking(port) as talk:
            await talk.say(post(door.write_key, call()).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            status, headers, _ = await talk.hear()
            assert (status, headers[b"connection"]) == (200, b"close")
            assert await talk.ends()


async def test_who_asks_before_sending_is_told_to_go_on(door: House) -> None:
    body = call()
    async with listening(door.app) as port, talking(port) as talk:
        await talk.say(post(door.write_key, body, "/v1/track", "Expect: 100-continue")[: -len(body)])
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await talk.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await talk.say(body)
        assert (await talk.hear())[0] == 200


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/v1/touchpoints"])
async def test_odd_bodies_are_answered_as_by_asgi(door: House, path: str) -> None:
    bodies = [*ODD_BODIES, gzip.compress(call(), mtime=0), b"[" + b",".join([b"{}"] * 300) + b"]", b"x" * 300_000]
    assert path.encode() in STRAIGHT_ROUTES
    async with listening(door.app) as port:
        for body in bodies:
            asked = await door.client.post(path, content=body, headers={"authorization": f"Bearer {door.secret_key}"})
            async with talking(port) as talk:
                await talk.say(post(door.secret_key, body, path))
                status, headers, answer = await talk.hear()
            assert (status, told(answer)) == (asked.status_code, told(asked.content)), body[:80]
            same = ("content-type", "access-control-allow-origin", "retry-after", "x-content-type-options")
            assert [headers.get(name.encode(), b"").decode() for name in same] == [
                asked.headers.get(name, "") for name in same
            ]


def told(body: bytes) -> Any:
    """An answer without the ids that are made anew each time."""
    answer = json.loads(body)
    for result in answer.get("results", ()):
        result.pop("id", None)
    return answer


async def test_a_wrong_key_is_401_and_one_in_the_body_is_found(door: House) -> None:
    async with listening(door.app) as port, talking(port) as talk:
        await talk.say(post("rk_w_wrong", call()))
        status, headers, body = await talk.hear()
        assert (status, json.loads(body)["code"]) == (401, "not_allowed")
        assert headers[b"www-authenticate"] == b'Bearer realm="raftar"'
        await talk.say(post("", call(writeKey=door.write_key)))
        assert (await talk.hear())[0] == 200


class Reluctant(SqliteLog):
    """Takes nothing of `touchpoints`."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        if topic == "touchpoints":
            raise NotAccepting("not now")
        return await super().append(topic, records)


async def test_a_log_that_takes_nothing_is_503_with_retry_after_on_a_kept_connection(tmp_path: Path) -> None:
    log = Reluctant(tmp_path / "log", SystemClock())
    async with house(tmp_path, log=log) as door, listening(door.app) as port, talking(port) as talk:
        for _ in range(2):
            await talk.say(post(door.write_key, call()))
            status, headers, body = await talk.hear()
            assert (status, json.loads(body)["code"]) == (503, "log_not_accepting")
            assert int(headers[b"retry-after"]) >= 1


async def test_more_bytes_than_may_be_in_progress_are_refused_and_given_back(tmp_path: Path) -> None:
    async with house(tmp_path, ingest_inflight_bytes_max=1 << 20) as door, listening(door.app) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for _, writer in held:  # none of these is whole yet
            writer.write(post(door.write_key, b"x" * 250_000)[:-9])
            await writer.drain()
        status = 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            while status == 200:
                async with talking(port) as talk:
                    await talk.say(post(door.write_key, call(properties={"n": "y" * 20_000})))
                    status, headers, body = await talk.hear()
        assert (status, json.loads(body)["code"], headers[b"connection"]) == (503, "too_busy", b"close")
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient() as client:
            metrics = ""
            while "raftar_ingest_inflight_bytes 0.0" not in metrics:
                metrics = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
