"""REST of scoring: alerts and words on them, decisions, definitions, and the stream. One workspace: the key's."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field

from services.scoring import reading
from services.scoring.acting import Publishing, Verdicts
from services.scoring.domain.alerts import OPEN
from services.scoring.domain.definitions import in_force
from services.scoring.domain.snapshot import Snapshot, snapshot_of
from services.scoring.domain.step import PPM
from services.scoring.domain.succession import armed_definition
from services.scoring.past import PastDesk, Question, customer_needed
from services.scoring.reading import AlertCursor, Wish
from services.scoring.resuming import TEXT_MAX, Vector, vector_of
from services.scoring.rulebook import Rulebook, built_in
from services.scoring.showing import alert_shown, decision_shown, definition_shown
from services.scoring.stream import EventStream, Streams
from services.scoring.tail import Tail, earliest, listener
from services.scoring.tail import Wish as Heard
from services.scoring.wire import (
    ALERT,
    CUSTOMER,
    AlertPage,
    AlertShown,
    DecisionShown,
    Definitions,
    DefinitionShown,
    NewDefinition,
    Verdict,
)
from services.scoring.wire_past import PastDecision
from shared import profile as profiles
from shared.access import ACT, ADMIN, READ, Key
from shared.clock import Clock
from shared.cursors import CURSOR_TEXT_MAX, cursor_of, text_of
from shared.database import Database
from shared.epoch import epoch_ms
from shared.errors import InvalidField, NotFound
from shared.httpd import Auth, Life
from shared.ids import leaf_from_text, leaf_text
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

PAGE_MAX = 200
TYPES = {"alerts": CHURN_ALERTS, "segments": SEGMENT_CHANGES}

AlertId = Annotated[str, Field(description="UUID of an alert", examples=[ALERT])]
CustomerId = Annotated[str, Field(description="a customer id", examples=[CUSTOMER])]
Customer = Annotated[str | None, Query(max_length=64, description="a customer id", examples=[CUSTOMER])]
State = Annotated[Literal["open", "recovered", "retracted", "expired", "judged"] | None, Query()]
Policy = Annotated[Literal["silence", "bad_experience"] | None, Query()]
Risk = Annotated[float | None, Query(ge=0, le=1, description="risk, at least")]
AsOf = Annotated[
    datetime | None,
    Query(description="only what had happened by then counts", examples=["2026-03-01T00:00:00Z"]),
]
KnownAt = Annotated[
    datetime | None,
    Query(description="only what was recorded by then counts, links too", examples=["2026-03-01T00:00:00Z"]),
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="items on a page")]
Next = Annotated[str | None, Query(max_length=CURSOR_TEXT_MAX, description="`next` of the page before")]


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers questions from the database."""

    database: Database
    clock: Clock
    rulebook: Rulebook

    async def page(self, workspace: str, wish: Wish) -> AlertPage:
        """A page of alerts."""
        async with self.database.snapshot() as connection:
            rows = await reading.alerts(connection, workspace, wish)
        after = text_of(AlertCursor(rows[-1].raised_at, rows[-1].id)) if len(rows) == wish.limit else None
        return AlertPage(items=[alert_shown(row) for row in rows], next=after)

    async def decision(self, workspace: str, asked: bytes) -> DecisionShown:
        """Where a customer stands. Raises NotFound."""
        async with self.database.snapshot() as connection:
            row = await reading.decision(connection, workspace, asked)
            if row is None:
                raise NotFound("no such customer")
            standing = [alert.id for alert in row.decision.alerts if alert.state == OPEN]
            alerts = await reading.alerts_by_id(connection, standing)
        rules = self.rulebook.rules(workspace)
        definition = armed_definition(row.decision, rules.definitions)
        snapshot = Snapshot(workspace)
        if row.state:
            trust_min = definition.pack.purchase_trust_min
            snapshot = snapshot_of(workspace, profiles.decode(row.state), rules.zone, trust_min)
        return decision_shown(row, asked, snapshot, definition, self.clock.now_ms(), alerts)

    def definitions(self, workspace: str) -> Definitions:
        """All versions, oldest first."""
        now = in_force(self.rulebook.definitions(workspace), self.clock.now_ms()).version
        shipped = self.rulebook.definitions(workspace)[0] is built_in()
        editions = self.rulebook.editions(workspace)
        return Definitions(items=[definition_shown(one, now, shipped and n == 0) for n, one in enumerate(editions)])


