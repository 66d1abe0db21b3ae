"""REST of verify: customers of the key's workspace refolded from the log, a page at a time, and what drifted."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.profiles.auditing import random_leaf, random_place
from services.profiles.comparing import positions
from services.profiles.domain.drift import Drift
from services.profiles.opening import Leaves
from services.profiles.reading import root_of
from services.profiles.verifying import Lost, Verifier, a_root_near, roots_from
from services.profiles.wire import Id, Shown
from shared.access import ADMIN, Key
from shared.clock import Clock
from shared.errors import InvalidField, NotFound, OutOfRange
from shared.httpd import Auth
from shared.ids import leaf_from_text, leaf_text

PAGE_MAX = 200
PAGE_SECONDS = 3.0
"""A page ends after so long; what is left of it comes with the next."""
SHOWN_MAX = 500


class VerifyWanted(BaseModel):
    """Whom to verify: one customer, so many at random, or (neither) all in pages."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"sample": 20}]})

    customer: Annotated[str, Field(max_length=600)] | None = Field(
        None, description="a customer id, any of its leaves, or kind:value"
    )
    sample: int | None = Field(None, ge=1, le=PAGE_MAX, description="so many customers at random")
    after: Id | None = Field(None, description="`next` of the page before, when all are verified")
    limit: int = Field(100, ge=1, le=PAGE_MAX, description="customers on a page, when all are verified")
    log_records: int = Field(100, ge=0, le=1_000, description="records of the log, anywhere, that must be counted")

    @model_validator(mode="after")
    def _one_of(self) -> "VerifyWanted":
        if sum(one is not None for one in (self.customer, self.sample, self.after)) > 1:
            raise ValueError("customer, sample and after exclude each other")
        return self


class DriftShown(Shown):
    """One value that is stored otherwise than the log says."""

    customer_id: Id
    leaf: Id
    feature: str = Field(examples=["orders"])
    stored: Any
    refolded: Any


class LostShown(Shown):
    """A touchpoint the log holds and nobody counted."""

    leaf: Id
    partition: int
    position: int
    place: int = Field(description="its index in the record")


class VerifyShown(Shown):
    """What this page found."""

    customers: int
    touchpoints: int = Field(description="read from the log to refold them")
    unreadable: int = Field(description="touchpoints that are archived; their customers could not be verified")
    drifted: int = Field(description="customers of whom something drifted")
    drifts: list[DriftShown]
    log_touchpoints: int = Field(description="touchpoints of the log that were looked up")
    lost: list[LostShown]
    next: Id | None = Field(description="hand it back as `after`; null when all of them were verified")


@dataclass(frozen=True, slots=True)
class VerifyDesk:
    """Verifies customers of one workspace."""

    verifier: Verifier
    leaves: Leaves
    clock: Clock

    async def verify(self, workspace: str, wanted: VerifyWanted) -> VerifyShown:
        """Verify whom `wanted` names, as many as fit into a page. Raises NotFound, NotAccepting."""
        until = self.clock.monotonic() + PAGE_SECONDS
        shown = VerifyShown(
            customers=0, touchpoints=0, unreadable=0, drifted=0, drifts=[], log_touchpoints=0, lost=[], next=None
        )
        async for root, then in self._roots(workspace, wanted):
            verdict = await self.verifier.customer(root)
            shown.customers += 1
            shown.touchpoints += verdict.touchpoints
            shown.unreadable += verdict.unreadable
            shown.drifted += bool(verdict.drifts)
            shown.drifts += [_drift(one) for one in verdict.drifts][: SHOWN_MAX - len(shown.drifts)]
            shown.next = then
            if self.clock.monotonic() >= until:
                break
        if wanted.log_records and wanted.customer is None:
            await self._look(workspace, wanted.log_records, shown)
        return shown

    async def _roots(self, workspace: str, wanted: VerifyWanted) -> AsyncIterator[tuple[bytes, str | None]]:
        """Roots, each with what `next` is behind it."""
        if wanted.customer is not None:
            yield await self._root(workspace, wanted.customer), None
        elif wanted.sample is not None:
            for root in await self._sampled(workspace, wanted.sample):
                yield root, None
        else:
            async with self.verifier.database.snapshot() as connection:
                after = b"" if wanted.after is None else _leaf(wanted.after, "after")
                roots = await roots_from(connection, after, workspace, wanted.limit + 1)
            for number, root in enumerate(roots[: wanted.limit], 1):
                yield root, leaf_text(root) if number < len(roots) else None

    async def _root(self, workspace: str, text: str) -> bytes:
        leaf = self.leaves.of(workspace, text, "customer")[0] if ":" in text else _leaf(text, "customer")
        async with self.verifier.database.snapshot() as connection:
            root = await root_of(connection, workspace, leaf)
        if root is None:
            raise NotFound("no such customer")
        return root

    async def _sampled(self, workspace: str, count: int) -> Sequence[bytes]:
        found: set[bytes] = set()
        async with self.verifier.database.snapshot() as connection:
            for _ in range(count):
                root = await a_root_near(connection, random_leaf(self.clock), workspace)
                found |= {root} if root is not None else set()
        return sorted(found)

    async def _look(self, workspace: str, records: int, shown: VerifyShown) -> None:
        async with self.verifier.database.snapshot() as connection:
            folded = await positions(connection)
        partition, position = random_place(self.clock, folded)
        if partition is None:
            return
        try:
            found = await self.verifier.stretch(partition, max(0, position - records // 2), records)
        except OutOfRange:
            return  # archived
        shown.log_touchpoints = found.touchpoints
        shown.lost = [_lost(one) for one in found.lost if one.workspace == workspace]


def _drift(one: Drift) -> DriftShown:
    return DriftShown(
        customer_id=leaf_text(one.customer),
        leaf=leaf_text(one.leaf),
        feature=one.feature,
        stored=one.stored,
        refolded=one.refolded,
    )


def _lost(one: Lost) -> LostShown:
    partition, position, place = one.place
    return LostShown(leaf=leaf_text(one.leaf), partition=partition, position=position, place=place)


def _leaf(text: str, field: str) -> bytes:
    try:
        return leaf_from_text(text)
    except ValueError:
        raise InvalidField(field, "is neither kind:value nor an id of 32 hexadecimal digits") from None


def verify_routes(desk: VerifyDesk, auth: Auth) -> APIRouter:
    """Verifying. Needs a secret key with the scope `admin`."""
    router = APIRouter(prefix="/v1/verify", tags=["rebuild"])
    admin = Depends(auth.needs(ADMIN))

    @router.post("", summary="Refold customers from the log and say where what is stored differs.")
    async def verify(wanted: VerifyWanted, key: Annotated[Key, admin]) -> VerifyShown:
        return await desk.verify(key.workspace, wanted)

    return router
