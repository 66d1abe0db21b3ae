"""The event routes: one pure-ASGI class in front of FastAPI's router, which would cost five times all the rest.

Reads the body within its bounds, finds the key, hands the items to the intake and answers what real SDKs understand:
200 with JSON, or a flat `code`/`message`/`detail` error.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest import wire
from services.ingest.domain.terms import Arrival
from services.ingest.domain.times import parse_time
from services.ingest.gathering import Request
from services.ingest.intake import Intake
from services.ingest.metrics import Counts
from services.ingest.pressure import Inflight, Patience, TooBusy
from services.ingest.senders import Senders
from services.ingest.settings import IngestSettings
from shared.access import WRITE, Key
from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.errors import NotAllowed, OutcomeUnknown, RaftarError, Stopped, TooLarge
from shared.events import PUBLIC
from shared.httpd import Problem, fault_problem, headers_of, presented, problem, problem_of, status_of
from shared.serving import ANSWER, head_of, waited_seconds
from shared.telemetry import where

_log = structlog.get_logger("door")

INLINE_GZIP_BYTES = 32 * 1024
"""Larger gzip bodies are inflated in a thread, so that one of them delays nobody."""
REFUSED_BODY_FACTOR = 4
"""How many times the bound is read and thrown away, so that a client still sending hears 413 and not a broken pipe."""

Headers = list[tuple[bytes, bytes]]
CORS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After"),
]
PREFLIGHT: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type, x-write-key, x-retry-count, anonymousid, sentat"),
    (b"access-control-max-age", b"86400"),
    (b"content-length", b"0"),
]
_JSON: Headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"), *CORS]
_TAKEN = head_of(200, _JSON)
KEYS_REMEMBERED_MAX = 4096
_WANTED = frozenset((b"authorization", b"content-length", b"content-encoding", b"x-write-key", b"sentat"))


@dataclass(frozen=True, slots=True)
class Route:
    """One event route. `kind` None: the items say what they are."""

    name: str
    kind: str | None = None
    batch: bool = False
    native: bool = False


def _routes() -> dict[str, Route]:
    routes = {"/v1/touchpoints": Route("touchpoints", native=True)}
    for kind in ("track", "identify", "page", "screen", "group", "alias"):
        routes[f"/v1/{kind}"] = routes[f"/v1/{kind[0]}"] = Route(kind, kind)
    for path in ("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"):
        routes[path] = Route("batch", batch=True)
    return routes | {f"{path}/": route for path, route in routes.items()}


ROUTES = _routes()


class ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


class EventDoor:
    """ASGI: answers the event routes itself and passes everything else on."""

    def __init__(
        self,
        app: ASGIApp,
        intake: Intake,
        senders: Senders,
        feed: DefinitionsFeed,
        clock: Clock,
        settings: IngestSettings,
        inflight: Inflight,
        patience: Patience,
        counts: Counts,
    ) -> None:
        self._app, self._intake, self._senders, self._feed = app, intake, senders, feed
        self._clock, self._inflight, self._patience, self._counts = clock, inflight, patience, counts
        self._body_bytes_max = settings.ingest_body_bytes_max
        self._inflated_bytes_max = settings.ingest_inflated_bytes_max
        self._items_max = settings.ingest_items_max
        self._access = feed.access
        self._remembered: dict[bytes, Key] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(route, scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _send(send, 204, PREFLIGHT, b"")
        else:
            body = msgspec.json.encode(problem("method_not_allowed", "event routes take POST"))
            await _send(send, 405, _sized(body, (b"allow", b"POST, OPTIONS")), body)

    async def _post(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        held = _Held(self._inflight)
        try:
            body = await self._take(route, scope, receive, held)
        except ClientGone:
            self._counts.request(route.name, 499)
            return
        except RaftarError as error:
            status, headers, body = _error_answer(error)
        except asyncio.CancelledError:  # the server ends and waits no longer; what was begun may still be kept
            status, headers, body = _error_answer(OutcomeUnknown("cut short"))
        except Exception as error:  # the last resort: an SDK must get JSON with CORS, and keep its batch
            _log.error("fault", route=route.name, error=type(error).__name__, where=where(error))
            status, headers, body = _answer(500, fault_problem())
        else:
            self._counts.request(route.name, 200)
            answer = scope.get(ANSWER)
            if answer is None or not answer(_TAKEN, body):
                await _send(send, 200, _sized(body), body)
            return
        finally:
            held.release()
        self._counts.request(route.name, status)
        await _send(send, status, headers, body)

    async def _take(self, route: Route, scope: Scope, receive: Receive, held: "_Held") -> bytes:
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        body = await self._read(receive, held)
        self._patience.check(max(waited_seconds(scope), self._intake.waited_seconds()))
        if body.startswith(wire.GZIP_MAGIC):  # a header that says gzip over a plain body is a proxy's leftover
            body = await self._inflated(body, held)
        envelope = self._envelope(route, body)
        key = self._key(headers, scope["query_string"], envelope)
        arrival = self._arrival(scope, headers, envelope.sent_at, key)
        sender = self._senders.of(key)
        results = await self._intake.take(Request(envelope, sender, arrival, route.kind, route.native))
        if route.native:
            return wire.native_answer(results, envelope.single)
        return wire.segment_answer(results)

    def _envelope(self, route: Route, body: bytes) -> wire.Envelope:
        if route.native:
            return wire.read_native(body, self._items_max)
        return wire.read_segment(body, route.batch, self._items_max)

    # --- the body ---------------------------------------------------------------------------------------------

    async def _inflated(self, body: bytes, held: "_Held") -> bytes:
        if len(body) > INLINE_GZIP_BYTES:
            body = await asyncio.to_thread(wire.inflate, body, self._inflated_bytes_max)
        else:
            body = wire.inflate(body, self._inflated_bytes_max)
        held.take(len(body))
        return body

    async def _read(self, receive: Receive, held: "_Held") -> bytes:
        """The body as sent. A slow one is ended by the protocol (`serving`); we hear that the client is gone."""
        message = await receive()
        body = _part(message)
        held.take(len(body))
        if message.get("more_body"):
            return bytes(await self._read_on(receive, held, bytearray(body)))
        if len(body) > self._body_bytes_max:
            raise self._too_large()
        return body

    async def _read_on(self, receive: Receive, held: "_Held", body: bytearray) -> bytearray:
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            part = _part(message)
            held.take(len(part))
            body += part
            if len(body) > self._body_bytes_max:
                held.release()
                await _throw_away(receive, message, REFUSED_BODY_FACTOR * self._body_bytes_max)
                raise self._too_large()
        return body

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over {self._body_bytes_max} bytes (RAFTAR_INGEST_BODY_BYTES_MAX)")

    # --- who and when -----------------------------------------------------------------------------------------

    def _key(self, headers: dict[bytes, bytes], query: bytes, envelope: wire.Envelope) -> Key:
        """The live key a request shows, which may write. What an `Authorization` showed is remembered while no key and
        no workspace changes, and found by its hash: the time says nothing of what a wrong one has in common with it."""
        access = self._feed.access
        if access is not self._access or len(self._remembered) >= KEYS_REMEMBERED_MAX:
            self._access, self._remembered = access, {}
        authorization = headers.get(b"authorization", b"")
        known = self._remembered.get(authorization)
        if known is not None:
            return known
        text = presented(authorization)
        key = access.key(text) if text else None
        if key is not None:
            self._remembered[authorization] = key.require(WRITE)
            return key
        for text in _presented_elsewhere(headers, query, wire.write_key_of(envelope)):
            key = access.key(text)
            if key is not None:
                return key.require(WRITE)
        raise NotAllowed("the write key is missing or unknown: send it as the user of Basic, as Bearer or as writeKey")

    def _arrival(self, scope: Scope, headers: dict[bytes, bytes], sent_at: Any, key: Key) -> Arrival:
        """A server's own address says nothing of its customers, so only public keys bring one."""
        client = scope.get("client")
        remote_ip = client[0] if client and key.trust == PUBLIC else ""
        said = sent_at if sent_at is not None else headers.get(b"sentat", b"").decode("latin-1")
        return Arrival(self._clock.now_ms(), _time_or_none(said) if said != "" else None, remote_ip)


