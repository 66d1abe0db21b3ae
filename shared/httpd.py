"""What the HTTP services share: one map from errors to answers, keys by scope, bounds, probes, metrics and docs."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.access import ADMIN, Access, Key, MissingScope
from shared.docs_page import add_docs
from shared.errors import (
    Conflict,
    InvalidField,
    NotAccepting,
    NotAllowed,
    NotFound,
    OutcomeUnknown,
    RaftarError,
    Rejected,
    Retryable,
    Stopped,
    TooLarge,
)
from shared.straight import Straight
from shared.telemetry import Telemetry, where

_log = structlog.get_logger("http")

SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
STRICT_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

_STATUS: tuple[tuple[type[RaftarError], int], ...] = (
    (TooLarge, 413),
    (MissingScope, 403),
    (NotAllowed, 401),
    (NotFound, 404),
    (Rejected, 400),
    (Retryable, 503),
    (Conflict, 409),
    (Stopped, 503),
)
_LOGS_WORDS: dict[type[RaftarError], str] = {
    NotAccepting: "the log takes nothing now; try again",
    OutcomeUnknown: "the log did not confirm; send the same again, what is there already is recognised",
}
"""The log's own words name brokers and files; callers get the same advice without them."""
_CODES = {400: "invalid_request", 401: "not_allowed", 403: "missing_scope", 404: "not_found", 405: "method_not_allowed",
          408: "too_slow", 409: "conflict", 413: "too_large", 415: "unknown_media_type"}  # fmt: skip
STOPPED_RETRY_SECONDS = 30


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every error, flat because real SDKs read `code` and `message` at the top.

    `code` is for machines and stable; `detail` repeats the message for clients that look there; `field` is the path
    of what is wrong.
    """

    code: str
    message: str
    detail: str
    field: str = ""


class Life:
    """Whether the process is on its way out: readiness goes off, endless streams end themselves."""

    def __init__(self) -> None:
        self.stopping = False
        self._event = asyncio.Event()

    def stop(self) -> None:
        """Say that it ends."""
        self.stopping = True
        self._event.set()

    async def stopped(self) -> None:
        """Return once `stop` was called."""
        await self._event.wait()


class HouseApp:
    """A finished service: what uvicorn calls, its `life`, and who takes requests straight."""

    def __init__(self, app: ASGIApp, life: Life, straight: Straight | None = None) -> None:
        self.life, self.straight = life, straight
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        answer = self._live if scope["type"] == "lifespan" else self._app
        return answer(scope, receive, send)  # no coroutine of our own: every request would go through it

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan. Asked to stop while it waits for a log or database that is away, it gives up at once."""
        started = asyncio.Event()

        async def tell(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                started.set()
            elif not started.is_set() and self.life.stopping:
                return  # the traceback of our own cancelling
            await send(message)

        async with asyncio.TaskGroup() as tasks:
            living = tasks.create_task(_lived(self._app, scope, receive, tell))
            watching = [tasks.create_task(started.wait()), tasks.create_task(self.life.stopped())]
            await asyncio.wait((living, *watching), return_when=asyncio.FIRST_COMPLETED)
            for task in watching:
                task.cancel()
            if not started.is_set() and not living.done():
                living.cancel()
                await asyncio.wait([living])
                await send({"type": "lifespan.startup.failed", "message": "stopped while starting"})


async def _lived(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


Checks = Mapping[str, Mapping[str, Any]]
"""Name of a check → its figures; each has `ok`. All must be ok for "ready"."""


def new_app(
    *,
    title: str,
    description: str,
    version: str,
    telemetry: Telemetry,
    life: Life,
    ready: Callable[[], Awaitable[Checks]],
    lifespan: Callable[[FastAPI], Any] | None = None,
) -> FastAPI:
    """A FastAPI application with `/livez`, `/readyz`, `/metrics`, `/docs` and the flat error answers in place."""
    app = FastAPI(
        title=title,
        description=description,
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"description": "The caller's fault; `code` says which"}, 503: {"description": "Try later"}},
    )
    app.add_exception_handler(RaftarError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_fault)
    _add_probes(app, telemetry, life, ready)
    add_docs(app, title)
    return app


def finish(app: ASGIApp, life: Life, *, body_bytes_max: int = 1 << 20) -> HouseApp:
    """`app` with bounded bodies, security headers and a last resort for faults, ready for `serving.serve`."""
    return HouseApp(Guarded(app, body_bytes_max), life)


# --- errors ---------------------------------------------------------------------------------------------------


