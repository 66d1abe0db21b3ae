"""REST of profiles: customers, their timelines and identifiers, links, and what failed. One workspace: the key's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import reading
from services.profiles.cursors import CustomerCursor, TimelineCursor
from services.profiles.domain.decided import PPM
from services.profiles.domain.past import PRESENT, Cut
from services.profiles.domain.personal import IDENTIFIER
from services.profiles.linking import Linking
from services.profiles.opening import Leaves
from services.profiles.past import members_then, told_then
from services.profiles.questions import AsOf, CustomerId, KnownAt, Limit, Next, cut_of, leaf_asked
from services.profiles.reading import Kept, Whole, Window, Wish
from services.profiles.showing import (
    customer_view,
    identifiers_shown,
    listed,
    text_field,
    touchpoint_shown,
)
from services.profiles.showing_past import customer_then
from services.profiles.wire import (
    CustomerPage,
    CustomerView,
    Identifiers,
    IdentifierShown,
    TieAccepted,
    TieWanted,
    TimelinePage,
)
from shared.access import ACT, READ, Key
from shared.clock import Clock
from shared.cursors import cursor_of, text_of
from shared.database import Database
from shared.epoch import epoch_ms
from shared.errors import InvalidField, NotFound
from shared.httpd import Auth
from shared.ids import leaf_text
from shared.vocabulary import CHANNELS, KINDS

INT64 = 2**63 - 1

Stage = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="decided stage")]
Money = Annotated[int | None, Query(ge=-INT64, le=INT64, description="net spend in minor units, at least")]
Risk = Annotated[float | None, Query(ge=0, le=1, description="decided risk, at least")]
Words = Annotated[list[Annotated[str, Field(max_length=64)]], Query(max_length=20)]
Instant = datetime | None
Identifier = Annotated[
    str | None,
    Query(max_length=600, description="kind:value; answers that one customer", examples=["email:sara@example.com"]),
]


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers questions about customers from the database."""

    database: Database
    clock: Clock
    leaves: Leaves

    async def view(self, workspace: str, asked: bytes, cut: Cut = PRESENT) -> CustomerView:
        """A customer by any of its leaves, as of then where `cut` says so. Raises NotFound."""
        if not cut.is_present:
            return await self._past(workspace, asked, cut)
        async with self.database.snapshot() as connection:
            whole = await _whole(connection, workspace, asked)
            kept = await reading.personal(connection, workspace, whole.leaves)
            identifiers = await _explained(connection, workspace, whole, kept)
            decided = await reading.standing(connection, workspace, whole.customer)
            alerts = await reading.open_alerts(connection, workspace, whole.customer)
        return customer_view(whole, asked, decided, alerts, identifiers, kept, self.clock.now_ms())

    async def _past(self, workspace: str, asked: bytes, cut: Cut) -> CustomerView:
        async with self.database.snapshot() as connection:
            then = await told_then(connection, workspace, asked, cut)
        return customer_then(then, asked, cut, self.clock.now_ms())

    async def identifiers(self, workspace: str, asked: bytes) -> Identifiers:
        """The identifiers of a customer. Raises NotFound."""
        async with self.database.snapshot() as connection:
            whole = await _whole(connection, workspace, asked)
            kept = await reading.personal(connection, workspace, whole.leaves)
            shown = await _explained(connection, workspace, whole, kept)
        return Identifiers(customer_id=leaf_text(whole.customer), identifiers=shown)

    async def page(self, workspace: str, wish: Wish) -> CustomerPage:
        """A page of customers."""
        async with self.database.snapshot() as connection:
            rows = await reading.customers(connection, workspace, wish)
            roots = [row.customer for row in rows]
            told = await reading.fields(connection, workspace, roots, (IDENTIFIER,))
        items = [listed(row, told.get((row.customer, IDENTIFIER))) for row in rows]
        after = text_of(_cursor(wish, rows[-1])) if len(rows) == wish.limit else None
        return CustomerPage(items=items, next=after)

    async def timeline(self, workspace: str, asked: bytes, window: Window) -> TimelinePage:
        """A page of a timeline. Raises NotFound."""
        async with self.database.snapshot() as connection:
            whole = (await members_then(connection, workspace, asked, window.cut)).whole
            rows = await reading.timeline(connection, workspace, whole.leaves, window)
            owners, names = {row.leaf for row in rows}, {text_field(row.id) for row in rows}
            texts = await reading.fields(connection, workspace, owners, names)
        items = [touchpoint_shown(row, texts.get((row.leaf, text_field(row.id)))) for row in rows]
        after = None
        if len(rows) == window.limit:
            after = text_of(TimelineCursor(rows[-1].occurred_at, rows[-1].id, rows[-1].scope, rows[-1].day))
        return TimelinePage(customer_id=leaf_text(whole.customer), items=items, next=after)


async def _whole(connection: AsyncConnection, workspace: str, asked: bytes) -> Whole:
    root = await reading.root_of(connection, workspace, asked)
    if root is None:
        raise NotFound("no such customer")
    return await reading.whole(connection, workspace, root)


