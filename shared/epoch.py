"""Instants as the house counts them: whole milliseconds since 1970 in UTC."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_OF_NO_ZONE = EPOCH.replace(tzinfo=None)
_MILLISECOND = timedelta(milliseconds=1)


def epoch_ms(at: datetime) -> int:
    """Epoch milliseconds, floored: what happened within a millisecond lies in it. A time without a zone is UTC."""
    return (at - (_EPOCH_OF_NO_ZONE if at.tzinfo is None else EPOCH)) // _MILLISECOND