def status_of(error: RaftarError) -> int:
    """The HTTP status that tells the caller what to do next."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: RaftarError) -> Problem:
    """The flat body of an error. Only errors raised on purpose come here: their messages quote no personal data."""
    if isinstance(error, Rejected | Retryable):
        field = error.field if isinstance(error, InvalidField) else ""
        return problem(error.code, _LOGS_WORDS.get(type(error)) or str(error), field)
    if isinstance(error, Conflict):
        return problem("conflict", str(error) or "somebody else was first; reload and try again")
    if isinstance(error, Stopped):
        return problem("stopped", "this part of the service waits for its operator")
    return fault_problem()


def problem(code: str, message: str, field: str = "") -> Problem:
    """A problem whose detail is its message."""
    return Problem(code, message, message, field)


def fault_problem() -> Problem:
    """What a caller hears of an error nobody foresaw: nothing of its content."""
    return problem("internal", "something went wrong here; try again, nothing was acknowledged")


def headers_of(error: RaftarError) -> dict[str, str]:
    """Extra headers of an error: `Retry-After` in whole seconds (many clients parse nothing else), the challenge."""
    if isinstance(error, Retryable):
        return {"retry-after": str(max(1, round(error.retry_after_seconds)))}
    if isinstance(error, Stopped):
        return {"retry-after": str(STOPPED_RETRY_SECONDS)}
    if isinstance(error, NotAllowed) and not isinstance(error, MissingScope):
        return {"www-authenticate": 'Bearer realm="raftar"'}
    return {}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response from anything msgspec encodes."""
    return Response(msgspec.json.encode(value), status, dict(headers or {}), "application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RaftarError)  # noqa: S101 (registered for it)
    status = status_of(error)
    if status == 500:
        return await _answer_fault(request, error)
    if status == 503:
        _log.warning("not now", path=route_of(request.scope), error=type(error).__name__, reason=str(error))
    return json_response(problem_of(error), status, headers_of(error))


async def _answer_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = _CODES.get(error.status_code, "http_error")
    return json_response(problem(code, str(error.detail)), error.status_code, error.headers)


async def _answer_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]  # its `input` may be personal and stays out
    path = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return json_response(problem("invalid_field", f"{path}: {first['msg']}", path), 422)


async def _answer_fault(request: Request, error: Exception) -> Response:
    _log.error("fault", path=route_of(request.scope), error=type(error).__name__, where=where(error))
    return json_response(fault_problem(), 500)


def route_of(scope: Scope) -> str:
    """The route's template, never the path itself: a path can hold a key or an identifier."""
    return getattr(scope.get("route"), "path", "") or "unrouted"


# --- keys -----------------------------------------------------------------------------------------------------


def presented(authorization: bytes) -> str:
    """The key in an Authorization header: Bearer, or the user of Basic (the colon may be missing); "" for none."""
    scheme, _, value = authorization.strip().partition(b" ")
    value = value.strip()
    if scheme.lower() == b"bearer":
        return value.decode("latin-1")
    if scheme.lower() != b"basic":
        return ""
    try:
        return base64.b64decode(value).partition(b":")[0].decode("latin-1")
    except (binascii.Error, ValueError):
        return ""


class Auth:
    """Dependencies that give a route the caller's key, or answer 401/403.

    `access` returns the access as read last (`feed.access`).
    """

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    def needs(self, scope: str) -> Callable[..., Awaitable[Key]]:
        """A FastAPI dependency: the Key of the caller, which has `scope` (see `access.SCOPES`)."""

        async def dependency(
            request: Request,
            _documented: HTTPAuthorizationCredentials | None = Depends(_bearer),  # noqa: B008
        ) -> Key:
            text = presented(request.headers.get("authorization", "").encode("latin-1"))
            found = self._access().key(text) if text else None
            if found is None:
                raise NotAllowed("send a secret key as `Authorization: Bearer rk_s_...`; it is missing or unknown")
            return found.require(scope)

        return dependency

    def needs_house(self) -> Callable[..., Awaitable[Key]]:
        """As `needs(ADMIN)`, for what concerns every workspace: the key must be of the one that was made first."""

        async def dependency(key: Key = Depends(self.needs(ADMIN))) -> Key:  # noqa: B008
            if key.workspace != self._access().first_workspace:
                raise MissingScope("this concerns the whole house: an administrator of its first workspace may do it")
            return key

        return dependency


_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="A key made by POST /v1/keys")


# --- bounds and last resort -----------------------------------------------------------------------------------


class Guarded:
    """Around FastAPI: bodies bounded, security headers on every answer, faults answered as JSON."""

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._app(scope, self._bounded(receive), answer.send)
        except asyncio.CancelledError:  # only a server that ends does this, when it waits no longer
            if answer.started:
                raise
            cut = Retryable("the service is stopping and did not finish this; try again")
            await json_response(problem_of(cut), status_of(cut), headers_of(cut))(scope, receive, answer.send)
        except Exception as error:
            if answer.started and not answer.complete:
                raise  # the connection must break: half an answer was sent
            if not answer.started:
                _log.error("fault", path=route_of(scope), error=type(error).__name__, where=where(error))
                await json_response(fault_problem(), 500)(scope, receive, answer.send)

    def _bounded(self, receive: Receive) -> Receive:
        left = self._body_bytes_max

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body is over {self._body_bytes_max} bytes", {"connection": "close"})
            return message

        return bounded


class _Answer:
    """Follows one answer: adds security headers, knows whether it started and ended."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", ()))
            has_policy = any(name == STRICT_POLICY[0] for name, _ in headers)
            message = {**message, "headers": headers + SECURITY_HEADERS + ([] if has_policy else [STRICT_POLICY])}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)


# --- probes ---------------------------------------------------------------------------------------------------


def _add_probes(app: FastAPI, telemetry: Telemetry, life: Life, ready: Callable[[], Awaitable[Checks]]) -> None:
    @app.get("/livez", tags=["operation"], summary="Is the process alive?")
    async def livez() -> Response:
        return json_response({"alive": True})

    @app.get("/readyz", tags=["operation"], summary="Can it do its work now? 503 when a check fails.")
    async def readyz() -> Response:
        checks: dict[str, Mapping[str, Any]] = {"running": {"ok": not life.stopping}, **await ready()}
        is_ready = all(check["ok"] for check in checks.values())
        return json_response({"ready": is_ready, "checks": checks}, 200 if is_ready else 503)

    @app.get("/metrics", tags=["operation"], summary="Metrics in Prometheus' text format.")
    async def metrics() -> Response:
        return Response(telemetry.render(), media_type=None, headers={"content-type": telemetry.content_type})
