"""Times as every answer writes them: RFC 3339 in UTC with milliseconds, so that texts sort as times do."""

from datetime import datetime
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema


def moment_text(at: datetime) -> str:
    """A time in UTC as text, always of one width."""
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


Moment = Annotated[
    datetime,
    PlainSerializer(moment_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-03-01T09:30:00.000Z"]}),
]
"""A field of an answer that is an instant."""