class _Held:
    """The bytes one request holds."""

    __slots__ = ("_bytes", "_inflight")

    def __init__(self, inflight: Inflight) -> None:
        self._inflight, self._bytes = inflight, 0

    def take(self, byte_count: int) -> None:
        self._inflight.take(byte_count)
        self._bytes += byte_count

    def release(self) -> None:
        self._inflight.give(self._bytes)
        self._bytes = 0


def _part(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise ClientGone
    part: bytes = message.get("body", b"")
    return part


async def _throw_away(receive: Receive, message: Message, byte_count: int) -> None:
    while message.get("more_body") and byte_count > 0:
        message = await receive()
        byte_count -= len(_part(message))


def _presented_elsewhere(headers: dict[bytes, bytes], query: bytes, body_key: str) -> Iterator[str]:
    """Every key a request shows outside `Authorization`, the places SDKs use most first."""
    if body_key:
        yield body_key
    if b"x-write-key" in headers:
        yield headers[b"x-write-key"].partition(b":")[0].decode("latin-1")
    if query:
        yield wire.write_key_of_query(query)


def _time_or_none(said: object) -> int | None:
    """When the client says it sent this; None when it says nothing, or nothing we can read."""
    if said is None or said == "":
        return None
    try:
        return parse_time(said)
    except ValueError:
        return None


def _error_answer(error: RaftarError) -> tuple[int, Headers, bytes]:
    if isinstance(error, Stopped):
        _log.error("the door cannot work", reason=str(error))
    extra = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    if isinstance(error, TooBusy | TooLarge):
        extra.append((b"connection", b"close"))  # the rest of the body may still be coming
    return _answer(status_of(error), problem_of(error), *extra)


def _answer(status: int, answer: Problem, *extra: tuple[bytes, bytes]) -> tuple[int, Headers, bytes]:
    body = msgspec.json.encode(answer)
    return status, _sized(body, *extra), body


def _sized(body: bytes, *extra: tuple[bytes, bytes]) -> Headers:
    return [*_JSON, (b"content-length", b"%d" % len(body)), *extra]


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
