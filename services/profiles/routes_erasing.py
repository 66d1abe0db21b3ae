"""REST of erasing: forget a customer, read the receipt, reinstate."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from services.profiles.erasing import NOT_YET, Erasing, Kept, LeafKept
from services.profiles.showing import moment
from services.profiles.wire import KIND_NAMES
from services.profiles.wire_erasing import (
    CUSTOMER,
    KeyState,
    LeafReceipt,
    Receipt,
    Reinstated,
    ReinstateWanted,
    SealedCopy,
)
from shared.access import ACT, READ, Key, SealingKey
from shared.definitions import DefinitionsFeed
from shared.errors import NotFound
from shared.httpd import Auth
from shared.ids import leaf_from_text, leaf_rank, leaf_text, uuid_text
from shared.moments import Moment

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ELSEWHERE = [
    "profile-changes keeps states for 30 days: counts, orders and money under ids, no personal value",
    "segment-changes and churn-alerts keep what was decided under ids for ever; their listeners were told to forget",
    "touchpoints-failed keeps refused items for 30 days, sealed: raftar failed list, and discard what is theirs",
    "back-ups, and PostgreSQL's write-ahead log and its archive, keep what they held until they expire",
]

CustomerId = Annotated[str, Field(description="a customer id or any of its leaves", examples=[CUSTOMER])]


@dataclass(frozen=True, slots=True)
class ErasingDesk:
    """Shows receipts, with what `definitions` say of the keys."""

    erasing: Erasing
    feed: DefinitionsFeed

    def shown(self, kept: Kept) -> Receipt:
        """A receipt for people."""
        erasure, leaves, done_at = kept.erasure, kept.leaves, kept.done_at
        state = "erased" if done_at != NOT_YET else "erasing" if leaves else "requested"
        erased = [leaf.erased_at for leaf in leaves if leaf.erased_at != NOT_YET]
        until = max(erased) if erased and state == "erased" else None
        return Receipt(
            id=uuid_text(erasure.id),
            customer_id=leaf_text(erasure.customer),
            state=state,
            requested_at=moment(erasure.requested_at),
            erased_at=_moment(done_at),
            personal_values=sum(leaf.personal_values for leaf in leaves),
            bodies=sum(leaf.bodies for leaf in leaves),
            leaves=[_leaf_shown(leaf) for leaf in leaves],
            freed_space_overwritten_at=_moment(erasure.scrubbed_at),
            sealed_copy=sealed_copy(self.feed.workspaces[erasure.workspace].sealing_keys, until),
            elsewhere=ELSEWHERE,
        )


def sealed_copy(keys: tuple[SealingKey, ...], until: int | None) -> SealedCopy:
    """Which keys may hold values sealed before `until` (epoch ms; None: up to now), and what to do about them."""
    used = [key for key in keys if until is None or key.since <= until]
    shown = [KeyState(name=key.name, state=_state(key), destroyed_at=_moment(key.destroyed_at)) for key in used]
    left = [key for key in used if key.destroyed_at is None]
    if not left:
        since = max((key.destroyed_at or 0 for key in used), default=0)
        return SealedCopy(readable=False, unreadable_since=_moment(since), keys=shown, next_step="")
    step = "raftar keys rotate" if left[-1].until is None else f"raftar keys destroy {left[0].name}"
    return SealedCopy(readable=True, unreadable_since=None, keys=shown, next_step=step)


def erasing_routes(desk: ErasingDesk, auth: Auth) -> APIRouter:
    """Erasing and reinstating need the scope `act`, receipts `read`."""
    router = APIRouter(tags=["erasing"])
    actor, reader = Depends(auth.needs(ACT)), Depends(auth.needs(READ))

    @router.delete(
        "/v1/customers/{customer_id}", status_code=202, summary="Forget a customer, everywhere and for good."
    )
    async def erase(customer_id: CustomerId, response: Response, key: Annotated[Key, actor]) -> Receipt:
        shown = desk.shown(await desk.erasing.erase(key.workspace, _leaf(customer_id)))
        response.headers["location"] = f"/v1/erasures/{shown.id}"
        return shown

    @router.post("/v1/customers/reinstate", status_code=202, summary="Track an erased identifier again, from nothing.")
    async def reinstate_identifier(wanted: ReinstateWanted, key: Annotated[Key, actor]) -> Reinstated:
        return _reinstated(await desk.erasing.reinstate_identifier(key.workspace, wanted.identifier))

    @router.post(
        "/v1/customers/{customer_id}/reinstate",
        status_code=202,
        summary="Track an erased customer again, with every identifier that was erased with this one.",
    )
    async def reinstate(customer_id: CustomerId, key: Annotated[Key, actor]) -> Reinstated:
        return _reinstated(await desk.erasing.reinstate(key.workspace, _leaf(customer_id)))

    @router.get("/v1/erasures", summary="The newest receipts.")
    async def receipts(
        key: Annotated[Key, reader], limit: Annotated[int, Query(ge=1, le=200, description="how many")] = 50
    ) -> list[Receipt]:
        return [desk.shown(kept) for kept in await desk.erasing.receipts(key.workspace, limit)]

    @router.get("/v1/erasures/{erasure_id}", summary="What an erasure has done so far, and what is left to do.")
    async def receipt(
        erasure_id: Annotated[str, Field(examples=["0190163d-8694-739b-aea5-966c26f8ad91"])],
        key: Annotated[Key, reader],
    ) -> Receipt:
        if not _ID.fullmatch(erasure_id):
            raise NotFound("no such erasure")
        identity = bytes.fromhex(erasure_id.replace("-", ""))
        return desk.shown(await desk.erasing.receipt(key.workspace, identity))

    return router


def _leaf_shown(leaf: LeafKept) -> LeafReceipt:
    return LeafReceipt(
        leaf=leaf_text(leaf.leaf),
        kind=KIND_NAMES[leaf_rank(leaf.leaf)],
        erased_at=_moment(leaf.erased_at),
        personal_values=leaf.personal_values,
        bodies=leaf.bodies,
        stages_forgotten_at=_moment(leaf.stages_at),
        stages=leaf.stages,
        alerts_forgotten_at=_moment(leaf.alerts_at),
        alerts=leaf.alerts,
    )


def _reinstated(leaves: list[bytes]) -> Reinstated:
    count = "1 identifier is" if len(leaves) == 1 else f"{len(leaves)} identifiers are"
    consequence = f"{count} tracked again, from nothing; the past does not come back."
    return Reinstated(leaves=[leaf_text(leaf) for leaf in leaves], consequence=consequence)


def _state(key: SealingKey) -> str:
    if key.destroyed_at is not None:
        return "destroyed"
    return "in_use" if key.until is None else "retired"


def _leaf(text: str) -> bytes:
    try:
        return leaf_from_text(text)
    except ValueError:
        raise NotFound("no such customer") from None


def _moment(at_ms: int | None) -> Moment | None:
    return None if at_ms is None or at_ms < 0 else moment(at_ms)
