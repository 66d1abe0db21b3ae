"""The event routes: one class in front of FastAPI's router, which would cost five times all the rest.

Reads the body within its bounds, finds the key, hands the items to the intake and answers what real SDKs understand:
200 with JSON, or a flat `code`/`message`/`detail` error. Most requests come straight from the socket
(`shared.straight`), all others by ASGI; both are read and answered by the same functions.
"""

import asyncio
from collections.abc import Container, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest import wire
from services.ingest.answers import PREFLIGHT, TAKEN, Answer, fault, refusal, send_by_asgi, taken
from services.ingest.domain.terms import Arrival, Result
from services.ingest.domain.times import parse_time
from services.ingest.gathering import Request, Taken
from services.ingest.intake import ITEMS_AT_ONCE, Intake
from services.ingest.metrics import Counts
from services.ingest.pressure import Inflight, Patience
from services.ingest.senders import Senders
from services.ingest.settings import IngestSettings
from shared.access import WRITE, Key
from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.errors import NotAllowed, OutcomeUnknown, RaftarError, TooLarge
from shared.events import PUBLIC
from shared.httpd import presented, problem
from shared.serving import ANSWER, waited_seconds
from shared.straight import Headers, Whole

INLINE_GZIP_BYTES = 32 * 1024
"""Larger gzip bodies are inflated in a thread, so that one of them delays nobody."""
REFUSED_BODY_FACTOR = 4
"""How many times the bound is read and thrown away, so that a client still sending hears 413 and not a broken pipe."""

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
STRAIGHT_ROUTES = {path.encode(): route for path, route in ROUTES.items()}
STRAIGHT_BYTES_MAX = 256 * 1024


class ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


