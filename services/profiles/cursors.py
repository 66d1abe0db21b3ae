"""Where the pages of profiles end: a cursor for each list. Pure."""

from shared.cursors import Bytes, Cursor, Int32, Int64, Text


class CustomerCursor(Cursor, frozen=True, array_like=True, tag="c"):
    """`order`: sort and direction · `value`: of the sort column · `first_seen_at`: orders who spent the same."""

    order: Text
    value: Int64
    first_seen_at: Int64
    customer: Bytes


class TimelineCursor(Cursor, frozen=True, array_like=True, tag="t"):
    """The key of a touchpoint behind its time."""

    occurred_at: Int64
    id: Bytes
    scope: Bytes
    day: Int32


class FailedCursor(Cursor, frozen=True, array_like=True, tag="f"):
    """`id` of a failed item, or b"" and the place of a parked one. Failed ones come before parked ones of the time."""

    at: Int64
    id: Bytes = b""
    topic: Text = ""
    partition: Int32 = 0
    position: Int64 = 0
    place: Int32 = 0


class FactsCursor(Cursor, frozen=True, array_like=True, tag="n"):
    """The key of the last touchpoint listed, and the number after it."""

    occurred_at: Int64
    id: Bytes
    scope: Bytes
    day: Int32
    total: Int64 = 0

    @property
    def order(self) -> tuple[int, bytes, bytes, int]:
        """Its place in the order of time."""
        return self.occurred_at, self.id, self.scope, self.day
