"""REST of replay: failed items, as `GET /v1/failed` of profiles shows them, are judged and taken in again."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from services.ingest.domain.terms import Refused, Result
from services.ingest.replaying import Again, Replaying
from services.ingest.wire import field_path
from shared.access import ADMIN, Key
from shared.httpd import Auth

ITEMS_MAX = 100
_EXAMPLE = "0190163d-8694-739b-aea5-966c26f8ad91"
_TRUST = {"public": 0, "provider": 1, "secret": 2}


class AgainWanted(BaseModel):
    """A failed item: the fields of `replay` as profiles show them, and the item, mended or as it was sent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "failed_id": _EXAMPLE,
                    "source": "website",
                    "trust": "secret",
                    "native": True,
                    "received_at": "2026-03-21T09:30:00Z",
                    "item": {"id": "pv-9f2c", "kind": "page_viewed", "user_id": "u-17"},
                    "edited": True,
                }
            ]
        },
    )

    failed_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    source: Annotated[str, Field(min_length=1, max_length=64)]
    trust: Literal["public", "provider", "secret"] = "public"
    native: bool
    received_at: datetime
    sent_at: datetime | None = None
    context: dict[str, Any] = Field(default_factory=dict, description="of the Segment batch it came in")
    item: Any = Field(description="the touchpoint or Segment call")
    edited: bool = Field(False, description="the item is not what was sent")


class ReplayWanted(BaseModel):
    """Items to take in again."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[AgainWanted], Field(min_length=1, max_length=ITEMS_MAX)]


class ReplayResult(BaseModel):
    """What became of one item. `refused`: it stays a failed event, for `reason`."""

    failed_id: str
    status: Literal["replayed", "refused"]
    code: str = ""
    field: str = ""
    reason: str = ""


class ReplayResults(BaseModel):
    """One result an item, in the order sent."""

    results: list[ReplayResult]


def replay_routes(replaying: Replaying, auth: Auth) -> APIRouter:
    """Needs the scope `admin`: whoever replays says in whose name."""
    router = APIRouter(tags=["failed"])
    admin = Depends(auth.needs(ADMIN))

    @router.post("/v1/replay", summary="Take failed items in again, as of the time they arrived.")
    async def replay(wanted: ReplayWanted, key: Annotated[Key, admin]) -> ReplayResults:
        results = await replaying.replay(key, [_again(item) for item in wanted.items])
        told = [_told(item.failed_id, result) for item, result in zip(wanted.items, results, strict=True)]
        return ReplayResults(results=told)

    return router


def _again(item: AgainWanted) -> Again:
    return Again(
        failed_id=bytes.fromhex(item.failed_id.replace("-", "")),
        source=item.source,
        trust=_TRUST[item.trust],
        native=item.native,
        received_at=_ms(item.received_at),
        sent_at=None if item.sent_at is None else _ms(item.sent_at),
        context=item.context,
        item=item.item,
        edited=item.edited,
    )


def _told(failed_id: str, result: Result) -> ReplayResult:
    if isinstance(result, Refused):
        path = field_path(result, None, "")
        return ReplayResult(failed_id=failed_id, status="refused", code=result.code, field=path, reason=result.reason)
    return ReplayResult(failed_id=failed_id, status="replayed")


def _ms(at: datetime) -> int:
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
