"""Times at the door: every form clients write, and one rule that honours Segment and RudderStack."""

import pytest

from services.ingest.domain.admission import Arrival
from services.ingest.domain.times import parse_time, when
from shared.errors import InvalidField
from tests.support.door import ARRIVAL, NOW, native, refused, segment, taken

AT = 1_704_164_645_000  # 2024-01-02T03:04:05Z


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("2024-01-02T03:04:05Z", AT),
        ("2024-01-02T03:04:05.123456+00:00", AT + 123),
        ("2024-01-02T05:04:05.5+02:00", AT + 500),
        ("2024-01-01T22:04:05.1234567-05:00", AT + 123),
        ("2024-01-02T03:04:05", AT),
        ("2024-01-02 03:04:05", AT),
        ("2024-1-02T03:04:05.276Z", AT + 276),
        ("2024-1-2", AT - AT % 86_400_000),
        ("Tue, 02 Jan 2024 03:04:05 +0000", AT),
        ("Tue, 02 Jan 2024 03:04:05 GMT", AT),
        ("2 Jan 2024 04:04:05 +0100", AT),
        (1_704_164_645, AT),
        (1_704_164_645.25, AT + 250),
        (AT, AT),
        (AT * 1000 + 7, AT),
        ("1704164645", AT),
        ("1704164645.25", AT + 250),
        (str(AT), AT),
        (0, 0),
    ],
)
def test_every_form_a_client_writes(sent: object, expected: int) -> None:
    assert parse_time(sent) == expected


@pytest.mark.parametrize(
    "sent",
    ["", "soon", True, None, [], {}, float("nan"), float("inf"), 1e300, 10**17, "2024-13-01", "2024-02-30T00:00:00Z",
     "Tue, 02 Jan 2024 03:04:05 +0000 (sara@example.com)", "2024-01-02T03:04:05Z" + " " * 60, "12"],
)  # fmt: skip
def test_what_is_no_time_says_so(sent: object) -> None:
    with pytest.raises(ValueError, match=r"time|digits"):
        parse_time(sent)


def occurred(arrival: Arrival = ARRIVAL, **fields: object) -> int:
    item = {"event": "Seen", "anonymousId": "a-1", "messageId": "m-1", **fields}
    return taken(segment("track", item, arrival=arrival)).touchpoint.occurred_at


def test_the_skew_of_the_device_is_removed() -> None:
    """Segment: corrected = receivedAt - (sentAt - original)."""
    assert occurred(timestamp=NOW - 3_600_000, sentAt=NOW - 3_599_000) == NOW - 1_000
    assert occurred(originalTimestamp=NOW + 3_600_000, sentAt=NOW + 3_601_000) == NOW - 1_000
    assert occurred(Arrival(NOW, NOW - 60_000), timestamp=NOW - 61_000) == NOW - 1_000


def test_the_events_own_sent_at_beats_the_envelopes() -> None:
    assert occurred(Arrival(NOW, NOW - 60_000), timestamp=NOW - 5_000, sentAt=NOW - 4_000) == NOW - 1_000


def test_a_time_the_caller_set_on_purpose_is_kept() -> None:
    """RudderStack: timestamp beside originalTimestamp is the caller's own."""
    kept = occurred(timestamp="2020-01-01T00:00:00Z", originalTimestamp=NOW - 9_000, sentAt=NOW - 8_000)
    assert kept == 1_577_836_800_000


def test_without_sent_at_the_client_is_believed_and_without_a_time_the_door_is() -> None:
    assert occurred(timestamp=NOW - 77_000) == NOW - 77_000
    assert occurred() == NOW
    assert occurred(timestamp=None, originalTimestamp=None, sentAt=None) == NOW


@pytest.mark.parametrize(
    ("ahead_ms", "expected_ms"), [(0, 0), (600_000, 600_000), (600_001, 0), (86_400_000, 0), (-5_000, -5_000)]
)
def test_ahead_of_its_arrival_is_clamped_and_what_was_sent_is_kept(ahead_ms: int, expected_ms: int) -> None:
    touchpoint = taken(native({"kind": "logged_in", "user_id": "u", "occurred_at": NOW + ahead_ms})).touchpoint
    assert touchpoint.occurred_at == NOW + expected_ms
    assert touchpoint.client_at == str(NOW + ahead_ms)


def test_more_than_a_day_ahead_or_before_1970_is_refused() -> None:
    ahead = refused(native({"kind": "logged_in", "user_id": "u", "occurred_at": NOW + 86_400_001}))
    assert (ahead.path, ahead.code) == ("occurred_at", "time_in_future")
    old = refused(native({"kind": "logged_in", "user_id": "u", "occurred_at": "0001-01-01T00:00:00Z"}))
    assert (old.path, old.code) == ("occurred_at", "time_too_old")
    with pytest.raises(InvalidField, match="originalTimestamp"):
        when(ARRIVAL, original=("originalTimestamp", "soon"))


def test_a_broken_clock_that_says_when_it_sent_is_corrected() -> None:
    assert occurred(timestamp="1971-01-01T00:00:00Z", sentAt="1971-01-01T00:00:02Z") == NOW - 2_000


def test_the_dedup_day_is_the_day_as_sent() -> None:
    """Whatever the skew: a retry has another sentAt, and must meet the first copy."""
    item = {"event": "Seen", "anonymousId": "a-1", "messageId": "m-1", "timestamp": "2026-03-20T23:59:59.900Z"}
    days = {
        taken(segment("track", {**item, "sentAt": NOW - skew}, arrival=Arrival(NOW + skew))).touchpoint.day
        for skew in (0, 1_000, 50_000)
    }
    assert days == {1_773_964_800_000 // 86_400_000}
    assert taken(native({"kind": "logged_in", "user_id": "u", "id": "x"})).touchpoint.day == 0
