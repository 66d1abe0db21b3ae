"""What routes of customers are asked alike: who, as of when and as known when, which page."""

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import Field

from services.profiles.domain.past import Cut
from services.profiles.wire import CUSTOMER
from shared.cursors import CURSOR_TEXT_MAX
from shared.epoch import epoch_ms
from shared.errors import NotFound
from shared.ids import leaf_from_text

PAGE_MAX = 200

_WHEN = "RFC 3339, or epoch milliseconds"

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="items on a page")]
Next = Annotated[str | None, Query(max_length=CURSOR_TEXT_MAX, description="`next` of the page before")]
CustomerId = Annotated[str, Field(description="a customer id or any of its leaves", examples=[CUSTOMER])]
AsOf = Annotated[
    datetime | None,
    Query(description=f"only what had happened by then counts ({_WHEN})", examples=["2026-03-01T00:00:00Z"]),
]
KnownAt = Annotated[
    datetime | None,
    Query(description=f"only what was recorded by then counts, links too ({_WHEN})", examples=["2026-03-01T00:00:00Z"]),
]


def cut_of(as_of: datetime | None, known_at: datetime | None) -> Cut:
    """Where the past is cut."""
    return Cut(None if as_of is None else epoch_ms(as_of), None if known_at is None else epoch_ms(known_at))


def leaf_asked(text: str) -> bytes:
    """The leaf behind a customer id; whatever is no id is no customer either. Raises NotFound."""
    try:
        return leaf_from_text(text)
    except ValueError:
        raise NotFound("no such customer") from None
