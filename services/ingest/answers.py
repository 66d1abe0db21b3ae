"""What the event routes answer: JSON that real SDKs understand, with what browsers need to read it from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from starlette.types import Send

from services.ingest import wire
from services.ingest.domain.terms import Result
from services.ingest.gathering import Request
from services.ingest.pressure import TooBusy
from shared.errors import RaftarError, Stopped, TooLarge
from shared.httpd import fault_problem, headers_of, problem_of, status_of
from shared.serving import head_of
from shared.straight import Headers
from shared.telemetry import where

_log = structlog.get_logger("door")

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
JSON: Headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"), *CORS]
TAKEN = head_of(200, JSON)


@dataclass(slots=True)
class Answer:
    """An answer but for the headers that all have. `close`: the rest of the body may still be coming."""

    status: int
    body: bytes
    extra: Headers = field(default_factory=list)
    close: bool = False

    def head(self) -> bytes:
        """For `Whole.answer`."""
        return head_of(self.status, [*JSON, *self.extra])


def taken(request: Request, results: Sequence[Result]) -> bytes:
    """The body of a 200."""
    if request.native:
        return wire.native_answer(results, request.envelope.single)
    return wire.segment_answer(results)


def refusal(error: RaftarError) -> Answer:
    """What an error on purpose says to its caller."""
    if isinstance(error, Stopped):
        _log.error("the door cannot work", reason=str(error))
    extra = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    body = msgspec.json.encode(problem_of(error))
    return Answer(status_of(error), body, extra, isinstance(error, TooBusy | TooLarge))


def fault(route: str, error: Exception) -> Answer:
    """The last resort: an SDK must get JSON with CORS, and keep its batch."""
    _log.error("fault", route=route, error=type(error).__name__, where=where(error))
    return Answer(500, msgspec.json.encode(fault_problem()))


async def send_by_asgi(send: Send, answer: Answer) -> None:
    """Two messages, as ASGI has it."""
    headers = [*JSON, (b"content-length", b"%d" % len(answer.body)), *answer.extra]
    if answer.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