def alert_routes(desk: Desk, verdicts: Verdicts, past: PastDesk, auth: Auth) -> APIRouter:
    """Reading alerts (`read`) and having a word on them (`act`)."""
    router = APIRouter(prefix="/v1/alerts", tags=["alerts"])
    reader, actor = Depends(auth.needs(READ)), Depends(auth.needs(ACT))

    @router.get(
        "",
        summary="List alerts, newest raised first.",
        description="With `as_of` or `known_at`: the alerts of one `customer` as known then, by their last word.",
    )
    async def listed(
        request: Request,
        key: Annotated[Key, reader],
        state: State = None,
        policy: Policy = None,
        customer: Customer = None,
        raised_after: datetime | None = None,
        raised_before: datetime | None = None,
        risk_min: Risk = None,
        as_of: AsOf = None,
        known_at: KnownAt = None,
        limit: Limit = 50,
        next: Next = None,  # noqa: A002  # the parameter's name on the wire
    ) -> AlertPage:
        if as_of is not None or known_at is not None:
            who = customer_needed(None if customer is None else _customer(customer))
            return await past.alerts(_question(request, key, who, as_of, known_at), state, policy, limit)
        wish = Wish(
            limit=limit,
            state=state,
            policy=policy,
            customer=None if customer is None else _customer(customer),
            raised_after=_ms(raised_after),
            raised_before=_ms(raised_before),
            risk_min_ppm=None if risk_min is None else round(risk_min * PPM),
            after=None if next is None else cursor_of(next, AlertCursor),
        )
        return await desk.page(key.workspace, wish)

    @router.get("/{alert_id}", summary="One alert.")
    async def one(alert_id: AlertId, key: Annotated[Key, reader]) -> AlertShown:
        return alert_shown(await verdicts.find(key.workspace, _alert_id(alert_id)))

    @router.post("/{alert_id}/acknowledge", summary="Say that a person takes care of it.")
    async def acknowledge(alert_id: AlertId, key: Annotated[Key, actor]) -> AlertShown:
        return alert_shown(await verdicts.acknowledge(key.workspace, _alert_id(alert_id)))

    @router.post("/{alert_id}/judge", summary="Say whether it was right; closes it. 409 when it was said before.")
    async def judge(alert_id: AlertId, said: Verdict, key: Annotated[Key, actor]) -> AlertShown:
        return alert_shown(await verdicts.judge(key.workspace, _alert_id(alert_id), said.verdict))

    return router


def decision_routes(desk: Desk, past: PastDesk, auth: Auth) -> APIRouter:
    """Where customers stand. Needs the scope `read`."""
    router = APIRouter(prefix="/v1/customers", tags=["decisions"])
    reader = Depends(auth.needs(READ))

    @router.get(
        "/{customer_id}/decision",
        summary="Stage, risk now with its reasons, and what comes next.",
        description="With `as_of` or `known_at` the past instead: `decided` is what Raftar had said by then, "
        "`computed` what the rules of then say anew of what had happened.",
    )
    async def decision(
        customer_id: CustomerId,
        request: Request,
        key: Annotated[Key, reader],
        as_of: AsOf = None,
        known_at: KnownAt = None,
    ) -> DecisionShown | PastDecision:
        try:
            asked = leaf_from_text(customer_id)
        except ValueError:
            raise NotFound("no such customer") from None
        if as_of is not None or known_at is not None:
            return await past.decision(_question(request, key, asked, as_of, known_at))
        return await desk.decision(key.workspace, asked)

    return router


