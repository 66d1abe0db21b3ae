"""REST of the past: what was decided and what decisions see, as of then. Needs a secret key with the scope `read`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from services.profiles.cursors import FactsCursor
from services.profiles.domain.past import Cut
from services.profiles.facts import Facts, Wish
from services.profiles.past import told_then
from services.profiles.questions import AsOf, CustomerId, KnownAt, Limit, Next, cut_of, leaf_asked
from services.profiles.showing_past import features_shown, past_shown, provenance_shown
from services.profiles.wire_past import Features, Past, Provenance
from shared.access import READ, Key
from shared.cursors import cursor_of
from shared.database import Database
from shared.httpd import Auth

FeatureName = Annotated[
    str, Field(max_length=200, description="as `/facts` lists them", examples=["orders.count", "money.EUR"])
]


@dataclass(frozen=True, slots=True)
class PastDesk:
    """Answers questions about what was."""

    database: Database
    facts: Facts

    async def past(self, workspace: str, asked: bytes, cut: Cut) -> Past:
        """What was decided about a customer, and the state decisions see. Raises NotFound, InvalidField."""
        async with self.database.snapshot() as connection:
            then = await told_then(connection, workspace, asked, cut)
        return past_shown(then, asked, cut)


def past_routes(desk: PastDesk, auth: Auth) -> APIRouter:
    """Reading the past of one customer."""
    router = APIRouter(prefix="/v1/customers", tags=["the past"])
    reader = Depends(auth.needs(READ))

    @router.get(
        "/{customer_id}/past",
        summary="What was decided by then, all alerts known then, and the state that decisions see.",
        description="Scoring asks this, with the caller's own key, to compute stage and risk anew: its "
        "`/v1/customers/{customer_id}/decision` takes the same parameters.",
    )
    async def past(
        customer_id: CustomerId, key: Annotated[Key, reader], as_of: AsOf = None, known_at: KnownAt = None
    ) -> Past:
        return await desk.past(key.workspace, leaf_asked(customer_id), cut_of(as_of, known_at))

    @router.get("/{customer_id}/facts", summary="Every number of the profile that can be asked where it comes from.")
    async def features(
        customer_id: CustomerId, key: Annotated[Key, reader], as_of: AsOf = None, known_at: KnownAt = None
    ) -> Features:
        cut = cut_of(as_of, known_at)
        return features_shown(*await desk.facts.names(key.workspace, leaf_asked(customer_id), cut))

    @router.get(
        "/{customer_id}/facts/{feature:path}",
        summary="From which touchpoints does this number come?",
        description="The touchpoints that made it, oldest first, each with what it added; over all pages they add up "
        "to the number shown. A second report of one order, call or ticket adds nothing and is not listed. 404 names "
        "the numbers this profile shows.",
    )
    async def provenance(
        customer_id: CustomerId,
        feature: FeatureName,
        key: Annotated[Key, reader],
        as_of: AsOf = None,
        known_at: KnownAt = None,
        limit: Limit = 50,
        next: Next = None,  # noqa: A002  # the parameter's name on the wire
    ) -> Provenance:
        cut, after = cut_of(as_of, known_at), None if next is None else cursor_of(next, FactsCursor)
        wish = Wish(feature, cut, limit, after)
        return provenance_shown(await desk.facts.page(key.workspace, leaf_asked(customer_id), wish), cut)

    return router
