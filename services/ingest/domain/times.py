"""Times as clients write them, and the one rule that turns them into `occurred_at` (design §4)."""


def parse_time(value: object) -> int:
    """Epoch milliseconds of a client's time: ISO 8601 (any fraction, offset or none = UTC, one-digit months), RFC 2822,
    or a number of epoch seconds, milliseconds or microseconds, told apart by magnitude. Raises ValueError with a reason.
    """
    raise NotImplementedError
