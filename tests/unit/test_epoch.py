"""One way to epoch milliseconds: as-of questions of every service cut at the same instant."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.epoch import EPOCH, epoch_ms


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2001-09-09T01:46:40.123+00:00", 1_000_000_000_123),
        ("2001-09-09T05:16:40.123+03:30", 1_000_000_000_123),
        ("2001-09-09T01:46:40.123", 1_000_000_000_123),  # without a zone: UTC
        ("2001-09-09T01:46:40.123999Z", 1_000_000_000_123),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_whole_milliseconds_that_have_begun(text: str, milliseconds: int) -> None:
    assert epoch_ms(datetime.fromisoformat(text)) == milliseconds


def test_the_ends_of_the_calendar_are_told_exactly() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert EPOCH + timedelta(milliseconds=epoch_ms(last)) == last.replace(microsecond=999_000)
