"""The door on a real socket: slow and oversized clients, what real SDKs put on the wire, and an orderly end."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.access import KEY_RANDOM_BYTES, WRITE, WRITE_KEY, new_key
from shared.clock import SystemClock
from shared.codec import decode, encode
from shared.events import IdentityLinked, TouchpointsRecorded, WorkspaceDefined
from shared.keyring import Keyring
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.topics import DEFINITIONS, TOUCHPOINTS, topics
from tests.service.ingest_house import House, house, listening, track

CLIENTS = sorted((Path(__file__).parents[1] / "golden" / "clients").glob("*.json"))
PATIENCE_SECONDS = 20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def spoken(port: int, *parts: bytes) -> bytes:
    """Send the parts, then read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def refusal(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("path", CLIENTS, ids=[path.stem for path in CLIENTS])
async def test_recorded_requests_of_real_clients_become_what_they_mean(door: House, path: Path) -> None:
    recorded = json.loads(path.read_text())
    key = door.secret_key if recorded["trust"] == "secret" else door.write_key
    headers = {name: value for name, value in recorded["headers"].items() if name.lower() != "authorization"}
    body = json.dumps(recorded["body"]).encode()
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.compress(body)
    headers["Authorization"] = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    async with listening(door.app) as port, httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{port}{recorded['path']}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert "failed" not in answer.json()
    meant = ["identified" if kind == "link" else kind for kind in recorded["becomes"]]  # a link brings a touchpoint
    assert sorted(touchpoint.kind for touchpoint in await door.touchpoints()) == sorted(meant)
    links = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, IdentityLinked)]
    assert len(links) == recorded["becomes"].count("link")
    assert await door.failed() == []


async def test_a_slow_body_is_408_and_the_connection_ends(door: House) -> None:
    head = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    async with listening(door.app, body_seconds=0.3) as port:
        status, body = refusal(await spoken(port, head))
    assert (status, body["code"]) == (408, "too_slow")


async def test_a_slow_body_of_rest_is_408_too(door: House) -> None:
    head = f"POST /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.secret_key}\r\n"
    async with listening(door.app, body_seconds=0.3) as port:
        status, body = refusal(await spoken(port, head.encode() + b"Content-Length: 100\r\n\r\n{"))
    assert (status, body["code"]) == (408, "too_slow")


async def test_a_slow_head_is_408_and_a_silent_connection_is_closed(door: House) -> None:
    async with listening(door.app, header_seconds=0.3) as port:
        slow, silent = await asyncio.gather(spoken(port, b"POST /v1/track HTTP/1.1\r\nHo"), spoken(port))
    assert refusal(slow)[0] == 408
    assert silent == b""


async def test_a_second_slow_head_on_a_kept_connection_is_bounded_too(door: House) -> None:
    async with listening(door.app, header_seconds=0.3) as port:
        answer = await spoken(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"408 Request Timeout" in answer


async def test_an_endless_head_is_431(door: House) -> None:
    async with listening(door.app, header_bytes_max=4096) as port:
        parts = [b"POST /v1/track HTTP/1.1\r\n", *(b"X-%d: %s\r\n" % (i, b"y" * 500) for i in range(10))]
        status, body = refusal(await spoken(port, *parts))
    assert (status, body["code"]) == (431, "too_large")


async def test_a_long_head_that_ends_is_fine_when_below_the_bound(door: House) -> None:
    async with listening(door.app, header_bytes_max=4096) as port:
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"y" * 3000 + b"\r\n\r\n"
        assert b" 200 OK" in await spoken(port, head)


async def test_what_is_no_http_is_400(door: House) -> None:
    async with listening(door.app) as port:
        status, body = refusal(await spoken(port, b"\x16\x03\x01\x00\xa5 hello\r\n\r\n"))
    assert (status, set(body)) == (400, {"code", "message", "detail"})


async def test_a_client_still_sending_too_much_hears_413(door: House) -> None:
    body = b"x" * (6 << 20)
    headers = {"authorization": f"Bearer {door.write_key}"}
    async with listening(door.app) as port, httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/batch", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(door: House) -> None:
    async with listening(door.app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient() as client:
            metrics = ""
            while 'route="track",status="499"' not in metrics:
                metrics = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert "raftar_ingest_inflight_bytes 0.0" in metrics
    assert await door.touchpoints() == []


async def test_many_at_once_are_all_answered_and_all_in_the_log(door: House) -> None:
    limits = httpx.Limits(max_connections=32)
    headers = {"x-write-key": door.write_key}
    async with listening(door.app) as port, httpx.AsyncClient(limits=limits, timeout=30) as client:
        url = f"http://127.0.0.1:{port}/v1/track"
        sent = [client.post(url, json=track(messageId=f"m-{i}"), headers=headers) for i in range(200)]
        answers = await asyncio.gather(*sent)
    assert {answer.status_code for answer in answers} == {200}
    assert len({touchpoint.id for touchpoint in await door.touchpoints()}) == 200


# --- the real process -----------------------------------------------------------------------------------------


async def prepared(folder: Path) -> str:
    """A data folder with a workspace and a write key; returns the key's text."""
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    await log.ensure(topics(2))
    keyring = Keyring(folder)
    keyring.create("main")
    fact, text = new_key(WRITE_KEY, "main", "website", (WRITE,), "", clock.now_ms(), os.urandom(KEY_RANDOM_BYTES))
    defined = WorkspaceDefined("main", "UTC", "", *keyring.sealing_public("main"), clock.now_ms())
    await log.append(DEFINITIONS, [Outgoing(0, encode(one)) for one in (defined, fact)])
    await log.close()
    return text


async def listening_line(output: asyncio.StreamReader, seen: list[str]) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            line = (await output.readline()).decode()
            assert line, "".join(seen)
            seen.append(line)
            if json.loads(line)["event"] == "listening":
                return str(json.loads(line)["url"])


async def test_the_process_serves_ends_on_sigterm_and_logs_nothing_personal(tmp_path: Path) -> None:
    key = await prepared(tmp_path)
    environment = os.environ | {
        "RAFTAR_DATA_DIR": str(tmp_path), "RAFTAR_PARTITIONS": "2", "RAFTAR_INGEST_PORT": "0",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.ingest", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        seen: list[str] = []
        url = await listening_line(process.stdout, seen)
        acked = 0
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            canary = {"email": "canary@example.com", "phone": "+989120000000"}
            for number in range(5):
                call = track(messageId=str(number), context={"traits": canary}, properties=canary)
                acked += (await client.post("/v1/track", json=call, headers={"x-write-key": key})).status_code == 200
            await client.post("/v1/track?writeKey=" + key[:-1] + "x", json=track(userId="canary@example.com"))
            await client.get(f"/v1/projects/{key}/nothing")
            assert (await client.get("/readyz")).status_code == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            rest = await process.stdout.read()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    output = "".join(seen) + rest.decode()
    assert (acked, code) == (5, 0), output
    assert [word for word in (key, key.rsplit("_", 1)[1], "canary", "+98912") if word in output] == []
    assert all(json.loads(line) for line in output.splitlines())
    log = SqliteLog(tmp_path / "log", SystemClock())
    records = [record for n in range(2) for record in (await log.read(TOUCHPOINTS, n, 0)).records]
    await log.close()
    facts = [decode(record.value) for record in records]
    assert sum(len(fact.touchpoints) for fact in facts if isinstance(fact, TouchpointsRecorded)) == 5
    assert b"canary" not in b"".join(record.value for record in records)