async def _explained(
    connection: AsyncConnection, workspace: str, whole: Whole, kept: Sequence[Kept]
) -> list[IdentifierShown]:
    said = await reading.edges(connection, workspace, whole.leaves)
    others = {leaf for one in said for leaf in one.pair} - whole.places.keys()
    places = {**whole.places, **await reading.places(connection, workspace, others)}
    return identifiers_shown(whole.leaves, kept, said, places)


def _cursor(wish: Wish, last: reading.Listed) -> CustomerCursor:
    value = {"last_seen": last.last_seen_at, "spend": last.spend_minor, "risk": last.risk_ppm or 0}[wish.sort]
    return CustomerCursor(_order(wish.sort, wish.descending), value, last.first_seen_at, last.customer)


def _order(sort: str, descending: bool) -> str:
    return f"{sort}:{'desc' if descending else 'asc'}"


# --- routes ----------------------------------------------------------------------------------------------------


def customer_routes(desk: Desk, auth: Auth) -> APIRouter:
    """Reading customers. Needs a secret key with the scope `read`."""
    router = APIRouter(prefix="/v1/customers", tags=["customers"])
    reader = Depends(auth.needs(READ))

    @router.get("", summary="List customers, or find one by an identifier.")
    async def find(
        key: Annotated[Key, reader],
        identifier: Identifier = None,
        as_of: AsOf = None,
        known_at: KnownAt = None,
        sort: Literal["last_seen", "spend", "risk"] = "last_seen",
        order: Literal["desc", "asc"] = "desc",
        stage: Stage = None,
        seen_after: Instant = None,
        seen_before: Instant = None,
        spend_min: Money = None,
        risk_min: Risk = None,
        limit: Limit = 50,
        next: Next = None,  # noqa: A002  # the parameter's name on the wire
    ) -> CustomerView | CustomerPage:
        cut = cut_of(as_of, known_at)
        if identifier is not None:
            return await desk.view(key.workspace, desk.leaves.of(key.workspace, identifier, "identifier")[0], cut)
        if not cut.is_present:
            raise InvalidField("identifier", "is needed with `as_of` or `known_at`: lists show the present")
        after = None if next is None else cursor_of(next, CustomerCursor)
        if after is not None and after.order != _order(sort, order == "desc"):
            raise InvalidField("next", "belongs to a list of another order")
        wish = Wish(
            sort=sort,
            descending=order == "desc",
            stage=stage,
            seen_after=_ms(seen_after),
            seen_before=_ms(seen_before),
            spend_min=spend_min,
            risk_min_ppm=None if risk_min is None else round(risk_min * PPM),
            after=after,
            limit=limit,
        )
        return await desk.page(key.workspace, wish)

    @router.get("/{customer_id}", summary="One customer: who, what happened, where they stand and why.")
    async def view(
        customer_id: CustomerId, key: Annotated[Key, reader], as_of: AsOf = None, known_at: KnownAt = None
    ) -> CustomerView:
        return await desk.view(key.workspace, leaf_asked(customer_id), cut_of(as_of, known_at))

    @router.get("/{customer_id}/identifiers", summary="All identifiers, each with its place in one sentence.")
    async def identifiers(customer_id: CustomerId, key: Annotated[Key, reader]) -> Identifiers:
        return await desk.identifiers(key.workspace, leaf_asked(customer_id))

    @router.get("/{customer_id}/timeline", summary="What happened, newest first.")
    async def timeline(
        customer_id: CustomerId,
        key: Annotated[Key, reader],
        kind: Words = [],  # noqa: B006  # FastAPI copies it
        channel: Words = [],  # noqa: B006
        since: Annotated[Instant, Query(alias="from")] = None,
        until: Annotated[Instant, Query(alias="to")] = None,
        as_of: AsOf = None,
        known_at: KnownAt = None,
        limit: Limit = 50,
        next: Next = None,  # noqa: A002
    ) -> TimelinePage:
        window = Window(
            kinds=_known(kind, KINDS, "kind"),
            channels=_known(channel, CHANNELS, "channel"),
            since=_ms(since),
            until=_ms(until),
            after=None if next is None else cursor_of(next, TimelineCursor),
            limit=limit,
            cut=cut_of(as_of, known_at),
        )
        return await desk.timeline(key.workspace, leaf_asked(customer_id), window)

    return router


def tie_routes(linking: Linking, auth: Auth) -> APIRouter:
    """Linking and unlinking. Needs a secret key with the scope `act`."""
    router = APIRouter(prefix="/v1/customers", tags=["links"])
    actor = Depends(auth.needs(ACT))

    @router.post("/link", status_code=202, summary="Say that two identifiers are one customer.")
    async def link(wanted: TieWanted, key: Annotated[Key, actor]) -> TieAccepted:
        return await linking.tie(key.workspace, "link", wanted)

    @router.post("/unlink", status_code=202, summary="Say that two identifiers are not tied; this stays.")
    async def unlink(wanted: TieWanted, key: Annotated[Key, actor]) -> TieAccepted:
        return await linking.tie(key.workspace, "unlink", wanted)

    return router


def _ms(at: datetime | None) -> int | None:
    return None if at is None else epoch_ms(at)


def _known(words: Sequence[str], vocabulary: Any, field: str) -> tuple[str, ...]:
    for word in words:
        if word not in vocabulary:
            near = get_close_matches(word, list(vocabulary), 1)
            raise InvalidField(field, f"there is no such {field}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return tuple(words)
