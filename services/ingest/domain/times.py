"""Times as clients write them, and the one rule that turns them into `occurred_at` (design §4)."""

import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from services.ingest.domain.terms import Arrival
from shared.epoch import epoch_ms
from shared.errors import InvalidField
from shared.ids import DAY_MS

AHEAD_CLAMPED_MS = 10 * 60 * 1000
AHEAD_REFUSED_MS = 24 * 60 * 60 * 1000

_NUMBER = re.compile(r"-?\d{9,17}(\.\d{1,9})?", re.ASCII)
_LOOSE_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?=$|[T ])", re.ASCII)
_RFC_2822 = re.compile(
    r"([A-Z][a-z]{2}, ?)?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(:\d\d)? ([+-]\d{4}|UT|GMT|[ECMP][SD]T)", re.ASCII
)
_NOT_A_TIME = "not a time: send ISO 8601, such as 2026-03-21T09:30:00Z, or epoch milliseconds"
_TEXT_MAX = 64

_SECONDS_BELOW = 10**11  # the year 5138; in milliseconds the same number is March 1973
_MILLISECONDS_BELOW = 10**14
_MICROSECONDS_BELOW = 10**17


def parse_time(value: object) -> int:
    """Epoch milliseconds of a client's time.

    Takes ISO 8601 (`Z`, any offset or none = UTC, any fraction, one-digit months and days), RFC 2822, and epoch
    seconds, milliseconds or microseconds as number or digits, told apart by size. Raises ValueError with a reason.
    """
    if isinstance(value, str):
        return _text_ms(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_ms(value)
    raise ValueError("a time is text or a number")


def _text_ms(text: str) -> int:
    if len(text) > _TEXT_MAX:
        raise ValueError(f"a time has at most {_TEXT_MAX} characters")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _unusual_text_ms(text.strip())
    return epoch_ms(moment)


def _unusual_text_ms(text: str) -> int:
    """Everything `fromisoformat` does not take."""
    if _NUMBER.fullmatch(text):
        return _number_ms(float(text) if "." in text else int(text))
    loose = _LOOSE_DATE.match(text)
    try:
        if loose:
            year, month, day = loose.groups()
            return _text_ms(datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}{text[loose.end() :]}").isoformat())
        if _RFC_2822.fullmatch(text):  # the library's parser alone would also take comments, and with them names
            return _text_ms(parsedate_to_datetime(text).isoformat())
    except (ValueError, OverflowError) as error:
        raise ValueError(_NOT_A_TIME) from error
    raise ValueError(_NOT_A_TIME)


def _number_ms(number: float) -> int:
    size = abs(number)
    if size < _SECONDS_BELOW:
        return int(number * 1000)
    if size < _MILLISECONDS_BELOW:
        return int(number)
    if size < _MICROSECONDS_BELOW:
        return int(number // 1000)
    raise ValueError("no epoch time has this many digits: send seconds, milliseconds or microseconds")


class When(msgspec.Struct, frozen=True, gc=False):
    """`occurred_at`: corrected and clamped · `client_at`: as sent (None: none) · `day`: of that time, else 0."""

    occurred_at: int
    client_at: str | None
    day: int


def when(
    arrival: Arrival,
    *,
    original: tuple[str, Any] | None,
    kept: tuple[str, Any] | None = None,
    sent: tuple[str, Any] | None = None,
) -> When:
    """The time rule that honours Segment and RudderStack. Each argument is (path, value as sent).

    `kept`: a time the caller set on purpose, taken as it is · `original`: the client's clock when it happened; the skew
    `received_at - sent` is added to it where `sent` (else the request's `sent_at`) is known · neither: `received_at`.
    Up to 10 minutes ahead of `received_at` is believed, up to 24 hours is clamped to it. Raises InvalidField with the
    path for what cannot be read, lies further ahead, or before 1970.
    """
    received_at, sent_ms = arrival.received_at, arrival.sent_at
    stated = kept or original
    if stated is None:
        return When(received_at, None, 0)
    path, value = stated
    at_ms = stated_ms = read_time(path, value)
    if sent is not None:
        sent_ms = read_time(*sent)
    if kept is None and sent_ms is not None:
        at_ms += received_at - sent_ms
    if not 0 <= at_ms <= received_at + AHEAD_CLAMPED_MS:
        at_ms = _clamped(path, at_ms, received_at)
    return When(at_ms, value if type(value) is str else str(value), stated_ms // DAY_MS)


def read_time(path: str, value: object) -> int:
    """`parse_time`, with the field's path in its error (InvalidField, code `invalid_time`)."""
    try:
        return _text_ms(value) if type(value) is str else parse_time(value)
    except ValueError as error:
        raise InvalidField(path, str(error), "invalid_time") from error


def _clamped(path: str, at_ms: int, received_at: int) -> int:
    if at_ms < 0:
        raise InvalidField(path, "lies before 1970", "time_too_old")
    if at_ms - received_at <= AHEAD_REFUSED_MS:
        return received_at
    raise InvalidField(path, "lies more than 24 hours ahead of its arrival", "time_in_future")