def definition_routes(desk: Desk, publishing: Publishing, auth: Auth) -> APIRouter:
    """Versions of rules and model: read them (`read`), publish the next one (`admin`)."""
    router = APIRouter(prefix="/v1/definitions", tags=["definitions"])
    reader, admin = Depends(auth.needs(READ)), Depends(auth.needs(ADMIN))

    @router.get("", summary="All versions, oldest first.")
    async def listed(key: Annotated[Key, reader]) -> Definitions:
        return desk.definitions(key.workspace)

    @router.post("", status_code=201, summary="Publish the next version. It raises nothing about the past.")
    async def publish(wanted: NewDefinition, key: Annotated[Key, admin]) -> DefinitionShown:
        at = None if wanted.effective_at is None else epoch_ms(wanted.effective_at)
        edition = await publishing.publish(key.workspace, wanted.rules, wanted.model, at)
        return definition_shown(edition, in_force=0, built_in=False)

    return router


@dataclass(frozen=True, slots=True)
class Streaming:
    """What a stream is made of. `live`: whether a key still opens what it did."""

    tail: Tail
    streams: Streams
    life: Life
    live: Callable[[Key], bool]
    kept_max: int
    stall_seconds: float

    async def open(self, key: Key, wish: Heard, event_id: str, from_start: bool) -> EventStream:
        """A stream from behind `event_id` on ("" = from now, or `from_start`). Raises InvalidField, Retryable."""
        self.streams.admit()
        await self.tail.started()
        resume: Vector | None = None
        strange: list[str] = []
        if event_id:
            resume, strange = vector_of(event_id, self.tail.identities, self.tail.partitions)
        elif from_start:
            resume = await earliest(self.tail, wish.topics)
        made = await listener(self.tail, wish, resume, strange, self.kept_max)
        return EventStream(made, self.life, self.streams, lambda: self.live(key), self.stall_seconds)


_STREAM_DOC = {
    200: {
        "description": "Server-sent events: `ready` first, then `churn_alert`, `segment_change`, `gap`; data is JSON",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def stream_routes(streaming: Streaming, auth: Auth) -> APIRouter:
    """The live stream. Needs the scope `read`."""
    router = APIRouter(prefix="/v1/alerts", tags=["alerts"])
    reader = Depends(auth.needs(READ))

    @router.get(
        "/stream",
        summary="Alerts and changes of segment as they are said, as server-sent events.",
        description="Every event's id is where to go on: send the last one as `Last-Event-ID` (browsers do so by "
        "themselves) or `last_event_id`, and nothing is missed or repeated. A `gap` event says what cannot be read "
        "any more. A comment comes at least every 5 s.",
        responses=_STREAM_DOC,  # type: ignore[arg-type]
        response_class=Response,
    )
    async def stream(
        key: Annotated[Key, reader],
        types: Annotated[str, Query(max_length=64, description="alerts, segments, or both with a comma")] = "alerts",
        customer: Customer = None,
        policy: Policy = None,
        start: Annotated[
            Literal["start", "end"], Query(alias="from", description="where to begin without an event id")
        ] = "end",
        last_event_id: Annotated[str, Query(max_length=TEXT_MAX, description="as the header, which goes first")] = "",
        header_id: Annotated[str, Header(alias="Last-Event-ID", max_length=TEXT_MAX)] = "",
    ) -> Response:
        told = "" if customer is None else leaf_text(_customer(customer))
        wish = Heard(key.workspace, _topics(types), told, policy or "")
        return await streaming.open(key, wish, header_id or last_event_id, start == "start")

    return router


def _question(
    request: Request, key: Key, customer: bytes, as_of: datetime | None, known_at: datetime | None
) -> Question:
    """A question about the past, asked on with the key it came with: nobody sees more than their own key shows."""
    return Question(key.workspace, request.headers["authorization"], customer, as_of, known_at)


def _topics(types: str) -> tuple[str, ...]:
    names = [name.strip() for name in types.split(",") if name.strip()]
    unknown = [name for name in names if name not in TYPES]
    if unknown or not names:
        raise InvalidField("types", f"are one or more of {', '.join(TYPES)}")
    return tuple(topic for name, topic in TYPES.items() if name in names)


def _customer(text: str) -> bytes:
    try:
        return leaf_from_text(text)
    except ValueError as error:
        raise InvalidField("customer", str(error)) from None


def _alert_id(text: str) -> bytes:
    """Whatever is no id is no alert either."""
    try:
        return UUID(text).bytes
    except ValueError:
        raise NotFound("no such alert") from None


def _ms(at: datetime | None) -> int | None:
    return None if at is None else epoch_ms(at)
