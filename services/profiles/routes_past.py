"""REST of the past: what was decided and what decisions see, as of then. Needs a secret key with the scope `read`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends

from services.profiles.domain.past import Cut
from services.profiles.past import told_then
from services.profiles.questions import AsOf, CustomerId, KnownAt, cut_of, leaf_asked
from services.profiles.showing_past import past_shown
from services.profiles.wire_past import Past
from shared.access import READ, Key
from shared.database import Database
from shared.httpd import Auth


@dataclass(frozen=True, slots=True)
class PastDesk:
    """Answers questions about what was."""

    database: Database

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

    return router