class EventDoor:
    """ASGI, and `shared.straight.Straight`: answers the event routes itself and passes everything else on."""

    straight_paths: Container[bytes] = STRAIGHT_ROUTES

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
        self.straight_bytes_max = min(STRAIGHT_BYTES_MAX, settings.ingest_body_bytes_max)
        self._later: set[asyncio.Task[None]] = set()
        self._access = feed.access
        self._remembered: dict[bytes, Key] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(route, scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": PREFLIGHT})
            await send({"type": "http.response.body", "body": b""})
        else:
            wrong = problem("method_not_allowed", "event routes take POST")
            await send_by_asgi(send, Answer(405, msgspec.json.encode(wrong), [(b"allow", b"POST, OPTIONS")]))

    # --- by ASGI ----------------------------------------------------------------------------------------------

    async def _post(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        held = _Held(self._inflight)
        try:
            body = await self._take(route, scope, receive, held)
        except ClientGone:
            self._counts.request(route.name, 499)
            return
        except RaftarError as error:
            answer = refusal(error)
        except asyncio.CancelledError:  # the server ends and waits no longer; what was begun may still be kept
            answer = refusal(OutcomeUnknown("cut short"))
        except Exception as error:
            answer = fault(route.name, error)
        else:
            self._counts.request(route.name, 200)
            at_once = scope.get(ANSWER)
            if at_once is None or not at_once(TAKEN, body):
                await send_by_asgi(send, Answer(200, body))
            return
        finally:
            held.release()
        self._counts.request(route.name, answer.status)
        await send_by_asgi(send, answer)

    async def _take(self, route: Route, scope: Scope, receive: Receive, held: "_Held") -> bytes:
        body = await self._read(receive, held)
        self._patience.check(max(waited_seconds(scope), self._intake.waited_seconds()))
        if body.startswith(wire.GZIP_MAGIC):  # a header that says gzip over a plain body is a proxy's leftover
            body = await self._inflated(body)
            held.take(len(body))
        request = self._request(route, scope["headers"], scope["query_string"], scope.get("client"), body)
        return taken(request, await self._intake.take(request))

    # --- straight ---------------------------------------------------------------------------------------------

    def hold(self, byte_count: int) -> None:
        """Raises TooBusy beyond the bound of all requests in progress."""
        self._inflight.take(byte_count)

    def let_go(self, byte_count: int) -> None:
        """These bytes are held no longer."""
        self._inflight.give(byte_count)

    def take(self, whole: Whole) -> None:
        """Answer a request: at once what is wrong with it, the rest when the log has it."""
        route = STRAIGHT_ROUTES[whole.path]
        try:
            self._patience.check(self._intake.waited_seconds())
            body = whole.body
            if body.startswith(wire.GZIP_MAGIC):
                self._begin(route, whole, self._inflate_and_take(route, whole))
                return
            request = self._request(route, whole.headers, b"", whole.client, body)
            if len(request.envelope.items) > ITEMS_AT_ONCE:
                self._begin(route, whole, self._take_in_turns(route, whole, request))
                return
            self._intake.enter(request, partial(self._settled, route, whole, request))
        except Exception as error:
            self._fail(route, whole, error)

    def gone(self, whole: Whole) -> None:
        """Its client left before it was whole; there is nobody to answer."""
        self._counts.request(STRAIGHT_ROUTES[whole.path].name, 499)

    def refuse(self, whole: Whole, error: RaftarError) -> None:
        """Answer with the error."""
        self._fail(STRAIGHT_ROUTES[whole.path], whole, error)

    def _settled(self, route: Route, whole: Whole, request: Request, outcome: Taken | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(route, whole, outcome)
            return
        results, appended = outcome
        if appended:
            self._counts.accepted += len(results)
            self._succeed(route, whole, request, results)
        else:
            self._begin(route, whole, self._keep(route, whole, request, results))

    async def _keep(self, route: Route, whole: Whole, request: Request, results: list[Result]) -> None:
        await self._intake.keep(request, results)
        self._succeed(route, whole, request, results)

    async def _take_in_turns(self, route: Route, whole: Whole, request: Request) -> None:
        self._succeed(route, whole, request, await self._intake.take(request))

    async def _inflate_and_take(self, route: Route, whole: Whole) -> None:
        body = await self._inflated(whole.body)
        if not whole.hold(len(body)) and whole.error is not None:
            raise whole.error
        await self._take_in_turns(route, whole, self._request(route, whole.headers, b"", whole.client, body))

    def _begin(self, route: Route, whole: Whole, work: Coroutine[Any, Any, None]) -> None:
        """What takes longer, in a task."""
        task = asyncio.get_running_loop().create_task(self._answered(route, whole, work))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _answered(self, route: Route, whole: Whole, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(route, whole, error)

    def _succeed(self, route: Route, whole: Whole, request: Request, results: Sequence[Result]) -> None:
        if not whole.response_complete:
            self._counts.request(route.name, 200)
            whole.answer(TAKEN, taken(request, results))

    def _fail(self, route: Route, whole: Whole, error: Exception) -> None:
        if not whole.response_complete:
            answer = refusal(error) if isinstance(error, RaftarError) else fault(route.name, error)
            self._counts.request(route.name, answer.status)
            whole.answer(answer.head(), answer.body, answer.close)

    # --- what a request says ----------------------------------------------------------------------------------

    def _request(
        self, route: Route, sent: Headers, query: bytes, client: tuple[str, int] | None, body: bytes
    ) -> Request:
        headers = {name: value for name, value in sent if name in _WANTED}
        envelope = self._envelope(route, body)
        key = self._key(headers, query, envelope)
        arrival = self._arrival(client, headers, envelope.sent_at, key)
        return Request(envelope, self._senders.of(key), arrival, route.kind, route.native)

    def _envelope(self, route: Route, body: bytes) -> wire.Envelope:
        if route.native:
            return wire.read_native(body, self._items_max)
        return wire.read_segment(body, route.batch, self._items_max)

    # --- the body ---------------------------------------------------------------------------------------------

    async def _inflated(self, body: bytes) -> bytes:
        if len(body) > INLINE_GZIP_BYTES:
            return await asyncio.to_thread(wire.inflate, body, self._inflated_bytes_max)
        return wire.inflate(body, self._inflated_bytes_max)

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

    def _arrival(self, client: tuple[str, int] | None, headers: dict[bytes, bytes], sent_at: Any, key: Key) -> Arrival:
        """A server's own address says nothing of its customers, so only public keys bring one."""
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
